"""The hash grid in Numba; the definition is `torch_reference.py`.

A level is described by a row of `levels`: scale, resolution (0 where points are hashed), first
entry, number of entries. Positions come as three planes (x, y, z) of `num_points` each.
"""

import numpy as np

from fm3d_plugins.kernels.compiled import inlined_kernel, kernel
from fm3d_plugins.kernels.hash_grid.layout import PRIMES
from fm3d_plugins.kernels.simd import offset, pointer, take
from fm3d_plugins.kernels.simd_tiles import (
    dot4,
    fma4,
    load4,
    scale4,
    store4,
    subtract4,
)

HALF, ONE = np.float32(0.5), np.float32(1.0)
PRIME_Y, PRIME_Z = PRIMES[1], PRIMES[2]
QUAD = 4

CHUNK = 512
"""Points handed to a thread at once."""


@inlined_kernel
def wrapped(index, size):
    """index modulo size, for 0 <= index < 2 size: points just outside the grid start anew."""
    return index - size if index >= size else index


@inlined_kernel
def within(index, resolution):
    """An index that a position in the unit cube has; others, and what is not a number, count as
    the nearest: nothing outside the table is touched."""
    return min(max(index, 0), resolution - 1)


@inlined_kernel
def corners(level, x, y, z):
    """Table elements of the 8 grid points around a position (x fastest), and the fractions."""
    scale, resolution, first, size = level
    px, py, pz = x * scale + HALF, y * scale + HALF, z * scale + HALF
    ix, iy, iz = np.int64(px), np.int64(py), np.int64(pz)
    fractions = px - np.float32(ix), py - np.float32(iy), pz - np.float32(iz)
    if resolution == 0:
        mask = size - 1
        y0, y1 = iy * PRIME_Y, (iy + 1) * PRIME_Y
        z0, z1 = iz * PRIME_Z, (iz + 1) * PRIME_Z
        a, b, c, d = y0 ^ z0, y1 ^ z0, y0 ^ z1, y1 ^ z1
        entries = (
            (ix ^ a) & mask, ((ix + 1) ^ a) & mask, (ix ^ b) & mask, ((ix + 1) ^ b) & mask,
            (ix ^ c) & mask, ((ix + 1) ^ c) & mask, (ix ^ d) & mask, ((ix + 1) ^ d) & mask,
        )  # fmt: skip
    else:
        a = within(iz, resolution) * resolution + within(iy, resolution)
        a = a * resolution + within(ix, resolution)
        b, c = a + resolution, a + resolution * resolution
        d = c + resolution
        entries = (
            a, wrapped(a + 1, size), wrapped(b, size), wrapped(b + 1, size),
            wrapped(c, size), wrapped(c + 1, size), wrapped(d, size), wrapped(d + 1, size),
        )  # fmt: skip
    e0, e1, e2, e3, e4, e5, e6, e7 = entries
    return (
        QUAD * (first + e0), QUAD * (first + e1), QUAD * (first + e2), QUAD * (first + e3),
        QUAD * (first + e4), QUAD * (first + e5), QUAD * (first + e6), QUAD * (first + e7),
    ), fractions  # fmt: skip


@inlined_kernel
def corner_weights(fractions):
    """Trilinear weights, in the order of `corners`."""
    x, y, z = fractions
    x0, y0, z0 = ONE - x, ONE - y, ONE - z
    a, b, c, d = y0 * z0, y * z0, y0 * z, y * z
    return x0 * a, x * a, x0 * b, x * b, x0 * c, x * c, x0 * d, x * d


@inlined_kernel
def level_row(levels, index):
    """One level's description as a tuple of the right types."""
    row = levels[index]
    return np.float32(row[0]), np.int64(row[1]), np.int64(row[2]), np.int64(row[3])


@kernel
def encode_points(x, y, z, num_points, table, levels, features, stride):
    """Write all levels' features of `num_points` positions, `stride` elements per position.

    All but `levels` are pointers.
    """
    for index in range(levels.shape[0]):
        level = level_row(levels, index)
        at = index * QUAD
        for i in range(num_points):
            elements, fractions = corners(level, x[i], y[i], z[i])
            weights = corner_weights(fractions)
            total = scale4(weights[0], load4(table, elements[0]))
            total = fma4(weights[1], load4(table, elements[1]), total)
            total = fma4(weights[2], load4(table, elements[2]), total)
            total = fma4(weights[3], load4(table, elements[3]), total)
            total = fma4(weights[4], load4(table, elements[4]), total)
            total = fma4(weights[5], load4(table, elements[5]), total)
            total = fma4(weights[6], load4(table, elements[6]), total)
            total = fma4(weights[7], load4(table, elements[7]), total)
            store4(features, i * stride + at, total)


@inlined_kernel
def add_to(table, element, weight, gradient):
    """table[element:element + 4] += weight * gradient."""
    store4(table, element, fma4(weight, gradient, load4(table, element)))


