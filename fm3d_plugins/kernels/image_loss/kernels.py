"""L1 + SSIM and its gradient in two passes over the rows of the image.

Images stay interleaved: a row of W pixels is 3 W numbers, and the horizontal window steps by 3.
SSIM needs four windowed means only: of x, of y, of x y and of x^2 + y^2.
"""

import numpy as np

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.image_loss.torch_reference import (
    STABILITY_MEAN,
    STABILITY_VARIANCE,
    WINDOW_SIZE,
)
from fm3d_plugins.kernels.simd import (
    LANES,
    absolute,
    fma,
    keep_alive,
    lane_numbers,
    lane_sums,
    load,
    pointer,
    splat,
    store,
    take,
    where_greater,
)

CHANNELS = 3
REACH = CHANNELS * (WINDOW_SIZE - 1)
"""Numbers from the first to the last tap of the horizontal window."""

NUM_MEANS = 4
NUM_GRADIENTS = 3
"""Gradient maps with respect to the means of x, of x y and of x^2 + y^2."""

ZERO, ONE, TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
C1, C2 = np.float32(STABILITY_MEAN), np.float32(STABILITY_VARIANCE)


@kernel
def padded(length):
    """Room for a row with a window's reach and one vector on either side."""
    return length + 2 * (REACH + LANES)


@kernel
def vertical_means(x, y, first, length, window, rows, stride):
    """Windowed column means of the image rows that start at element `first`, into four rows."""
    j = np.int64(0)
    while True:
        mean_x, mean_y, mean_xy, mean_squares = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
        for k in range(WINDOW_SIZE):
            a, b = load(x, first + k * length + j), load(y, first + k * length + j)
            weight = window[k]
            mean_x, mean_y = fma(a, weight, mean_x), fma(b, weight, mean_y)
            mean_xy = fma(a * b, weight, mean_xy)
            mean_squares = fma(fma(a, a, b * b), weight, mean_squares)
        store(rows, j, mean_x)
        store(rows, stride + j, mean_y)
        store(rows, 2 * stride + j, mean_xy)
        store(rows, 3 * stride + j, mean_squares)
        if j >= length - LANES:
            break
        # The last vector overlaps its predecessor and repeats some of its work.
        j = min(j + LANES, length - LANES)


@kernel
def horizontal_sum(row, j, window):
    """Sum over k of window[k] row[j + 3 k], for 16 neighbouring j."""
    total = splat(ZERO)
    for k in range(WINDOW_SIZE):
        total = fma(load(row, j + CHANNELS * k), window[k], total)
    return total


@kernel
def similarity(mean_x, mean_y, mean_xy, mean_squares):
    """SSIM and its derivatives by the means of x, of x y and of x^2 + y^2."""
    both, squares = mean_x * mean_y, fma(mean_x, mean_x, mean_y * mean_y)
    luminance = TWO * both + C1
    structure = TWO * (mean_xy - both) + C2
    luminance_inverse = ONE / (squares + C1)
    structure_inverse = ONE / (mean_squares - squares + C2)
    inverse = luminance_inverse * structure_inverse
    value = luminance * structure * inverse
    d_mean = TWO * mean_y * (structure - luminance) * inverse
    d_mean = d_mean + TWO * mean_x * value * (structure_inverse - luminance_inverse)
    return value, d_mean, TWO * luminance * inverse, ZERO - value * structure_inverse


@kernel
def similarity_row(means, stride, num_valid, window, gradients):
    """Sum of SSIM over a row of windows; its gradient maps, from REACH on, into three rows."""
    total = splat(ZERO)
    for j in range(0, num_valid, LANES):
        value, d_x, d_xy, d_squares = similarity(
            horizontal_sum(means, j, window),
            horizontal_sum(means, stride + j, window),
            horizontal_sum(means, 2 * stride + j, window),
            horizontal_sum(means, 3 * stride + j, window),
        )
        left = np.float32(num_valid - j)
        lanes = lane_numbers()
        total = total + where_greater(left, lanes, value, ZERO)
        store(gradients, REACH + j, where_greater(left, lanes, d_x, ZERO))
        store(gradients, stride + REACH + j, where_greater(left, lanes, d_xy, ZERO))
        store(gradients, 2 * stride + REACH + j, where_greater(left, lanes, d_squares, ZERO))
    return total


