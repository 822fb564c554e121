"""Gradient of the compositing: a second pass from front to back.

With g_k the upstream gradient's value of splat k in a pixel (colour and depth against their
gradients), dL/dalpha_k = T_k g_k - rest_k / (1 - alpha_k), where `rest` is what lies behind:
the pixel's total minus the prefix sum of w g. So nothing is stored per pixel and splat.

Every slot (pair of splat and tile) has a place of its own for its sums; they are added up per
gaussian afterwards, always in the same order. That makes the result independent of the threads.
"""

import numpy as np

from fm3d_plugins.kernels.compiled import inlined_kernel, kernel
from fm3d_plugins.kernels.rasterizer.binning_kernels import LOG2_E, NUM_FIELDS, ROW_BITS
from fm3d_plugins.kernels.rasterizer.compositing_kernels import (
    FINISHED,
    LARGEST,
    ONE,
    PREFETCH_DISTANCE,
    ROW_MASK,
    ROW_STATE,
    TILE_STATE,
    ZERO,
    pass_row,
    row_opacity,
    splat_shape,
)
from fm3d_plugins.kernels.rasterizer.definitions import TILE_SIZE
from fm3d_plugins.kernels.rasterizer.projection_kernels import BLOCK
from fm3d_plugins.kernels.simd import (
    LANES,
    aligned,
    fma,
    keep_alive,
    lane_sums,
    load,
    negative_magnitude,
    offset,
    pointer,
    prefetch,
    splat,
    store,
    store_first_12,
    take,
    where_greater,
)

SLOT_SIZE = 12
"""Sums per slot: G; G x, G y; G xx, G xy, G yy; w times d_red, d_green, d_blue, d_depth; and, only
where they are asked for, -|G (2 a x + b y)|, -|G (b x + 2 c y)|.

G = alpha dL/dalpha, (x, y) is the pixel relative to the splat's mean, (a, b, c) its record's."""

ROW_GRADIENT = 6 * LANES
"""Per row of pixels: transmittance, rest, and the gradients of red, green, blue and depth."""

LN_2 = np.float32(1.0 / LOG2_E)


@kernel
def start_tile_backward(
    state, forward_state, row, column, size, background, images, d_images, d_background
):
    """Fill a tile's state from the upstream gradients; d_background gets the tile's share."""
    alpha, depth = images
    d_rgb, d_alpha, d_depth, has_alpha, has_depth = d_images
    height, width = size
    sum_red = sum_green = sum_blue = 0.0
    for p in range(TILE_SIZE * ROW_GRADIENT):
        state[p] = ZERO
    for y in range(row * TILE_SIZE, min(height, (row + 1) * TILE_SIZE)):
        p, q = (y % TILE_SIZE) * ROW_GRADIENT, (y % TILE_SIZE) * ROW_STATE
        for x in range(column * TILE_SIZE, min(width, (column + 1) * TILE_SIZE)):
            at = y * width + x
            transmittance = abs(forward_state[q])
            red, green, blue = d_rgb[3 * at], d_rgb[3 * at + 1], d_rgb[3 * at + 2]
            behind = red * background[0] + green * background[1] + blue * background[2]
            through_depth = ZERO
            if has_alpha:
                behind -= d_alpha[at]
            if has_depth and alpha[at] > ZERO:
                through_depth = d_depth[at] / alpha[at]
                behind += through_depth * depth[at]
            rest = transmittance * behind + through_depth * forward_state[q + 4 * LANES]
            rest += red * forward_state[q + LANES] + green * forward_state[q + 2 * LANES]
            state[p], state[p + LANES] = ONE, rest + blue * forward_state[q + 3 * LANES]
            state[p + 2 * LANES], state[p + 3 * LANES] = red, green
            state[p + 4 * LANES], state[p + 5 * LANES] = blue, through_depth
            sum_red += transmittance * red
            sum_green += transmittance * green
            sum_blue += transmittance * blue
            p, q = p + 1, q + 1
    d_background[0], d_background[1], d_background[2] = sum_red, sum_green, sum_blue


