"""Explicit 16-lane float32 vectors for Numba kernels.

Why not leave it to the compiler: LLVM vectorises a loop only when it can prove a dozen things about
it, and when it cannot (a signed index, a branch, a short trip count) it silently emits scalar code
that is ten times slower. Here a vector is a value of its own type, so the generated code is the
code that was written: one instruction per operation with AVX-512, two or four elsewhere.

Arguments called `x`, `y`, ... below are vectors or float32 scalars; a scalar stands for 16 copies.
Imported by kernel modules only, which are themselves imported on the first call of a backend.
"""

import inspect
import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import lower_builtin, models, register_model

LANES = 16

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_FLOATS = ir.VectorType(_FLOAT, LANES)
_INTS = ir.VectorType(_INT, LANES)
_EXPONENT_SHIFT = 23
_SMALLEST_EXPONENT = -126.0
# Added to a small float, it leaves the nearest integer in the low bits of the mantissa.
_ROUNDING_MAGIC = 12582912.0
# 2^f for |f| <= 1/2 by degree, minimax fit of the relative error: below 7.5e-8, one float32 ulp.
_EXP2_COEFFICIENTS = (
    1.0000000716520008,
    0.6931469669820567,
    0.24022119732535963,
    0.055507134085883765,
    0.009675540985150166,
    0.0013276428319398785,
)


def intrinsic(function):
    """`numba.extending.intrinsic` of the function without its type-checking wrappers."""
    return numba_intrinsic(inspect.unwrap(function))


class VectorType(types.Type):
    """Numba's type of a vector of 16 float32."""

    def __init__(self):
        super().__init__(name="float32x16")


float32x16 = VectorType()


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """A vector is held in registers as LLVM's <16 x float>."""

    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _FLOATS)


def _constant(value):
    return ir.Constant(_FLOATS, [ir.Constant(_FLOAT, value)] * LANES)


def _as_vector(builder, value):
    if value.type == _FLOATS:
        return value
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, first, ir.Constant(_INTS, [0] * LANES))