@kernel
def scatter_points(x, y, z, num_points, level, gradients, stride, d_table):
    """Add one level's feature gradients of `num_points` positions to the table's gradient.

    All but `level`, a tuple, are pointers.
    """
    for i in range(num_points):
        elements, fractions = corners(level, x[i], y[i], z[i])
        weights = corner_weights(fractions)
        gradient = load4(gradients, i * stride)
        add_to(d_table, elements[0], weights[0], gradient)
        add_to(d_table, elements[1], weights[1], gradient)
        add_to(d_table, elements[2], weights[2], gradient)
        add_to(d_table, elements[3], weights[3], gradient)
        add_to(d_table, elements[4], weights[4], gradient)
        add_to(d_table, elements[5], weights[5], gradient)
        add_to(d_table, elements[6], weights[6], gradient)
        add_to(d_table, elements[7], weights[7], gradient)


@inlined_kernel
def edge_difference(table, elements, low, high, gradient):
    """Change of sum(features * gradient) from one corner to another."""
    return dot4(subtract4(load4(table, elements[high]), load4(table, elements[low])), gradient)


@kernel
def pull_back_points(x, y, z, num_points, table, levels, gradients, stride, d_x, d_y, d_z):
    """Write the gradient with respect to positions, of features' gradients.

    All but `levels` are pointers.
    """
    for i in range(num_points):
        total_x = total_y = total_z = np.float32(0.0)
        for index in range(levels.shape[0]):
            level = level_row(levels, index)
            e, (u, v, w) = corners(level, x[i], y[i], z[i])
            g = load4(gradients, i * stride + index * QUAD)
            u0, v0, w0, scale = ONE - u, ONE - v, ONE - w, level[0]
            total_x += scale * (
                w0
                * (v0 * edge_difference(table, e, 0, 1, g) + v * edge_difference(table, e, 2, 3, g))
                + w
                * (v0 * edge_difference(table, e, 4, 5, g) + v * edge_difference(table, e, 6, 7, g))
            )
            total_y += scale * (
                w0
                * (u0 * edge_difference(table, e, 0, 2, g) + u * edge_difference(table, e, 1, 3, g))
                + w
                * (u0 * edge_difference(table, e, 4, 6, g) + u * edge_difference(table, e, 5, 7, g))
            )
            total_z += scale * (
                v0
                * (u0 * edge_difference(table, e, 0, 4, g) + u * edge_difference(table, e, 1, 5, g))
                + v
                * (u0 * edge_difference(table, e, 2, 6, g) + u * edge_difference(table, e, 3, 7, g))
            )
        d_x[i], d_y[i], d_z[i] = total_x, total_y, total_z


@kernel
def encode_all(counter, num_chunks, positions, table, levels, features):
    """Features of positions [3, N]; threads take chunks of points."""
    num_points, stride = positions.shape[1], features.shape[1]
    planes, table_data, out = pointer(positions), pointer(table), pointer(features)
    while True:
        chunk = take(counter)
        if chunk >= num_chunks:
            break
        first = chunk * CHUNK
        encode_points(
            offset(planes, first),
            offset(planes, num_points + first),
            offset(planes, 2 * num_points + first),
            min(CHUNK, num_points - first),
            table_data,
            levels,
            offset(out, first * stride),
            stride,
        )


@kernel
def scatter_all(counter, num_levels, positions, levels, gradients, d_table):
    """Gradient of the table; a thread takes whole levels, so no two write to the same entry."""
    num_points, stride = positions.shape[1], gradients.shape[1]
    planes, sources, target = pointer(positions), pointer(gradients), pointer(d_table)
    while True:
        # The finest levels, which take longest, first.
        index = num_levels - 1 - take(counter)
        if index < 0:
            break
        level = level_row(levels, index)
        scatter_points(
            planes,
            offset(planes, num_points),
            offset(planes, 2 * num_points),
            num_points,
            level,
            offset(sources, index * QUAD),
            stride,
            target,
        )


@kernel
def pull_back_all(counter, num_chunks, positions, table, levels, gradients, d_positions):
    """Gradient of positions [3, N]; threads take chunks of points."""
    num_points, stride = positions.shape[1], gradients.shape[1]
    planes, table_data = pointer(positions), pointer(table)
    sources, target = pointer(gradients), pointer(d_positions)
    while True:
        chunk = take(counter)
        if chunk >= num_chunks:
            break
        first = chunk * CHUNK
        pull_back_points(
            offset(planes, first),
            offset(planes, num_points + first),
            offset(planes, 2 * num_points + first),
            min(CHUNK, num_points - first),
            table_data,
            levels,
            offset(sources, first * stride),
            stride,
            offset(target, first),
            offset(target, num_points + first),
            offset(target, 2 * num_points + first),
        )
