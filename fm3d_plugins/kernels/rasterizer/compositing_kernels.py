"""Compositing of a tile's depth-sorted splats, forward.

A row of a tile's pixels is one vector per quantity, and the vectors of a row are neighbours (planes
of a whole tile would lie 4096 bytes apart, where processors mistake a load for an earlier store).
A finished pixel is marked by a negative transmittance, which no later splat can change.
"""

import numpy as np

from fm3d_plugins.kernels.compiled import inlined_kernel, kernel
from fm3d_plugins.kernels.rasterizer.binning_kernels import NUM_FIELDS, ROW_BITS
from fm3d_plugins.kernels.rasterizer.definitions import (
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    TILE_SIZE,
)
from fm3d_plugins.kernels.simd import (
    LANES,
    any_greater,
    exp2,
    fma,
    keep_alive,
    lane_numbers,
    load,
    minimum,
    negative_magnitude,
    offset,
    pointer,
    prefetch,
    splat,
    store,
    take,
    where_greater,
    where_greater_equal,
)

ROW_STATE = 5 * LANES
"""Per row of pixels: transmittance, red, green, blue, depth, without background."""

TILE_STATE = TILE_SIZE * ROW_STATE

# A finished tile is noticed after at most this many more splats.
CHECK_INTERVAL = 16
PREFETCH_DISTANCE = 6

ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
LARGEST = np.float32(MAX_ALPHA)
SMALLEST = np.float32(MIN_ALPHA)
FINISHED = np.float32(MIN_TRANSMITTANCE)
ROW_MASK = (1 << ROW_BITS) - 1


@kernel
def start_tile(state, row, column, image_size):
    """Clear a tile's state; pixels outside the image start as finished."""
    inside = np.float32(image_size[1] - column * TILE_SIZE)
    for y in range(TILE_SIZE):
        p = y * ROW_STATE
        is_inside = row * TILE_SIZE + y < image_size[0]
        limit = inside if is_inside else ZERO
        store(state, p, where_greater(limit, lane_numbers(), ONE, -ONE))
        for quantity in range(1, 5):
            store(state, p + quantity * LANES, splat(ZERO))


@kernel
def is_finished(state):
    """Whether no pixel of the tile takes further splats."""
    for row in range(TILE_SIZE):
        if any_greater(load(state, row * ROW_STATE), ZERO):
            return False
    return True


@inlined_kernel
def accumulate(state, position, weight, value):
    """Add weight * value to one row of pixels."""
    store(state, position, fma(weight, value, load(state, position)))


@inlined_kernel
def splat_shape(record, corner):
    """What `row_opacity` needs of a splat in one tile; the first is x at the pixels' columns."""
    dx = lane_numbers() + (corner[0] - record[0])
    peak = record[5] - dx * dx * record[2]
    return dx, peak, dx * record[3], splat(record[4]), corner[1] - record[1]


@inlined_kernel
def row_opacity(shape, number):
    """2^(log2 opacity - (a x^2 + b x y + c y^2)), not cut off, `number` rows below the first."""
    _, peak, slope, c, dy = shape
    y = splat(dy + number)
    return exp2(fma(-fma(c, y, slope), y, peak))


@inlined_kernel
def pass_row(state, position, raw):
    """Let one row of pixels, whose state starts with its transmittance, be covered by a splat.

    Returns the transmittances before and after, alpha, and the weight, zero in finished pixels.
    """
    alpha = where_greater_equal(raw, SMALLEST, minimum(raw, LARGEST), ZERO)
    before = load(state, position)
    weight = alpha * before
    after = before - weight
    store(state, position, where_greater(after, FINISHED, after, negative_magnitude(before)))
    return before, after, alpha, where_greater(after, FINISHED, weight, ZERO)