@kernel
def spread_row(gradients, stride, length, window, target, start):
    """Transpose of the horizontal window: three rows as long as the image's."""
    for m in range(NUM_GRADIENTS):
        j = np.int64(0)
        while True:
            # Element j reaches windows j - 3 k, stored from REACH on; the window is symmetric.
            total = horizontal_sum(gradients, m * stride + j, window)
            store(target, start + m * length + j, total)
            if j >= length - LANES:
                break
            j = min(j + LANES, length - LANES)


@kernel
def compare(counter, num_rows, x, y, window, needs_gradient, sums, spread):
    """Per row of windows: the sum of SSIM, and its gradient spread over the row's pixels."""
    length = x.shape[1] * CHANNELS
    num_valid = length - REACH
    stride = padded(length)
    means_array = np.zeros(NUM_MEANS * stride, np.float32)
    gradients_array = np.zeros(NUM_GRADIENTS * stride, np.float32)
    lanes_array = np.empty(LANES, np.float32)
    means, gradients, lanes = pointer(means_array), pointer(gradients_array), pointer(lanes_array)
    x_data, y_data, weights, target = pointer(x), pointer(y), pointer(window), pointer(spread)
    while True:
        row = take(counter)
        if row >= num_rows:
            break
        vertical_means(x_data, y_data, row * length, length, weights, means, stride)
        total = similarity_row(means, stride, num_valid, weights, gradients)
        store(lanes, 0, lane_sums((total,)))
        sums[row] = lanes_array[0]
        if needs_gradient:
            spread_row(gradients, stride, length, weights, target, row * NUM_GRADIENTS * length)
    keep_alive(means_array)
    keep_alive(gradients_array)
    keep_alive(lanes_array)


@kernel
def pull_back(counter, num_rows, x, y, window, l1_factor, ssim_factor, spread, sums, gradient):
    """Per row of pixels: the sum of |x - y| and, unless it has no elements, the gradient."""
    length = x.shape[1] * CHANNELS
    num_windows = num_rows - WINDOW_SIZE + 1
    lanes_array = np.empty(LANES, np.float32)
    lanes = pointer(lanes_array)
    x_data, y_data, weights = pointer(x), pointer(y), pointer(window)
    spread_data, target = pointer(spread), pointer(gradient)
    while True:
        row = take(counter)
        if row >= num_rows:
            break
        total = splat(ZERO)
        j = np.int64(0)
        done = ZERO
        while True:
            p = row * length + j
            a, b = load(x_data, p), load(y_data, p)
            difference = a - b
            total = total + where_greater(done, lane_numbers(), ZERO, absolute(difference))
            if gradient.size > 0:
                d_x, d_xy, d_squares = splat(ZERO), splat(ZERO), splat(ZERO)
                for k in range(max(0, row - num_windows + 1), min(WINDOW_SIZE, row + 1)):
                    q = (row - k) * NUM_GRADIENTS * length + j
                    d_x = fma(load(spread_data, q), weights[k], d_x)
                    d_xy = fma(load(spread_data, q + length), weights[k], d_xy)
                    d_squares = fma(load(spread_data, q + 2 * length), weights[k], d_squares)
                d_ssim = fma(d_xy, b, fma(d_squares, TWO * a, d_x))
                falling = where_greater(ZERO, difference, ZERO - l1_factor, ZERO)
                sign = where_greater(difference, ZERO, l1_factor, falling)
                store(target, p, fma(d_ssim, ssim_factor, sign))
            if j >= length - LANES:
                break
            done = np.float32(max(0, j + 2 * LANES - length))
            j = min(j + LANES, length - LANES)
        store(lanes, 0, lane_sums((total,)))
        sums[row] = lanes_array[0]
    keep_alive(lanes_array)