@inlined_kernel
def composite_splat_backward(state, record, rows, corner, row_numbers, absolute, target):
    """Repeat one splat on one tile and write its sums to a pointer."""
    first, last = rows & ROW_MASK, rows >> ROW_BITS
    shape = splat_shape(record, corner)
    dx, dy = shape[0], corner[1] - record[1]
    following = row_opacity(shape, row_numbers[first])
    later = row_opacity(shape, row_numbers[first + 1])
    red, green, blue, depth = record[6], record[7], record[8], record[9]
    total, total_y, total_yy = splat(ZERO), splat(ZERO), splat(ZERO)
    sum_red, sum_green, sum_blue = splat(ZERO), splat(ZERO), splat(ZERO)
    sum_depth, sum_x, sum_y = splat(ZERO), splat(ZERO), splat(ZERO)
    slope_x, slope_y, twice_c = dx * (record[2] + record[2]), shape[2], record[4] + record[4]
    for row in range(first, last):
        # 1. The forward pass, operation by operation, so that every decision is the same.
        raw, following = following, later
        later = row_opacity(shape, row_numbers[row + 2])
        p = row * ROW_GRADIENT
        before, after, alpha, weight = pass_row(state, p, raw)

        # 2. Gradients of colour and depth, and the value g of this splat.
        d_red, d_green = load(state, p + 2 * LANES), load(state, p + 3 * LANES)
        d_blue, d_depth = load(state, p + 4 * LANES), load(state, p + 5 * LANES)
        sum_red, sum_green = fma(weight, d_red, sum_red), fma(weight, d_green, sum_green)
        sum_blue, sum_depth = fma(weight, d_blue, sum_blue), fma(weight, d_depth, sum_depth)
        value = fma(d_red, red, fma(d_green, green, fma(d_blue, blue, d_depth * depth)))

        # 3. Gradient of alpha; none where alpha is cut off at its largest value.
        rest = fma(-weight, value, load(state, p + LANES))
        store(state, p + LANES, rest)
        d_alpha = fma(before, value, -(rest / (ONE - alpha)))
        passed = where_greater(after, FINISHED, where_greater(raw, LARGEST, ZERO, alpha), ZERO)
        gradient = passed * d_alpha
        y = splat(dy + row_numbers[row])
        gradient_y = gradient * y
        total, total_y = total + gradient, total_y + gradient_y
        total_yy = fma(gradient_y, y, total_yy)
        if absolute:
            sum_x = sum_x + negative_magnitude(fma(gradient, slope_x, gradient_y * record[3]))
            sum_y = sum_y + negative_magnitude(fma(gradient, slope_y, gradient_y * twice_c))
    total_x = total * dx
    moments = (total, total_x, total_y, total_x * dx, total_y * dx, total_yy)
    colors = (sum_red, sum_green, sum_blue, sum_depth)
    store_first_12(target, 0, lane_sums((*moments, *colors, sum_x, sum_y)))


@kernel
def composite_tile_backward(
    state,
    begin,
    end,
    records,
    list_gaussians,
    list_slots,
    slot_rows,
    corner,
    row_numbers,
    absolute,
    slot_sums,
):
    """Repeat a tile's list. All arrays are given by pointers."""
    for k in range(begin, end):
        ahead = min(k + PREFETCH_DISTANCE, end - 1)
        prefetch(records, np.int64(list_gaussians[ahead]) * NUM_FIELDS)
        prefetch(slot_rows, list_slots[ahead])
        prefetch(slot_sums, list_slots[ahead] * SLOT_SIZE)
        slot = list_slots[k]
        rows = np.int64(slot_rows[slot])
        if rows != 0:
            record = offset(records, np.int64(list_gaussians[k]) * NUM_FIELDS)
            target = offset(slot_sums, slot * SLOT_SIZE)
            composite_splat_backward(state, record, rows, corner, row_numbers, absolute, target)


