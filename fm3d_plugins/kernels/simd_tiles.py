"""Small matrix products and vectors of four, for Numba kernels of grids and perceptrons.

As in `simd`, a value of a vector type is one that the compiler keeps in registers, so the generated
code is the code that was written. Imported by kernel modules only.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model

from fm3d_plugins.kernels.simd import LANES, intrinsic

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_WORD = ir.IntType(64)
_FLOATS = ir.VectorType(_FLOAT, LANES)
_QUAD = ir.VectorType(_FLOAT, 4)


class QuadType(types.Type):
    """Numba's type of a vector of 4 float32."""

    def __init__(self):
        super().__init__(name="float32x4")


float32x4 = QuadType()


@register_model(QuadType)
class QuadModel(models.PrimitiveModel):
    """A vector is held in a register as LLVM's <4 x float>."""

    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _QUAD)


def _splat(builder, scalar, kind):
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_INT, 0))
    zeros = ir.Constant(ir.VectorType(_INT, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, first, zeros)


def _multiply_add(builder, x, y, z):
    kind = ir.FunctionType(x.type, [x.type] * 3)
    name = f"llvm.fmuladd.v{x.type.count}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), (x, y, z))


def _address(builder, pointer, index, kind):
    return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())


@intrinsic
def load4(typing_context, address, index):
    """The 4 float32 from element `index` after a pointer."""

    def generate(context, builder, signature_, values):
        return builder.load(_address(builder, *values, _QUAD), align=4)

    return float32x4(address, types.intp), generate


@intrinsic
def store4(typing_context, address, index, quad):
    """Write 4 float32 from element `index` after a pointer."""

    def generate(context, builder, signature_, values):
        builder.store(values[2], _address(builder, *values[:2], _QUAD), align=4)
        return context.get_dummy_value()

    return types.void(address, types.intp, float32x4), generate


@intrinsic
def scale4(typing_context, scalar, quad):
    """scalar * quad."""

    def generate(context, builder, signature_, values):
        return builder.fmul(_splat(builder, values[0], _QUAD), values[1])

    return float32x4(types.float32, float32x4), generate


@intrinsic
def fma4(typing_context, scalar, quad, addend):
    """scalar * quad + addend."""

    def generate(context, builder, signature_, values):
        return _multiply_add(builder, _splat(builder, values[0], _QUAD), values[1], values[2])

    return float32x4(types.float32, float32x4, float32x4), generate


@intrinsic
def subtract4(typing_context, quad, other):
    """quad - other."""

    def generate(context, builder, signature_, values):
        return builder.fsub(values[0], values[1])

    return float32x4(float32x4, float32x4), generate


@intrinsic
def dot4(typing_context, quad, other):
    """The inner product of two quads, a float32."""

    def generate(context, builder, signature_, values):
        product = builder.fmul(values[0], values[1])
        lanes = [builder.extract_element(product, ir.Constant(_INT, i)) for i in range(4)]
        return builder.fadd(builder.fadd(*lanes[:2]), builder.fadd(*lanes[2:]))

    return types.float32(float32x4, float32x4), generate


def _tile_places(builder, out, out_stride, rows, vectors):
    """Addresses of the tile's vectors in memory, row by row."""
    starts = [
        builder.gep(out, [builder.mul(ir.Constant(_WORD, i), out_stride)]) for i in range(rows)
    ]
    columns = [ir.Constant(_WORD, LANES * v) for v in range(vectors)]
    return [_address(builder, start, column, _FLOATS) for start in starts for column in columns]


def _start_sums(builder, places, accumulate):
    """One sum per place, from what is there or from zero; the compiler makes registers of them."""
    sums = [cgutils.alloca_once(builder, _FLOATS) for _ in places]
    with builder.if_else(accumulate) as (then, otherwise):
        with then:
            for place, total in zip(places, sums, strict=True):
                builder.store(builder.load(place, align=4), total)
        with otherwise:
            for total in sums:
                builder.store(ir.Constant(_FLOATS, [0.0] * LANES), total)
    return sums


def matrix_tile(rows: int, vectors: int) -> Callable[..., Any]:
    """A function for kernels that computes `rows` x 16 `vectors` numbers of a matrix product.

    The function `tile(out, out_stride, x, x_row, x_step, w, w_step, depth, accumulate)` sets, or
    if `accumulate` adds to, out[i out_stride + j] the sum over k < depth of
    x[i x_row + k x_step] w[k w_step + j]. All are pointers to float32 and distances in elements,
    so that with x_row = 1 and x_step the row length, x is read transposed. The tile stays in
    registers: with AVX-512 there are 32, and two products per cycle need at least 8 independent
    sums.
    """

    def generate(context, builder, signature_, values):
        out, out_stride, x, x_row, x_step, w, w_step, depth, accumulate = values
        places = _tile_places(builder, out, out_stride, rows, vectors)
        sums = _start_sums(builder, places, accumulate)
        x_rows = [builder.gep(x, [builder.mul(ir.Constant(_WORD, i), x_row)]) for i in range(rows)]
        with cgutils.for_range(builder, depth) as loop:
            w_at = builder.gep(w, [builder.mul(loop.index, w_step)])
            columns = [
                builder.load(place, align=4)
                for place in _tile_places(builder, w_at, ir.Constant(_WORD, 0), 1, vectors)
            ]
            x_at = builder.mul(loop.index, x_step)
            for i in range(rows):
                factor = _splat(builder, builder.load(builder.gep(x_rows[i], [x_at])), _FLOATS)
                for v in range(vectors):
                    total = sums[i * vectors + v]
                    value = _multiply_add(builder, factor, columns[v], builder.load(total))
                    builder.store(value, total)
        for place, total in zip(places, sums, strict=True):
            builder.store(builder.load(total), place, align=4)
        return context.get_dummy_value()

    def tile(context, out, out_stride, x, x_row, x_step, w, w_step, depth, accumulate):
        word = types.intp
        arguments = (out, word, x, word, word, w, word, word, types.boolean)
        return types.void(*arguments), generate

    return numba_intrinsic(tile)
