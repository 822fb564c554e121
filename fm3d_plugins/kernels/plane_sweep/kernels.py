"""Matching costs of a sweep of planes, and their smoothing along rows, columns and diagonals."""

import numpy as np

from fm3d_plugins.kernels.compiled import kernel

UNKNOWN = np.float32(1.0)
"""Cost of a plane on which a pixel cannot be compared: as if windows had nothing in common."""

NUM_SUMS = 6


@kernel
def warp(image, homography, warped, is_seen):
    """Sample an image where a plane takes the pixel centres of another; bilinear."""
    height, width = image.shape
    for y in range(warped.shape[0]):
        v = y + 0.5
        for x in range(warped.shape[1]):
            u = x + 0.5
            w = homography[2, 0] * u + homography[2, 1] * v + homography[2, 2]
            a = homography[0, 0] * u + homography[0, 1] * v + homography[0, 2]
            b = homography[1, 0] * u + homography[1, 1] * v + homography[1, 2]
            column, row = a / w - 0.5, b / w - 0.5
            inside = (w > 0) & (column >= 0) & (row >= 0)
            if inside & (column <= width - 1) & (row <= height - 1):
                i, j = min(int(column), width - 2), min(int(row), height - 2)
                s, t = np.float32(column - i), np.float32(row - j)
                above = image[j, i] + s * (image[j, i + 1] - image[j, i])
                below = image[j + 1, i] + s * (image[j + 1, i + 1] - image[j + 1, i])
                warped[y, x], is_seen[y, x] = above + t * (below - above), np.float32(1.0)
            else:
                warped[y, x], is_seen[y, x] = np.float32(0.0), np.float32(0.0)


@kernel
def sum_windows(one, other, is_seen, radius, across, sums):
    """Sums over square windows of what correlation asks: n, a, b, aa, bb and ab, where seen."""
    height, width = one.shape
    for y in range(height):
        for x in range(width):
            n, a, b = is_seen[y, x], one[y, x], other[y, x]
            sums[0, y, x], sums[1, y, x], sums[2, y, x] = n, n * a, n * b
            sums[3, y, x], sums[4, y, x], sums[5, y, x] = n * a * a, n * b * b, n * a * b
    for k in range(NUM_SUMS):
        for y in range(height):
            for x in range(width):
                total = np.float32(0.0)
                for i in range(max(0, x - radius), min(width, x + radius + 1)):
                    total += sums[k, y, i]
                across[y, x] = total
        for y in range(height):
            low, high = max(0, y - radius), min(height, y + radius + 1)
            for x in range(width):
                sums[k, y, x] = across[low, x]
            for j in range(low + 1, high):
                for x in range(width):
                    sums[k, y, x] += across[j, x]


@kernel
def keep_two_least(sums, least_share, smallest_variance, best):
    """Note 1 - correlation of each window among the two least of its pixel."""
    for y in range(sums.shape[1]):
        for x in range(sums.shape[2]):
            n = sums[0, y, x]
            if n < least_share:
                continue
            a, b = sums[1, y, x] / n, sums[2, y, x] / n
            aa = sums[3, y, x] / n - a * a + smallest_variance
            bb = sums[4, y, x] / n - b * b + smallest_variance
            cost = np.float32(1.0) - (sums[5, y, x] / n - a * b) / np.sqrt(aa * bb)
            if cost < best[0, y, x]:
                best[1, y, x], best[0, y, x] = best[0, y, x], cost
            elif cost < best[1, y, x]:
                best[1, y, x] = cost


@kernel
def sweep(image, neighbours, homographies, radius, smallest_variance, costs):
    """`plane_sweep_costs` without checks; see there."""
    height, width = image.shape
    warped, is_seen = np.empty_like(image), np.empty_like(image)
    across, sums = np.empty_like(image), np.empty((NUM_SUMS, height, width), np.float32)
    best = np.empty((2, height, width), np.float32)
    least = np.float32(((2 * radius + 1) ** 2) / 2)
    nothing = np.float32(np.inf)
    for plane in range(homographies.shape[1]):
        best[:] = nothing
        for other in range(len(neighbours)):
            warp(neighbours[other], homographies[other, plane], warped, is_seen)
            sum_windows(image, warped, is_seen, radius, across, sums)
            keep_two_least(sums, least, smallest_variance, best)
        for y in range(height):
            for x in range(width):
                one, two = best[0, y, x], best[1, y, x]
                if two < nothing:
                    costs[y, x, plane] = (one + two) / 2
                elif one < nothing:
                    costs[y, x, plane] = one
                else:
                    costs[y, x, plane] = UNKNOWN


@kernel
def follow(cost, before, step, jump, total, path):
    """One pixel of a path: Hirschmüller 2008, equation 13, added to the total of all paths."""
    planes = len(cost)
    least = before[0]
    for k in range(1, planes):
        least = min(least, before[k])
    for k in range(planes):
        value = min(before[k], least + jump)
        if k > 0:
            value = min(value, before[k - 1] + step)
        if k + 1 < planes:
            value = min(value, before[k + 1] + step)
        path[k] = cost[k] + value - least
        total[k] += path[k]


@kernel
def smooth(costs, image, step, jump, edge, total):
    """`smooth_costs` without checks; see there."""
    height, width, planes = costs.shape
    total[:] = 0
    paths = np.empty((2, width, planes), np.float32)
    nothing = np.zeros(planes, np.float32)
    for direction in range(8):
        dy = (0, 0, 1, -1, 1, 1, -1, -1)[direction]
        dx = (1, -1, 0, 0, 1, -1, 1, -1)[direction]
        for r in range(height):
            y = r if dy >= 0 else height - 1 - r
            now, last = paths[r % 2], paths[1 - r % 2]
            for c in range(width):
                x = c if dx >= 0 else width - 1 - c
                j, i = y - dy, x - dx
                if j < 0 or j >= height or i < 0 or i >= width:
                    follow(costs[y, x], nothing, step, jump, total[y, x], now[x])
                    continue
                before = now[i] if dy == 0 else last[i]
                allowed = jump / (1 + abs(image[y, x] - image[j, i]) / edge)
                follow(costs[y, x], before, step, max(step, allowed), total[y, x], now[x])
