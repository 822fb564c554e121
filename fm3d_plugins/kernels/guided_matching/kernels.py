"""The loop over features, and over those near a line."""

import numpy as np

from fm3d_plugins.kernels.compiled import kernel

LARGEST = np.int64(1) << 40

PART = 32
"""Numbers of a descriptor after which it is asked whether the rest can matter."""


@kernel
def part_distance(one, other, start):
    """Squared distance of parts of two descriptors of 8-bit numbers."""
    total = np.int32(0)
    for k in range(start, start + PART):
        difference = np.int32(one[k]) - np.int32(other[k])
        total += difference * difference
    return np.int64(total)


@kernel
def nearer(distance, row, best, chosen, at):
    """Note a distance among the two least of a feature, and whose the least is."""
    if distance < best[at, 0]:
        best[at, 1], best[at, 0] = best[at, 0], distance
        chosen[at] = row
    elif distance < best[at, 1]:
        best[at, 1] = distance


@kernel
def nearest_by_line(
    pixels, descriptors, other_pixels, other_descriptors, fundamental, band,
    best, chosen, other_best, other_chosen,
):  # fmt: skip
    """For the features of both photos the two nearest among those that a line joins.

    Whether two are joined is asked of the first one's line in the second photo.
    """
    best[:], other_best[:] = LARGEST, LARGEST
    chosen[:], other_chosen[:] = -1, -1
    for row in range(len(pixels)):
        x, y = pixels[row, 0], pixels[row, 1]
        a = fundamental[0, 0] * x + fundamental[0, 1] * y + fundamental[0, 2]
        b = fundamental[1, 0] * x + fundamental[1, 1] * y + fundamental[1, 2]
        c = fundamental[2, 0] * x + fundamental[2, 1] * y + fundamental[2, 2]
        reach = band * np.sqrt(a * a + b * b)
        for other in range(len(other_pixels)):
            off = a * other_pixels[other, 0] + b * other_pixels[other, 1] + c
            if not abs(off) <= reach:
                continue
            matters = max(best[row, 1], other_best[other, 1])
            distance, start = np.int64(0), 0
            while start < 128 and distance < matters:
                distance += part_distance(descriptors[row], other_descriptors[other], start)
                start += PART
            if distance < matters:
                nearer(distance, other, best, chosen, row)
                nearer(distance, row, other_best, other_chosen, other)