@inlined_kernel
def composite_splat(state, record, rows, corner, row_numbers):
    """Composite a splat onto the pixel rows of one tile; returns whether any pixel took it."""
    first, last = rows & ROW_MASK, rows >> ROW_BITS
    shape = splat_shape(record, corner)
    following = row_opacity(shape, row_numbers[first])
    later = row_opacity(shape, row_numbers[first + 1])
    red, green, blue, depth = record[6], record[7], record[8], record[9]
    heaviest = splat(ZERO)
    for row in range(first, last):
        # Two rows ahead: a row's opacity is a long chain of dependent operations, which must not
        # hold up the row's compositing.
        raw, following = following, later
        later = row_opacity(shape, row_numbers[row + 2])
        p = row * ROW_STATE
        _, _, _, weight = pass_row(state, p, raw)
        accumulate(state, p + LANES, weight, red)
        accumulate(state, p + 2 * LANES, weight, green)
        accumulate(state, p + 3 * LANES, weight, blue)
        accumulate(state, p + 4 * LANES, weight, depth)
        heaviest = weight + heaviest
    return any_greater(heaviest, ZERO)


@kernel
def composite_tile(
    state, begin, end, records, list_gaussians, list_slots, slot_rows, corner, row_numbers
):
    """Composite a tile's list; the rows of slots that no pixel took become empty.

    All arrays are given by pointers.
    """
    for k in range(begin, end):
        slot = list_slots[k]
        ahead = min(k + PREFETCH_DISTANCE, end - 1)
        prefetch(records, np.int64(list_gaussians[ahead]) * NUM_FIELDS)
        prefetch(slot_rows, list_slots[ahead])
        if (k - begin) % CHECK_INTERVAL == 0 and is_finished(state):
            for rest in range(k, end):
                slot_rows[list_slots[rest]] = 0
            return
        record = offset(records, np.int64(list_gaussians[k]) * NUM_FIELDS)
        rows = np.int64(slot_rows[slot])
        if not composite_splat(state, record, rows, corner, row_numbers):
            slot_rows[slot] = 0


@kernel
def finish_tile(state, row, column, size, background, rgb, alpha, depth):
    """Write a tile's part of the three images."""
    height, width = size
    for y in range(row * TILE_SIZE, min(height, (row + 1) * TILE_SIZE)):
        p = (y % TILE_SIZE) * ROW_STATE
        for x in range(column * TILE_SIZE, min(width, (column + 1) * TILE_SIZE)):
            transmittance, at = abs(state[p]), y * width + x
            rgb[3 * at] = state[p + LANES] + transmittance * background[0]
            rgb[3 * at + 1] = state[p + 2 * LANES] + transmittance * background[1]
            rgb[3 * at + 2] = state[p + 3 * LANES] + transmittance * background[2]
            opacity = ONE - transmittance
            alpha[at] = opacity
            depth[at] = state[p + 4 * LANES] / opacity if opacity > ZERO else ZERO
            p += 1


@kernel
def composite(counter, num_tiles, num_columns, lists, records, background, states, images):
    """Composite all tiles.

    `lists` is (tile_ends, list_gaussians, list_slots, slot_rows); `states` keeps every tile's
    state for the backward pass; `images` is (rgb, alpha, depth).
    """
    tile_ends = lists[0]
    list_gaussians, list_slots, slot_rows = pointer(lists[1]), pointer(lists[2]), pointer(lists[3])
    record_data, state_data, background_data = (
        pointer(records),
        pointer(states),
        pointer(background),
    )
    rgb, alpha, depth = pointer(images[0]), pointer(images[1]), pointer(images[2])
    size = images[1].shape[0], images[1].shape[1]
    row_number_array = np.arange(TILE_SIZE + 2).astype(np.float32)
    row_numbers = pointer(row_number_array)
    while True:
        tile = take(counter)
        if tile >= num_tiles:
            break
        row, column = tile // num_columns, tile % num_columns
        corner = (np.float32(column * TILE_SIZE + 0.5), np.float32(row * TILE_SIZE + 0.5))
        state = offset(state_data, tile * TILE_STATE)
        begin = tile_ends[tile - 1] if tile > 0 else np.int64(0)
        start_tile(state, row, column, size)
        composite_tile(
            state,
            begin,
            tile_ends[tile],
            record_data,
            list_gaussians,
            list_slots,
            slot_rows,
            corner,
            row_numbers,
        )
        finish_tile(state, row, column, size, background_data, rgb, alpha, depth)
    keep_alive(row_number_array)
