"""Which tiles a splat touches, and the depth-sorted list of splats of every tile.

A splat covers the pixel centres (x, y), relative to its mean, with a x^2 + b x y + c y^2 <= level:
its alpha is at least MIN_ALPHA there. Both the columns of tiles it touches in a row of tiles and
the rows of pixels it touches in a tile follow from that ellipse exactly, so no pair of splat and
tile is kept in vain. A pair is called a slot; the slots of a gaussian are neighbours.
"""

import math

import numpy as np

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.rasterizer.definitions import MIN_ALPHA, TILE_SIZE
from fm3d_plugins.kernels.rasterizer.projection_kernels import BLOCK, NUM_FEATURES
from fm3d_plugins.kernels.simd import offset, pointer, take

NUM_FIELDS = 12
"""Per record: mean x, y; a, b, c; log2 opacity; red, green, blue, depth; level; one unused."""

LOG2_E = math.log2(math.e)
LOG2_MIN_ALPHA = math.log2(MIN_ALPHA)
# Bounds are widened by this much so that float32 rounding never cuts a pixel the test accepts.
LEVEL_SLACK = 1e-3
RADIX_BITS = 11
RADIX_SIZE = 1 << RADIX_BITS
ROW_BITS = 8


@kernel
def write_record(record, mean2d, features):
    """Prepare a splat: alpha is 2^(log2 opacity - (a x^2 + b x y + c y^2))."""
    a = np.float32(0.5 * LOG2_E * features[0])
    b = np.float32(LOG2_E * features[1])
    c = np.float32(0.5 * LOG2_E * features[2])
    log_opacity = math.log2(features[3])
    record[0], record[1] = mean2d[0], mean2d[1]
    record[2], record[3], record[4], record[5] = a, b, c, log_opacity
    for k in range(4):
        record[6 + k] = features[4 + k]
    record[10] = log_opacity - LOG2_MIN_ALPHA + LEVEL_SLACK


@kernel
def shapes_of(record):
    """What `extent` needs to bound x by a strip of y, and y by a strip of x; in double precision.

    A shape is (b, 1 / 2a, 4 a level, discriminant, half extent of the strip's coordinate, where in
    that coordinate the ellipse reaches farthest). Infinite if the conic is singular in float32.
    """
    a, b, c = np.float64(record[2]), np.float64(record[3]), np.float64(record[4])
    # In double: the conic of a long thin splat is nearly singular.
    level, discriminant = np.float64(record[10]), 4.0 * a * c - b * b
    if not (discriminant > 0.0 and a > 0.0 and c > 0.0):
        everything = (0.0, 1.0, np.inf, 0.0, np.inf, 0.0)
        return everything, everything
    half_x = math.sqrt(4.0 * c * level / discriminant)
    half_y = math.sqrt(4.0 * a * level / discriminant)
    over_a, over_c = 0.5 / a, 0.5 / c
    x_shape = (b, over_a, 4.0 * a * level, discriminant, half_y, -b * over_c * half_x)
    y_shape = (b, over_c, 4.0 * c * level, discriminant, half_x, -b * over_a * half_y)
    return x_shape, y_shape


@kernel
def extent(shape, low, high):
    """Interval of x where a x^2 + b x y + c y^2 <= level for some y in [low, high].

    The left and right ends of the ellipse's chord are convex and concave in y, so their extremes
    over the strip lie where the ellipse reaches farthest, clamped to the strip. Empty: (1, 0).
    """
    b, over_2a, scaled_level, discriminant, half, farthest = shape
    if low > half or high < -half:
        return 1.0, 0.0
    y = min(max(farthest, low), high)
    right = (math.sqrt(max(scaled_level - discriminant * y * y, 0.0)) - b * y) * over_2a
    y = min(max(-farthest, low), high)
    left = (-math.sqrt(max(scaled_level - discriminant * y * y, 0.0)) - b * y) * over_2a
    return left, right


@kernel
def tiles_between(low, high, num_tiles):
    """First and last + 1 tile with a pixel centre in [low, high] pixels."""
    first = max(np.ceil(low - 0.5), 0.0)
    last = min(np.floor(high - 0.5), num_tiles * TILE_SIZE - 1.0)
    if not first <= last:
        return 0, 0
    return int(first) // TILE_SIZE, int(last) // TILE_SIZE + 1


@kernel
def tile_rows(record, x_shape, grid):
    """First and last + 1 row of tiles that a splat may touch."""
    half = x_shape[4]
    return tiles_between(record[1] - half, record[1] + half, grid[0])


@kernel
def tile_columns(record, x_shape, row, grid):
    """First and last + 1 tile that a splat touches in a row of tiles."""
    first = row * TILE_SIZE + 0.5 - record[1]
    low, high = extent(x_shape, first, first + (TILE_SIZE - 1.0))
    return tiles_between(record[0] + low, record[0] + high, grid[1])


