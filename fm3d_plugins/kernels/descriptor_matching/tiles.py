"""Inner products of 8-bit descriptors, four by sixteen at a time, and the largest of each so far.

As in `kernels.simd`, the generated code is the code that was written. x86 multiplies unsigned by
signed 8-bit numbers and adds two products in one instruction, four times as many per cycle as
float32 ones, but in 16 bits. With `OFFSET` taken from one side, sums of four stay within these for
nearly all descriptors; for the others there are products of 16-bit numbers.
"""

from llvmlite import ir
from numba.core import cgutils, types

from fm3d_plugins.kernels.simd import intrinsic

ROWS, COLUMNS = 4, 16

LENGTH = 128
"""Of a descriptor."""

OFFSET = 85
"""Taken from the numbers of one side, so that they are signed."""

MOST_IN_FOUR = (2**15 - 1) // OFFSET
"""Sum of four numbers of the other side that are multiplied and added in 16 bits."""

_WORD = ir.IntType(64)
_INT = ir.IntType(32)
_INTS = ir.VectorType(_INT, COLUMNS)
_FLOAT = ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, COLUMNS)


def _constant(value):
    return ir.Constant(_INTS, [value] * COLUMNS)


def _splat(builder, scalar):
    kind = ir.VectorType(scalar.type, COLUMNS)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, first, _constant(0))


def _vector_at(builder, address, index, kind=_INTS):
    """The 16 numbers from element `index` after a pointer."""
    place = builder.gep(address, [index])
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=4)


def _features(context) -> str:
    return context.codegen().magic_tuple()[2]