def _call(builder, name, *vectors):
    """Call the LLVM intrinsic of that name for vectors."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(vectors))
    full_name = f"{name}.v{LANES}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, full_name), vectors)


def _elementwise(emit, num_arguments):
    """An intrinsic that applies `emit(builder, *vectors)` to vectors or scalars."""

    def generate(context, builder, signature_, values):
        return emit(builder, *[_as_vector(builder, value) for value in values])

    def sign(arguments):
        return float32x16(*arguments), generate

    if num_arguments == 1:
        return numba_intrinsic(lambda context, x: sign((x,)))
    if num_arguments == 2:
        return numba_intrinsic(lambda context, x, y: sign((x, y)))
    if num_arguments == 3:
        return numba_intrinsic(lambda context, x, y, z: sign((x, y, z)))
    return numba_intrinsic(lambda context, x, y, z, w: sign((x, y, z, w)))


def _multiply_add(builder, x, y, z):
    return _call(builder, "llvm.fmuladd", x, y, z)


def _polynomial(builder, coefficients, x):
    value = _constant(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = _multiply_add(builder, value, x, _constant(coefficient))
    return value


def _exp2(builder, x):
    # Below, the exponent's bits would wrap round to a huge power.
    x = _call(builder, "llvm.maxnum", x, _constant(_SMALLEST_EXPONENT))
    shifted = builder.fadd(x, _constant(_ROUNDING_MAGIC))
    fraction = builder.fsub(x, builder.fsub(shifted, _constant(_ROUNDING_MAGIC)))
    power = _polynomial(builder, _EXP2_COEFFICIENTS, fraction)
    shift = ir.Constant(_INTS, [_EXPONENT_SHIFT] * LANES)
    exponent = builder.shl(builder.bitcast(shifted, _INTS), shift)
    return builder.bitcast(builder.add(builder.bitcast(power, _INTS), exponent), _FLOATS)


def _exp2_avx512(builder, x):
    """The same value above 2^-126; one instruction each rounds and scales by a power of two."""
    rounded = _call(builder, "llvm.roundeven", x)
    power = _polynomial(builder, _EXP2_COEFFICIENTS, builder.fsub(x, rounded))
    mask, mode = ir.IntType(16), ir.Constant(_INT, 4)
    kind = ir.FunctionType(_FLOATS, [_FLOATS, _FLOATS, _FLOATS, mask, _INT])
    scale = cgutils.get_or_insert_function(
        builder.module, kind, "llvm.x86.avx512.mask.scalef.ps.512"
    )
    return builder.call(scale, [power, rounded, power, ir.Constant(mask, -1), mode])


@intrinsic
def exp2(typing_context, x):
    """2^x to 1e-7 for -126 <= x <= 126; at most 2^-126 below; any value, but no trap, above."""

    def generate(context, builder, signature_, values):
        has_avx512 = "+avx512f" in context.codegen().magic_tuple()[2]
        return (_exp2_avx512 if has_avx512 else _exp2)(builder, _as_vector(builder, values[0]))

    return float32x16(x), generate


def _select(comparison):
    def emit(builder, x, y, if_true, if_false):
        return builder.select(builder.fcmp_ordered(comparison, x, y), if_true, if_false)

    return emit


fma = _elementwise(_multiply_add, 3)
"""x y + z, with one rounding where the processor can."""

absolute = _elementwise(lambda builder, x: _call(builder, "llvm.fabs", x), 1)
square_root = _elementwise(lambda builder, x: _call(builder, "llvm.sqrt", x), 1)
floor = _elementwise(lambda builder, x: _call(builder, "llvm.floor", x), 1)
minimum = _elementwise(lambda builder, x, y: _call(builder, "llvm.minnum", x, y), 2)
negative_magnitude = _elementwise(
    lambda builder, x: builder.fneg(_call(builder, "llvm.fabs", x)), 1
)
splat = _elementwise(lambda builder, x: x, 1)
"""16 copies of a scalar."""

where_greater = _elementwise(_select(">"), 4)
"""z where x > y, otherwise w."""

where_greater_equal = _elementwise(_select(">="), 4)
"""z where x >= y, otherwise w."""


def _register_operator(symbol, emit):
    pairs = [(float32x16, float32x16), (float32x16, types.float32), (types.float32, float32x16)]

    class Template(ConcreteTemplate):
        cases = [signature(float32x16, *pair) for pair in pairs]

    infer_global(symbol)(Template)

    def generate(context, builder, signature_, values):
        return emit(builder, *[_as_vector(builder, value) for value in values])

    for pair in pairs:
        lower_builtin(symbol, *pair)(generate)


_register_operator(operator.add, lambda builder, x, y: builder.fadd(x, y))
_register_operator(operator.sub, lambda builder, x, y: builder.fsub(x, y))
_register_operator(operator.mul, lambda builder, x, y: builder.fmul(x, y))
_register_operator(operator.truediv, lambda builder, x, y: builder.fdiv(x, y))


@infer_global(operator.neg)
class _Negation(ConcreteTemplate):
    """Typing of -x."""

    cases = [signature(float32x16, float32x16)]


@lower_builtin(operator.neg, float32x16)
def _negate(context, builder, signature_, values):
    return builder.fneg(values[0])


@intrinsic
def lane_numbers(typing_context):
    """The vector 0, 1, ..., 15."""

    def generate(context, builder, signature_, values):
        return ir.Constant(_FLOATS, [ir.Constant(_FLOAT, float(lane)) for lane in range(LANES)])

    return float32x16(), generate


@intrinsic
def pointer(typing_context, array):
    """Address of a contiguous array's first element: `p[i]` reads and writes flat element i.

    Neither checked nor reference-counted, and negative indices do not wrap around: for inner loops.
    Numba frees a local array after its last mention, so one that is reached by pointer only must be
    mentioned in `keep_alive` after the loop.
    """

    def generate(context, builder, signature_, values):
        return context.make_array(signature_.args[0])(context, builder, values[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def keep_alive(typing_context, array):
    """Does nothing, to an array that must not have been freed before."""

    def generate(context, builder, signature_, values):
        return context.get_dummy_value()

    return types.void(array), generate


@intrinsic
def aligned(typing_context, address):
    """The first multiple of 64 bytes not before a pointer: no vector straddles two cache lines."""

    def generate(context, builder, signature_, values):
        word = ir.IntType(64)
        number = builder.ptrtoint(values[0], word)
        number = builder.add(number, ir.Constant(word, 4 * LANES - 1))
        number = builder.and_(number, ir.Constant(word, -4 * LANES))
        return builder.inttoptr(number, values[0].type)

    return address(address), generate


@intrinsic
def offset(typing_context, address, count):
    """The pointer `count` elements further on."""

    def generate(context, builder, signature_, values):
        return builder.gep(values[0], [values[1]])

    return address(address, types.intp), generate


@intrinsic
def prefetch(typing_context, address, index):
    """Ask for the cache line of element `index` after a pointer, which need not exist."""

    def generate(context, builder, signature_, values):
        byte = ir.IntType(8).as_pointer()
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
        )
        place = builder.bitcast(builder.gep(values[0], [values[1]]), byte)
        builder.call(function, [place, *(ir.Constant(_INT, flag) for flag in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(address, types.intp), generate


def _vector_address(builder, address, index):
    return builder.bitcast(builder.gep(address, [index]), _FLOATS.as_pointer())


@intrinsic
def load(typing_context, address, index):
    """The 16 float32 from element `index` after a pointer."""

    def generate(context, builder, signature_, values):
        return builder.load(_vector_address(builder, *values), align=4)

    return float32x16(address, types.intp), generate


@intrinsic
def gather(typing_context, address, index):
    """The 16 float32 at elements index[0], index[1], ... after a pointer.

    The index is a vector of whole numbers from 0 to 2^24, which float32 holds exactly.
    """

    def generate(context, builder, signature_, values):
        elements = builder.fptosi(values[1], _INTS)
        found = ir.Constant(_FLOATS, ir.Undefined)
        for lane in range(LANES):
            at = ir.Constant(_INT, lane)
            number = builder.load(builder.gep(values[0], [builder.extract_element(elements, at)]))
            found = builder.insert_element(found, number, at)
        return found

    return float32x16(address, index), generate


@intrinsic
def store(typing_context, address, index, vector):
    """Write a vector from element `index` after a pointer."""

    def generate(context, builder, signature_, values):
        builder.store(values[2], _vector_address(builder, *values[:2]), align=4)
        return context.get_dummy_value()

    return types.void(address, types.intp, float32x16), generate


def _fold(builder, first, second, width):
    """Halve every group of `width` lanes by adding its halves; first's groups, then second's."""
    half = width // 2
    low = [start + lane for start in range(0, 2 * LANES, width) for lane in range(half)]
    high = [lane + half for lane in low]
    lows, highs = (
        builder.shuffle_vector(first, second, ir.Constant(_INTS, lanes)) for lanes in (low, high)
    )
    return builder.fadd(lows, highs)


@intrinsic
def lane_sums(typing_context, vectors):
    """A vector whose lane i is the sum of the 16 lanes of vectors[i]; zero beyond their number."""

    def generate(context, builder, signature_, values):
        level = [builder.extract_value(values[0], i) for i in range(len(vectors))]
        width = LANES
        while width > 1:
            if len(level) % 2:
                level.append(_constant(0.0))
            level = [_fold(builder, *level[i : i + 2], width) for i in range(0, len(level), 2)]
            width //= 2
        return level[0]

    return float32x16(vectors), generate


@intrinsic
def lane_minimum(typing_context, x):
    """The least of the 16 lanes."""

    def generate(context, builder, signature_, values):
        least, width = values[0], LANES
        while width > 1:
            width //= 2
            lanes = [(lane + width) % LANES for lane in range(LANES)]
            other = builder.shuffle_vector(least, least, ir.Constant(_INTS, lanes))
            least = _call(builder, "llvm.minnum", least, other)
        return builder.extract_element(least, ir.Constant(_INT, 0))

    return types.float32(x), generate


@intrinsic
def store_first_12(typing_context, address, index, vector):
    """Write lanes 0 to 11 of a vector from element `index` after a pointer."""

    def generate(context, builder, signature_, values):
        start = builder.gep(values[0], [values[1]])
        for first, count in ((0, 8), (8, 4)):
            lanes = ir.Constant(ir.VectorType(_INT, count), list(range(first, first + count)))
            part = builder.shuffle_vector(values[2], values[2], lanes)
            target = builder.gep(start, [ir.Constant(ir.IntType(64), first)])
            builder.store(part, builder.bitcast(target, part.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(address, types.intp, float32x16), generate


@intrinsic
def any_greater(typing_context, x, y):
    """Whether x > y in any lane."""

    def generate(context, builder, signature_, values):
        mask = builder.fcmp_ordered(">", *[_as_vector(builder, value) for value in values])
        bits = builder.bitcast(mask, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(x, y), generate


@intrinsic
def take(typing_context, counter):
    """Atomically fetch and add one to counter[0], an int64: the next item for this thread."""

    def generate(context, builder, signature_, values):
        struct = context.make_array(signature_.args[0])(context, builder, values[0])
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", struct.data, one, "monotonic")

    return types.int64(counter), generate
