"""Products of a point's couplings, as vectors, for the innermost loop of the elimination.

As in `kernels.simd`: a loop of six that the compiler may vectorise or not becomes one that it must.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic

_DOUBLE = ir.DoubleType()
_WORD = ir.IntType(64)


def _splat(builder, scalar, kind):
    first = builder.insert_element(
        ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, first, zeros)


def take_product(height: int, width: int) -> Callable[..., Any]:
    """A function for kernels that takes aᵀ b from a block of `height` x `width` numbers.

    The function `take(out, stride, a, b)` subtracts from out[j stride + k] the sum over q < 3 of
    a[q height + j] b[q width + k]. All are pointers to float64, and the stride is in elements.
    """
    row_kind = ir.VectorType(_DOUBLE, width)

    def generate(context, builder, signature_, values):
        out, stride, a, b = values
        fma = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(row_kind, [row_kind] * 3),
            f"llvm.fmuladd.v{width}f64",
        )
        at = lambda pointer, index: builder.gep(pointer, [ir.Constant(_WORD, index)])  # noqa: E731
        as_row = lambda pointer: builder.bitcast(pointer, row_kind.as_pointer())  # noqa: E731
        rows = [builder.load(as_row(at(b, width * q)), align=8) for q in range(3)]
        for j in range(height):
            place = as_row(builder.gep(out, [builder.mul(ir.Constant(_WORD, j), stride)]))
            total = builder.load(place, align=8)
            for q in range(3):
                factor = builder.fneg(builder.load(at(a, height * q + j)))
                total = builder.call(fma, [_splat(builder, factor, row_kind), rows[q], total])
            builder.store(total, place, align=8)
        return context.get_dummy_value()

    def take(context, out, stride, a, b):
        return types.void(out, types.intp, a, b), generate

    return numba_intrinsic(take)
