"""Matching costs of a sweep of planes, and their smoothing along rows, columns and diagonals."""

import numpy as np

from fm3d_plugins.kernels.compiled import inlined_kernel, kernel
from fm3d_plugins.kernels.simd import (
    LANES,
    floor,
    fma,
    gather,
    keep_alive,
    lane_minimum,
    lane_numbers,
    load,
    minimum,
    offset,
    pointer,
    splat,
    square_root,
    store,
    where_greater,
    where_greater_equal,
)

UNKNOWN = np.float32(1.0)
"""Cost of a plane on which a pixel cannot be compared: as if windows had nothing in common."""

NOTHING = np.float32(np.inf)
ZERO, HALF, ONE, TWO = (np.float32(number) for number in (0.0, 0.5, 1.0, 2.0))

NUM_SUMS = 6
"""Over a window, where seen: 1, a, b, aa, bb and ab for pixels a of the photo and b of another."""

NUM_PATHS = 4
"""That a pass follows: from beside, from above, and from both sides above."""


@inlined_kernel
def warp_row(image, height, width, homography, y, length, warped, is_seen):
    """Sample an image where a plane takes the pixel centres of a row of another; bilinear.

    Args:
        image: Pointer to the pixels of so many rows and columns.
        length: Of the row; zeros are written behind it, up to whole vectors.
    """
    v = y + 0.5
    w0 = np.float32(homography[2, 1] * v + homography[2, 2])
    a0 = np.float32(homography[0, 1] * v + homography[0, 2])
    b0 = np.float32(homography[1, 1] * v + homography[1, 2])
    w1, a1 = np.float32(homography[2, 0]), np.float32(homography[0, 0])
    b1 = np.float32(homography[1, 0])
    across, down = np.float32(width), np.float32(height)
    for x in range(0, length, LANES):
        u = lane_numbers() + np.float32(x + 0.5)
        w = fma(u, splat(w1), splat(w0))
        share = ONE / w
        column = fma(fma(u, splat(a1), splat(a0)), share, splat(-HALF))
        row = fma(fma(u, splat(b1), splat(b0)), share, splat(-HALF))
        seen = where_greater(np.float32(length), u, splat(ONE), splat(ZERO))
        seen = where_greater(w, ZERO, seen, ZERO)
        seen = where_greater_equal(column, ZERO, seen, ZERO)
        seen = where_greater_equal(row, ZERO, seen, ZERO)
        seen = where_greater_equal(across - ONE, column, seen, ZERO)
        seen = where_greater_equal(down - ONE, row, seen, ZERO)
        column = where_greater(seen, ZERO, column, ZERO)
        row = where_greater(seen, ZERO, row, ZERO)
        i, j = minimum(floor(column), across - TWO), minimum(floor(row), down - TWO)
        s, t, place = column - i, row - j, fma(j, splat(across), i)
        above, below = gather(image, place), gather(offset(image, width), place)
        above = fma(s, gather(offset(image, 1), place) - above, above)
        below = fma(s, gather(offset(image, width + 1), place) - below, below)
        store(warped, x, seen * fma(t, below - above, above))
        store(is_seen, x, seen)


@inlined_kernel
def sum_along(one, other, is_seen, radius, length, sums):
    """Sums of a row over the pixels up to `radius` beside each: the six one after another."""
    for x in range(0, length, LANES):
        n, a, b = splat(ZERO), splat(ZERO), splat(ZERO)
        aa, bb, ab = splat(ZERO), splat(ZERO), splat(ZERO)
        for i in range(x - radius, x + radius + 1):
            seen, own, its = load(is_seen, i), load(one, i), load(other, i)
            shown = seen * own
            n, a, b = n + seen, a + shown, b + its
            aa, bb, ab = fma(shown, own, aa), fma(its, its, bb), fma(own, its, ab)
        store(sums, x, n)
        store(sums, x + length, a)
        store(sums, x + 2 * length, b)
        store(sums, x + 3 * length, aa)
        store(sums, x + 4 * length, bb)
        store(sums, x + 5 * length, ab)


@inlined_kernel
def keep_two_least(sums, rows, length, least_seen, smallest_variance, best, second):
    """Note 1 - correlation of the windows of a row of pixels among the two least.

    Args:
        sums: Of so many rows, from `sum_along`.
        least_seen: Pixels of a window that must be seen, or it does not count.
    """
    for x in range(0, length, LANES):
        n, a, b = splat(ZERO), splat(ZERO), splat(ZERO)
        aa, bb, ab = splat(ZERO), splat(ZERO), splat(ZERO)
        for row in range(rows):
            at = row * NUM_SUMS * length + x
            n, a = n + load(sums, at), a + load(sums, at + length)
            b, aa = b + load(sums, at + 2 * length), aa + load(sums, at + 3 * length)
            bb, ab = bb + load(sums, at + 4 * length), ab + load(sums, at + 5 * length)
        share = ONE / n
        a, b = a * share, b * share
        aa = fma(-a, a, aa * share) + smallest_variance
        bb = fma(-b, b, bb * share) + smallest_variance
        cost = ONE - fma(-a, b, ab * share) / square_root(aa * bb)
        cost = where_greater_equal(n, least_seen, cost, NOTHING)
        least = load(best, x)
        larger = where_greater(cost, least, cost, least)
        store(second, x, minimum(load(second, x), larger))
        store(best, x, minimum(cost, least))


