"""Depth at which a share of a pixel's light is absorbed, tile by tile; see `surface_depth`."""

import math

import numpy as np

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.rasterizer.binning_kernels import ROW_BITS
from fm3d_plugins.kernels.rasterizer.definitions import MAX_ALPHA, MIN_ALPHA, TILE_SIZE
from fm3d_plugins.kernels.simd import take

ROW_MASK = (1 << ROW_BITS) - 1
SURFACE_TRANSMITTANCE = 0.7
"""Share of a pixel's light that is left at the surface. Not one half: gaussians that are not seen
from the front fill the space behind surfaces."""


@kernel
def closest_depth(measure, x, y):
    """z at which the ray (x, y, 1) passes a gaussian closest, in its own measure."""
    across = (
        measure[0] * x * x + measure[3] * y * y + measure[5]
        + 2.0 * (measure[1] * x * y + measure[2] * x + measure[4] * y)
    )  # fmt: skip
    return (measure[6] * x + measure[7] * y + measure[8]) / across


@kernel
def find_surface(counter, num_tiles, num_columns, lists, records, measures, pinhole, near, depth):
    """Depths of all tiles' pixels; `lists` as of `composite`, pinhole (fx, fy, cx, cy)."""
    tile_ends, list_gaussians, list_slots, slot_rows = lists
    height, width = depth.shape
    while True:
        tile = take(counter)
        if tile >= num_tiles:
            break
        top, left = tile // num_columns * TILE_SIZE, tile % num_columns * TILE_SIZE
        begin = tile_ends[tile - 1] if tile > 0 else np.int64(0)
        for row in range(top, min(height, top + TILE_SIZE)):
            y = (row + 0.5 - pinhole[3]) / pinhole[1]
            for column in range(left, min(width, left + TILE_SIZE)):
                x = (column + 0.5 - pinhole[2]) / pinhole[0]
                transmittance, found = 1.0, 0.0
                for k in range(begin, tile_ends[tile]):
                    rows = np.int64(slot_rows[list_slots[k]])
                    if not (rows & ROW_MASK) <= row - top < (rows >> ROW_BITS):
                        continue
                    i = list_gaussians[k]
                    dx = column + 0.5 - records[i, 0]
                    dy = row + 0.5 - records[i, 1]
                    exponent = records[i, 2] * dx * dx + records[i, 3] * dx * dy
                    exponent += records[i, 4] * dy * dy
                    alpha = 2.0 ** (records[i, 5] - exponent)
                    if alpha < MIN_ALPHA:
                        continue
                    transmittance *= 1.0 - min(alpha, MAX_ALPHA)
                    if transmittance <= SURFACE_TRANSMITTANCE:
                        found = closest_depth(measures[i], x, y)
                        break
                depth[row, column] = found if found > near and math.isfinite(found) else 0.0