@kernel
def composite_backward(
    counter,
    num_tiles,
    num_columns,
    lists,
    records,
    background,
    states,
    images,
    d_images,
    absolute,
    slot_sums,
    d_backgrounds,
):
    """Write the sums of every non-empty slot; d_backgrounds gets one row per tile.

    Upstream gradients of alpha and depth may be arrays without elements: zero.
    """
    tile_ends = lists[0]
    list_gaussians, list_slots, slot_rows = pointer(lists[1]), pointer(lists[2]), pointer(lists[3])
    record_data, sums_data, state_data = pointer(records), pointer(slot_sums), pointer(states)
    size = images[1].shape[0], images[1].shape[1]
    image_data = pointer(images[1]), pointer(images[2])
    d_rgb, d_alpha, d_depth = d_images
    upstream = (
        pointer(d_rgb),
        pointer(d_alpha),
        pointer(d_depth),
        d_alpha.size > 0,
        d_depth.size > 0,
    )
    background_data, d_background_data = pointer(background), pointer(d_backgrounds)
    state_array = np.empty(TILE_SIZE * ROW_GRADIENT + LANES, np.float32)
    state = aligned(pointer(state_array))
    row_number_array = np.arange(TILE_SIZE + 2).astype(np.float32)
    row_numbers = pointer(row_number_array)
    while True:
        tile = take(counter)
        if tile >= num_tiles:
            break
        row, column = tile // num_columns, tile % num_columns
        start_tile_backward(
            state,
            offset(state_data, tile * TILE_STATE),
            row,
            column,
            size,
            background_data,
            image_data,
            upstream,
            offset(d_background_data, 3 * tile),
        )
        corner = (np.float32(column * TILE_SIZE + 0.5), np.float32(row * TILE_SIZE + 0.5))
        begin = tile_ends[tile - 1] if tile > 0 else np.int64(0)
        composite_tile_backward(
            state,
            begin,
            tile_ends[tile],
            record_data,
            list_gaussians,
            list_slots,
            slot_rows,
            corner,
            row_numbers,
            absolute,
            sums_data,
        )
    keep_alive(state_array)
    keep_alive(row_number_array)


@kernel
def gather_slots(
    counter,
    num_blocks,
    records,
    features,
    slot_ends,
    slot_rows,
    slot_sums,
    d_means2d,
    d_features,
    absolute,
):
    """Add up every gaussian's slots and turn the sums into gradients of its splat.

    `absolute`, the sums of absolute gradients of its mean, may be an array without rows.
    """
    num_gaussians = np.int64(len(slot_ends))
    sums = np.empty(16, np.float32)
    sums_data, slot_data = pointer(sums), pointer(slot_sums)
    while True:
        block = take(counter)
        if block >= num_blocks:
            break
        for i in range(block * BLOCK, min(num_gaussians, (block + 1) * BLOCK)):
            total = splat(ZERO)
            for slot in range(slot_ends[i - 1] if i > 0 else 0, slot_ends[i]):
                if slot_rows[slot] != 0:
                    total = total + load(slot_data, slot * SLOT_SIZE)
            store(sums_data, 0, total)
            opacity = features[i, 3]
            # records hold (a, b, c) = log2(e) (A / 2, B, C / 2) of the conic (A, B, C)
            a, b, c = records[i, 2] * LN_2, records[i, 3] * LN_2, records[i, 4] * LN_2
            if slot_ends[i] == (slot_ends[i - 1] if i > 0 else 0):
                d_means2d[i] = ZERO
                d_features[i] = ZERO
                continue
            if len(absolute) > 0:
                absolute[i, 0], absolute[i, 1] = -LN_2 * sums[10], -LN_2 * sums[11]
            d_means2d[i, 0] = np.float32(2.0) * a * sums[1] + b * sums[2]
            d_means2d[i, 1] = b * sums[1] + np.float32(2.0) * c * sums[2]
            d_features[i, 0] = np.float32(-0.5) * sums[3]
            d_features[i, 1] = -sums[4]
            d_features[i, 2] = np.float32(-0.5) * sums[5]
            d_features[i, 3] = sums[0] / opacity
            for k in range(4):
                d_features[i, 4 + k] = sums[6 + k]
    keep_alive(sums)