@inlined_kernel
def cost_of(least, second):
    """Of a plane at a pixel, from the two least among neighbours."""
    if second < NOTHING:
        return (least + second) * HALF
    return least if least < NOTHING else UNKNOWN


@kernel
def sweep(image, neighbours, homographies, radius, smallest_variance, costs):
    """`plane_sweep_costs` without checks; see there."""
    height, width = image.shape
    other_height, other_width = neighbours.shape[1:]
    length = (width + LANES - 1) // LANES * LANES
    rows = 2 * radius + 1
    # Windows reach over both ends of a row, where nothing is seen.
    stride = length + 2 * radius
    own = np.zeros((height, stride), np.float32)
    own[:, radius : radius + width] = image
    shown, seen = np.zeros(stride, np.float32), np.zeros(stride, np.float32)
    sums = np.empty((rows, NUM_SUMS, length), np.float32)
    best = np.empty((2, height, length), np.float32)
    warped, is_seen = offset(pointer(shown), radius), offset(pointer(seen), radius)
    least_seen = np.float32(rows * rows / 2)
    for plane in range(homographies.shape[1]):
        best[:] = NOTHING
        for other in range(len(neighbours)):
            pixels = offset(pointer(neighbours), other * other_height * other_width)
            homography = homographies[other, plane]
            sums[:] = ZERO
            for y in range(height + radius):
                here = offset(pointer(sums), y % rows * NUM_SUMS * length)
                if y < height:
                    warp_row(
                        pixels, other_height, other_width, homography, y, width, warped, is_seen
                    )
                    one = offset(pointer(own), y * stride + radius)
                    sum_along(one, warped, is_seen, radius, length, here)
                else:
                    sums[y % rows] = ZERO
                if y >= radius:
                    first = offset(pointer(best), (y - radius) * length)
                    keep_two_least(
                        pointer(sums), rows, length, least_seen, smallest_variance,
                        first, offset(first, height * length),
                    )  # fmt: skip
        for y in range(height):
            for x in range(width):
                costs[y, x, plane] = cost_of(best[0, y, x], best[1, y, x])
    keep_alive(own)
    keep_alive(shown)
    keep_alive(seen)


@inlined_kernel
def follow(costs, before, before_least, step, jump, planes, path):
    """One pixel of a path: Hirschmüller 2008, equation 13.

    Args:
        costs: Pointer to those of the pixel.
        before: To the path's at the pixel before, with `NOTHING` on both sides.
        before_least: The least of these.
        path: Where it is written.

    Returns:
        The least of the path.
    """
    least, highest = splat(NOTHING), before_least + jump
    for k in range(0, planes, LANES):
        beside = minimum(load(before, k - 1), load(before, k + 1)) + step
        value = minimum(minimum(load(before, k), highest), beside)
        value = load(costs, k) + (value - before_least)
        store(path, k, value)
        least = minimum(least, value)
    return lane_minimum(least)


@kernel
def smooth(costs, image, step, jump, edge, total):
    """`smooth_costs` without checks; see there. Whole vectors of planes."""
    height, width, planes = costs.shape
    # A vector of planes that are none lies on both sides.
    stride = planes + 2 * LANES
    paths = np.full((2, width, NUM_PATHS, stride), NOTHING, np.float32)
    leasts = np.empty((2, width, NUM_PATHS), np.float32)
    nothing = np.full(stride, NOTHING, np.float32)
    nothing[LANES : LANES + planes] = ZERO
    for turn in range(2):
        way = 1 - 2 * turn
        for r in range(height):
            y = height - 1 - r if turn else r
            for c in range(width):
                x = width - 1 - c if turn else c
                here = offset(pointer(costs), (y * width + x) * planes)
                sums = offset(pointer(total), (y * width + x) * planes)
                for number in range(NUM_PATHS):
                    dy, dx = (way if number else 0), (way, 0, way, -way)[number]
                    j, i, row = y - dy, x - dx, (r - abs(dy)) % 2
                    before, least = offset(pointer(nothing), LANES), ZERO
                    price = jump
                    if 0 <= j < height and 0 <= i < width:
                        place = ((row * width + i) * NUM_PATHS + number) * stride + LANES
                        before, least = offset(pointer(paths), place), leasts[row, i, number]
                        price = jump / (ONE + abs(image[y, x] - image[j, i]) / edge)
                    place = ((r % 2 * width + x) * NUM_PATHS + number) * stride + LANES
                    path = offset(pointer(paths), place)
                    leasts[r % 2, x, number] = follow(
                        here, before, least, step, max(step, price), planes, path
                    )
                    for k in range(0, planes, LANES):
                        if turn or number:
                            store(sums, k, load(sums, k) + load(path, k))
                        else:
                            store(sums, k, load(path, k))
    keep_alive(paths)
    keep_alive(nothing)
