"""The loops over tiles of products of descriptors."""

import numpy as np

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.descriptor_matching.tiles import (
    COLUMNS,
    LENGTH,
    MOST_IN_FOUR,
    OFFSET,
    ROWS,
    has_narrow_products,
    match_narrow,
    match_wide,
)
from fm3d_plugins.kernels.simd import keep_alive, offset, pointer


@kernel
def word_of(descriptor, k, size, shift):
    """The k-th word of a descriptor: `size` of its numbers, from the lowest bits up."""
    bits = 32 // size
    word = np.int64(0)
    for j in range(size):
        number = np.int64(descriptor[size * k + j]) - shift
        word |= (number & ((1 << bits) - 1)) << (bits * j)
    return np.int32(word)


@kernel
def rows_of_words(descriptors, size):
    """Descriptors as words, padded with zeros to whole tiles."""
    count, words = len(descriptors), LENGTH // size
    rows = np.zeros(((count + ROWS - 1) // ROWS * ROWS, words), np.int32)
    for row in range(count):
        for k in range(words):
            rows[row, k] = word_of(descriptors[row], k, size, 0)
    return rows


@kernel
def panels_of_words(descriptors, size, shift):
    """The same in panels of 16 descriptors, word by word, with `shift` taken from each number."""
    count, words = len(descriptors), LENGTH // size
    panels = np.empty(((count + COLUMNS - 1) // COLUMNS, words, COLUMNS), np.int32)
    panels[:] = word_of(np.zeros(LENGTH, np.uint8), 0, size, shift)
    for row in range(count):
        for k in range(words):
            panels[row // COLUMNS, k, row % COLUMNS] = word_of(descriptors[row], k, size, shift)
    return panels


@kernel
def has_large_four(descriptor):
    """Whether some of its numbers that are added in 16 bits are too large for that."""
    for start in range(0, LENGTH, 8):
        for k in range(start, start + 4, 2):
            four = np.int64(0)
            for place in (k, k + 1, k + 4, k + 5):
                four += descriptor[place]
            if four > MOST_IN_FOUR:
                return True
    return False


@kernel
def large_tiles(descriptors):
    """Tiles of rows of which one cannot be multiplied in 8 bits; and what their products lack."""
    tiles = np.zeros((len(descriptors) + ROWS - 1) // ROWS, np.bool_)
    lacking = np.zeros(len(tiles) * ROWS, np.int32)
    for row in range(len(descriptors)):
        total = np.int64(0)
        for k in range(LENGTH):
            total += descriptors[row, k]
        lacking[row] = OFFSET * total
        if has_large_four(descriptors[row]):
            tiles[row // ROWS] = True
    return tiles, lacking


@kernel
def large_panels(descriptors):
    """Likewise of panels."""
    panels = np.zeros((len(descriptors) + COLUMNS - 1) // COLUMNS, np.bool_)
    for row in range(len(descriptors)):
        if descriptors[row].max() > 2 * OFFSET:
            panels[row // COLUMNS] = True
    return panels


@kernel
def panels_of_places(pixels):
    """Pixels in panels of 16: x of all, then y; what fills the last one is near no line."""
    panels = np.full(((len(pixels) + COLUMNS - 1) // COLUMNS, 2, COLUMNS), np.nan, np.float32)
    for row in range(len(pixels)):
        for axis in range(2):
            panels[row // COLUMNS, axis, row % COLUMNS] = pixels[row, axis]
    return panels


@kernel
def rows_of_lines(lines):
    """Lines with (a, b) of unit length, padded to whole tiles."""
    rows = np.zeros(((len(lines) + ROWS - 1) // ROWS * ROWS, 3), np.float32)
    for row in range(len(lines)):
        length = np.sqrt(lines[row, 0] ** 2 + lines[row, 1] ** 2)
        for k in range(3):
            rows[row, k] = lines[row, k] / length
    return rows


@kernel
def largest_products(
    descriptors, others, lines, pixels, band, best, chosen, other_best, other_chosen
):
    """For the descriptors of both photos the two largest products with one of the other's.

    The first of equal ones is chosen; where all products are zero, none (-1).

    Args:
        lines: a x + b y + c = 0 in the other photo, of each descriptor.
        pixels: Of the others.
        band: Pixels from a line beyond which products count as zero; negative: all count, and
            lines and pixels are not read.
    """
    near_lines, places = rows_of_lines(lines), panels_of_places(pixels)
    width = np.float32(band)
    tiles, lacking = large_tiles(descriptors)
    large = large_panels(others)
    if not has_narrow_products():
        large[:] = True
    nothing = np.zeros(ROWS, np.int32)
    rows, panels = rows_of_words(descriptors, 4), panels_of_words(others, 4, OFFSET)
    wide_rows, wide_panels = rows[:0], panels[:0]
    if tiles.any() or large.any():
        wide_rows, wide_panels = rows_of_words(descriptors, 2), panels_of_words(others, 2, 0)
    states = np.zeros((len(rows), 3, COLUMNS), np.int32)
    states[:, 2] = -1
    column = np.empty((3, COLUMNS), np.int32)
    for number in range(len(panels)):
        column[:2], column[2] = 0, -1
        # A panel stays in the nearest cache while all rows pass by.
        for row in range(0, len(rows), ROWS):
            state = offset(pointer(states), row * 3 * COLUMNS)
            if large[number] or tiles[row // ROWS]:
                match_wide(
                    offset(pointer(wide_rows), row * LENGTH // 2),
                    offset(pointer(wide_panels), number * COLUMNS * LENGTH // 2),
                    pointer(nothing), offset(pointer(near_lines), row * 3),
                    offset(pointer(places), number * 2 * COLUMNS), width, state, pointer(column),
                    row, number,
                )  # fmt: skip
            else:
                match_narrow(
                    offset(pointer(rows), row * LENGTH // 4),
                    offset(pointer(panels), number * COLUMNS * LENGTH // 4),
                    offset(pointer(lacking), row), offset(pointer(near_lines), row * 3),
                    offset(pointer(places), number * 2 * COLUMNS), width, state, pointer(column),
                    row, number,
                )  # fmt: skip
        for j in range(min(COLUMNS, len(others) - number * COLUMNS)):
            at = number * COLUMNS + j
            other_best[at, 0], other_best[at, 1] = column[0, j], column[1, j]
            other_chosen[at] = column[2, j]
    for row in range(len(descriptors)):
        gather_lanes(states[row], best[row], chosen, row)
    keep_alive(near_lines)
    keep_alive(places)
    keep_alive(rows)
    keep_alive(panels)
    keep_alive(wide_rows)
    keep_alive(wide_panels)
    keep_alive(lacking)
    keep_alive(nothing)
    keep_alive(states)
    keep_alive(column)


@kernel
def gather_lanes(state, best, chosen, row):
    """The two largest of a row's sixteen lanes."""
    first, second, at = np.int32(0), np.int32(0), np.int64(-1)
    for lane in range(COLUMNS):
        value = state[0, lane]
        where = np.int64(state[2, lane]) * COLUMNS + lane if state[2, lane] >= 0 else np.int64(-1)
        second = max(second, state[1, lane], min(value, first))
        if value > first or (value == first and 0 <= where < at):
            first, at = value, where
    best[0], best[1] = first, second
    chosen[row] = at