def _instruction(context, builder, operation, bits, x, y):
    """An operation on numbers of some bits, with results twice as wide, on vectors of int32.

    Args:
        operation: Its name in LLVM with 256 bits, and with 512.
    """
    lanes, name = (16, operation[1]) if "+avx512bw" in _features(context) else (8, operation[0])
    number = lambda size: ir.VectorType(ir.IntType(size), 32 * lanes // size)  # noqa: E731
    kind = ir.FunctionType(number(2 * bits), [number(bits)] * 2)
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    parts = []
    for start in range(0, COLUMNS, lanes):
        chosen = ir.Constant(number(32), list(range(start, start + lanes)))
        ends = [builder.bitcast(builder.shuffle_vector(v, v, chosen), number(bits)) for v in (x, y)]
        parts.append(builder.bitcast(builder.call(function, ends), number(32)))
    if len(parts) == 1:
        return parts[0]
    return builder.shuffle_vector(*parts, ir.Constant(_INTS, list(range(COLUMNS))))


_PAIRS_OF_BYTES = ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx512.pmaddubs.w.512")
_PAIRS_OF_SHORTS = ("llvm.x86.avx2.pmadd.wd", "llvm.x86.avx512.pmaddw.d.512")


def _add_wide(context, builder, sums, rows, panel):
    """Add the products of 16-bit numbers, two to an int32."""
    words = LENGTH // 2
    with cgutils.for_range(builder, ir.Constant(_WORD, words)) as loop:
        start = builder.mul(loop.index, ir.Constant(_WORD, COLUMNS))
        others = _vector_at(builder, panel, start)
        for i, total in enumerate(sums):
            index = builder.add(loop.index, ir.Constant(_WORD, words * i))
            own = _splat(builder, builder.load(builder.gep(rows, [index])))
            if "+avx2" in _features(context):
                found = _instruction(context, builder, _PAIRS_OF_SHORTS, 16, own, others)
            else:
                half = _constant(16)
                low = [builder.ashr(builder.shl(each, half), half) for each in (own, others)]
                high = [builder.ashr(each, half) for each in (own, others)]
                found = builder.add(builder.mul(*low), builder.mul(*high))
            builder.store(builder.add(builder.load(total), found), total)


def _add_narrow(context, builder, sums, rows, panel):
    """Add the products of 8-bit numbers, four to an int32, eight in a step."""
    if "+avx512vnni" in _features(context):
        _add_fours(builder, sums, rows, panel)
        return
    words, shorts = LENGTH // 4, ir.VectorType(ir.IntType(16), 2 * COLUMNS)
    ones = _constant(0x00010001)
    with cgutils.for_range(builder, ir.Constant(_WORD, words // 2)) as loop:
        first = builder.mul(loop.index, ir.Constant(_WORD, 2))
        places = [builder.add(first, ir.Constant(_WORD, k)) for k in range(2)]
        others = [
            _vector_at(builder, panel, builder.mul(place, ir.Constant(_WORD, COLUMNS)))
            for place in places
        ]
        for i, total in enumerate(sums):
            found = []
            for place, other in zip(places, others, strict=True):
                index = builder.add(place, ir.Constant(_WORD, words * i))
                own = _splat(builder, builder.load(builder.gep(rows, [index])))
                both = _instruction(context, builder, _PAIRS_OF_BYTES, 8, own, other)
                found.append(builder.bitcast(both, shorts))
            fours = builder.bitcast(builder.add(*found), _INTS)
            added = _instruction(context, builder, _PAIRS_OF_SHORTS, 16, fours, ones)
            builder.store(builder.add(builder.load(total), added), total)


def _add_fours(builder, sums, rows, panel):
    """The same on processors that add four products to an int32 in one instruction."""
    words = LENGTH // 4
    kind = ir.FunctionType(_INTS, [_INTS] * 3)
    instruction = cgutils.get_or_insert_function(
        builder.module, kind, "llvm.x86.avx512.vpdpbusd.512"
    )
    with cgutils.for_range(builder, ir.Constant(_WORD, words)) as loop:
        others = _vector_at(builder, panel, builder.mul(loop.index, ir.Constant(_WORD, COLUMNS)))
        for i, total in enumerate(sums):
            index = builder.add(loop.index, ir.Constant(_WORD, words * i))
            own = _splat(builder, builder.load(builder.gep(rows, [index])))
            added = builder.call(instruction, [builder.load(total), own, others])
            builder.store(added, total)


def _forget_far(builder, sums, lines, places, band):
    """Set products to zero where a column's place is off a row's line by more than the band."""
    call = lambda name, *values: builder.call(  # noqa: E731
        cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * len(values)), name
        ),
        values,
    )
    x, y = (_vector_at(builder, places, ir.Constant(_WORD, COLUMNS * k), _FLOATS) for k in range(2))
    for i, total in enumerate(sums):
        a, b, c = (
            _splat(builder, builder.load(builder.gep(lines, [ir.Constant(_WORD, 3 * i + k)])))
            for k in range(3)
        )
        inner = call("llvm.fmuladd.v16f32", b, y, c)
        off = call("llvm.fabs.v16f32", call("llvm.fmuladd.v16f32", a, x, inner))
        is_near = builder.fcmp_ordered("<=", off, _splat(builder, band))
        builder.store(builder.select(is_near, builder.load(total), _constant(0)), total)


def _note(builder, state, totals, number):
    """Note products among the largest and second largest, and whose the largest is.

    Args:
        state: Pointer to three vectors.
        number: Larger than those noted before.
    """
    places = [
        builder.bitcast(builder.gep(state, [ir.Constant(_WORD, COLUMNS * k)]), _INTS.as_pointer())
        for k in range(3)
    ]
    best, second, chosen = (builder.load(place, align=4) for place in places)
    is_better = builder.icmp_signed(">", totals, best)
    beaten = builder.select(is_better, best, totals)
    is_second = builder.icmp_signed(">", beaten, second)
    builder.store(builder.select(is_better, totals, best), places[0], align=4)
    builder.store(builder.select(is_second, beaten, second), places[1], align=4)
    # A select alone would become a masked store, which AMD's processors are slow at.
    candidate = builder.select(is_better, _splat(builder, number), _constant(-1))
    is_newer = builder.icmp_signed(">", candidate, chosen)
    builder.store(builder.select(is_newer, candidate, chosen), places[2], align=4)


@intrinsic
def has_narrow_products(typing_context):
    """Whether this processor multiplies 8-bit numbers as `match_narrow` wants it."""

    def generate(context, builder, signature_, values):
        return ir.Constant(ir.IntType(1), int("+avx2" in _features(context)))

    return types.boolean(), generate


def _match_tile(add_products):
    """An intrinsic that compares 4 descriptors with 16, and notes the largest products.

    Its pointers are to int32 where nothing else is said; its arguments are

    * rows: 4 descriptors, as many numbers to a word as are multiplied at once,
    * panel: 16 of the other photo, the first word of all, the second, ...
    * added: 4 numbers that each row's products lack,
    * lines: 4 x 3 float32, a x + b y + c of each row, (a, b) of unit length,
    * places: 2 x 16 float32: x of all columns, then y,
    * band: float32: columns that are farther from a row's line do not count for it; all do, and
      lines and places are not asked for, where it is negative,
    * row_states: 4 x 3 x 16: for 16 parts of the other photo the largest and the second largest
      product of each row with one of it, and the panel of the largest,
    * column_state: 3 x 16: likewise of each column, and the row of the largest,
    * row, number: of the first row, and of the panel.
    """

    def tile(
        typing_context, rows, panel, added, lines, places, band, row_states, column_state, row,
        number,
    ):  # fmt: skip
        def generate(context, builder, signature_, values):
            rows_at, panel_at, added_at, lines_at, places_at, width = values[:6]
            states, column, row_number, panel_number = values[6:]
            sums = [cgutils.alloca_once(builder, _INTS) for _ in range(ROWS)]
            for i, total in enumerate(sums):
                start = builder.load(builder.gep(added_at, [ir.Constant(_WORD, i)]))
                builder.store(_splat(builder, start), total)
            if add_products is _add_wide or "+avx2" in _features(context):
                add_products(context, builder, sums, rows_at, panel_at)
            is_banded = builder.fcmp_ordered(">=", width, ir.Constant(_FLOAT, 0.0))
            with builder.if_then(is_banded):
                _forget_far(builder, sums, lines_at, places_at, width)
            panel_number = builder.trunc(panel_number, _INT)
            for i, total in enumerate(sums):
                state = builder.gep(states, [ir.Constant(_WORD, 3 * COLUMNS * i)])
                totals = builder.load(total)
                _note(builder, state, totals, panel_number)
                own_number = builder.add(row_number, ir.Constant(_WORD, i))
                _note(builder, column, totals, builder.trunc(own_number, _INT))
            return context.get_dummy_value()

        word = types.intp
        near = (lines, places, types.float32)
        return types.void(rows, panel, added, *near, row_states, column_state, word, word), generate

    return intrinsic(tile)


match_wide = _match_tile(_add_wide)
"""With words of two 16-bit numbers."""

match_narrow = _match_tile(_add_narrow)
"""With words of four 8-bit numbers, those of the panel `OFFSET` less."""
