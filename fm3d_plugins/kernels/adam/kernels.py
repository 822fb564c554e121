"""One step of Adam (Kingma and Ba 2015); `torch.optim.Adam` is the definition.

`factors` is (memory of the mean, memory of the square, learning rate over the mean's bias, one over
the root of the square's bias, eps), all float32.
"""

import math

import numpy as np

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.simd import (
    LANES,
    absolute,
    any_greater,
    load,
    pointer,
    square_root,
    store,
    take,
    where_greater_equal,
)

BLOCK = 1 << 14
"""Numbers handed to a thread at once."""

ZERO, ONE = np.float32(0.0), np.float32(1.0)


@kernel
def remember(gradient, mean, square, factors):
    """New moments, of one number or of a vector."""
    mean = (mean - gradient) * factors[0] + gradient
    return mean, square * factors[1] + (ONE - factors[1]) * gradient * gradient


@kernel
def moved(value, mean, root, factors):
    """The new value; `root` is that of the square."""
    return value - factors[2] * mean / (root * factors[3] + factors[4])


@kernel
def move_block(start, end, values, gradients, means, squares, factors):
    """Move some neighbours; nothing is written where neither gradient nor memory is there."""
    j = start
    while j + LANES <= end:
        gradient, mean, square = load(gradients, j), load(means, j), load(squares, j)
        # What is not a number is something, too.
        weight = absolute(gradient) + absolute(mean) + square
        if any_greater(where_greater_equal(ZERO, weight, ZERO, ONE), ZERO):
            mean, square = remember(gradient, mean, square, factors)
            store(means, j, mean)
            store(squares, j, square)
            store(values, j, moved(load(values, j), mean, square_root(square), factors))
        j += LANES
    for k in range(j, end):
        means[k], squares[k] = remember(gradients[k], means[k], squares[k], factors)
        values[k] = moved(values[k], means[k], math.sqrt(squares[k]), factors)


@kernel
def move(counter, num_blocks, values, gradients, means, squares, factors):
    """Move all numbers by their gradients."""
    num_numbers = np.int64(values.size)
    data = pointer(values), pointer(gradients), pointer(means), pointer(squares)
    while True:
        block = take(counter)
        if block >= num_blocks:
            break
        start, end = block * BLOCK, min(num_numbers, (block + 1) * BLOCK)
        move_block(start, end, data[0], data[1], data[2], data[3], factors)
