"""Layers of small perceptrons over the samples of a ray, and their gradients.

A matrix is a pointer to its rows. The number of rows (samples) is a multiple of 16.
"""

import numpy as np

from fm3d_plugins.kernels.compiled import inlined_kernel, kernel
from fm3d_plugins.kernels.simd import LANES, load, offset, splat, store, where_greater
from fm3d_plugins.kernels.simd_tiles import matrix_tile

ZERO = np.float32(0.0)
WIDE = 4 * LANES

wide_tile = matrix_tile(4, 4)
narrow_tile = matrix_tile(8, 1)


@kernel
def multiply_wide(out, x, x_stride, weights, depth, num_rows, accumulate):
    """out[rows, 64] = x[rows, depth] @ weights[depth, 64], or added to it."""
    for row in range(0, num_rows, 4):
        wide_tile(
            offset(out, row * WIDE), WIDE, offset(x, row * x_stride), x_stride, 1,
            weights, WIDE, depth, accumulate,
        )  # fmt: skip


@kernel
def multiply_narrow(out, columns, x, x_stride, weights, depth, num_rows):
    """out[rows, columns] = x[rows, depth] @ weights[depth, columns], columns a multiple of 16."""
    for column in range(0, columns, LANES):
        for row in range(0, num_rows, 8):
            narrow_tile(
                offset(out, row * columns + column), columns,
                offset(x, row * x_stride), x_stride, 1,
                offset(weights, column), columns, depth, False,
            )  # fmt: skip


@kernel
def add_outer_wide(d_weights, x, depth, gradients, num_rows):
    """d_weights[depth, 64] += x[rows, depth]^T @ gradients[rows, 64]."""
    for k in range(0, depth, 4):
        wide_tile(
            offset(d_weights, k * WIDE), WIDE, offset(x, k), 1, depth,
            gradients, WIDE, num_rows, True,
        )  # fmt: skip


@kernel
def add_outer_narrow(d_weights, x, depth, gradients, num_rows):
    """d_weights[depth, 16] += x[rows, depth]^T @ gradients[rows, 16]."""
    for k in range(0, depth, 8):
        narrow_tile(
            offset(d_weights, k * LANES), LANES, offset(x, k), 1, depth,
            gradients, LANES, num_rows, True,
        )  # fmt: skip


@inlined_kernel
def rectify(values, count):
    """relu in place."""
    for i in range(0, count, LANES):
        value = load(values, i)
        store(values, i, where_greater(value, ZERO, value, ZERO))


@inlined_kernel
def mask_gradient(gradients, values, count):
    """Gradient before a relu whose results are `values`, in place."""
    for i in range(0, count, LANES):
        store(gradients, i, where_greater(load(values, i), ZERO, load(gradients, i), ZERO))


@inlined_kernel
def repeat_row(out, row, num_rows):
    """Every row of out[rows, 64] becomes `row`."""
    first, second, third, fourth = (
        load(row, 0), load(row, LANES), load(row, 2 * LANES), load(row, 3 * LANES)
    )  # fmt: skip
    for i in range(num_rows):
        p = offset(out, i * WIDE)
        store(p, 0, first)
        store(p, LANES, second)
        store(p, 2 * LANES, third)
        store(p, 3 * LANES, fourth)


@inlined_kernel
def sum_rows(out, gradients, num_rows):
    """out[64] = sum of the rows of gradients[rows, 64]."""
    for column in range(0, WIDE, LANES):
        total = splat(ZERO)
        for i in range(num_rows):
            total = total + load(gradients, i * WIDE + column)
        store(out, column, total)