@kernel
def pixel_rows(record, y_shape, row, column):
    """First and last + 1 row of pixels, from the tile's top, that a splat touches in a tile."""
    left = column * TILE_SIZE + 0.5 - record[0]
    low, high = extent(y_shape, left, left + (TILE_SIZE - 1.0))
    # Row r of the tile has its pixel centres at 16 row + r + 1/2.
    shift = record[1] - row * TILE_SIZE - 0.5
    first = max(np.ceil(low + shift), 0.0)
    last = min(np.floor(high + shift), TILE_SIZE - 1.0)
    if not first <= last:
        return 0, 0
    return int(first), int(last) + 1


@kernel
def count_tiles(counter, num_blocks, means2d, features, radii, grid, records, counts):
    """Write every visible splat's record and its number of tiles. `grid` is (rows, columns)."""
    num_gaussians = np.int64(len(radii))
    record_data, means, feature_data = pointer(records), pointer(means2d), pointer(features)
    while True:
        block = take(counter)
        if block >= num_blocks:
            break
        for i in range(block * BLOCK, min(num_gaussians, (block + 1) * BLOCK)):
            counts[i] = 0
            if radii[i] == 0:
                continue
            record = offset(record_data, NUM_FIELDS * i)
            write_record(record, offset(means, 2 * i), offset(feature_data, NUM_FEATURES * i))
            x_shape, _ = shapes_of(record)
            first, last = tile_rows(record, x_shape, grid)
            total = 0
            for row in range(first, last):
                left, right = tile_columns(record, x_shape, row, grid)
                total += right - left
            counts[i] = total


@kernel
def fill_slots(counter, num_blocks, records, slot_ends, grid, slot_tiles, slot_rows):
    """Write tile and pixel rows (first | last + 1 << 8) of every slot; an empty one is 0."""
    num_gaussians = np.int64(len(slot_ends))
    record_data = pointer(records)
    while True:
        block = take(counter)
        if block >= num_blocks:
            break
        for i in range(block * BLOCK, min(num_gaussians, (block + 1) * BLOCK)):
            slot = slot_ends[i - 1] if i > 0 else np.int64(0)
            if slot == slot_ends[i]:
                continue
            record = offset(record_data, NUM_FIELDS * i)
            x_shape, y_shape = shapes_of(record)
            first, last = tile_rows(record, x_shape, grid)
            for row in range(first, last):
                left, right = tile_columns(record, x_shape, row, grid)
                for column in range(left, right):
                    top, bottom = pixel_rows(record, y_shape, row, column)
                    slot_tiles[slot] = row * grid[1] + column
                    slot_rows[slot] = top | (bottom << ROW_BITS)
                    slot += 1


@kernel
def sort_by_depth(depth_keys, order, scratch):
    """Stable radix sort of the indices in `order` by their keys; `scratch` is as long."""
    source, target = order, scratch
    counts = np.empty(RADIX_SIZE, np.int64)
    for shift in range(0, 32, RADIX_BITS):
        counts[:] = 0
        for i in source:
            counts[(depth_keys[i] >> np.uint32(shift)) & np.uint32(RADIX_SIZE - 1)] += 1
        total = np.int64(0)
        for digit in range(RADIX_SIZE):
            total, counts[digit] = total + counts[digit], total
        for i in source:
            digit = (depth_keys[i] >> np.uint32(shift)) & np.uint32(RADIX_SIZE - 1)
            target[counts[digit]] = i
            counts[digit] += 1
        source, target = target, source
    return source


@kernel
def count_per_tile(counter, num_chunks, order, slot_ends, slot_tiles, slot_rows, counts):
    """Per chunk of the depth order, how many non-empty slots each tile gets."""
    num_visible = np.int64(len(order))
    while True:
        chunk = take(counter)
        if chunk >= num_chunks:
            break
        row = counts[chunk]
        row[:] = 0
        for rank in range(
            num_visible * chunk // num_chunks, num_visible * (chunk + 1) // num_chunks
        ):
            i = order[rank]
            for slot in range(slot_ends[i - 1] if i > 0 else 0, slot_ends[i]):
                row[slot_tiles[slot]] += slot_rows[slot] != 0


@kernel
def fill_tiles(
    counter,
    num_chunks,
    order,
    slot_ends,
    slot_tiles,
    slot_rows,
    cursors,
    list_gaussians,
    list_slots,
):
    """Append every chunk's slots to the tiles' lists, from `cursors[chunk, tile]` on."""
    num_visible = np.int64(len(order))
    while True:
        chunk = take(counter)
        if chunk >= num_chunks:
            break
        cursor = cursors[chunk]
        for rank in range(
            num_visible * chunk // num_chunks, num_visible * (chunk + 1) // num_chunks
        ):
            i = order[rank]
            for slot in range(slot_ends[i - 1] if i > 0 else 0, slot_ends[i]):
                if slot_rows[slot] != 0:
                    tile = slot_tiles[slot]
                    list_gaussians[cursor[tile]] = i
                    list_slots[cursor[tile]] = slot
                    cursor[tile] += 1
