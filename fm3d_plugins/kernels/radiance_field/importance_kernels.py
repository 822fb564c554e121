"""Drawing intervals from a grid of densities; the definition is `importance_reference`."""

import numpy as np

from fm3d_plugins.kernels.compiled import inlined_kernel, kernel
from fm3d_plugins.kernels.radiance_field.ray_kernels import LOG2_E, contract, place_samples
from fm3d_plugins.kernels.simd import (
    LANES,
    exp2,
    fma,
    keep_alive,
    load,
    offset,
    pointer,
    store,
    take,
)

RAYS_PER_ITEM = 64
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


@inlined_kernel
def clamped(place, resolution):
    """The cell of a place along one axis."""
    return min(max(np.int64(place), 0), resolution - 1)


@kernel
def look_up(ray, middles, num_strata, cells, resolution, x, y, z, found):
    """Densities of the cells in the middles of the strata; `num_strata` a multiple of 16."""
    size = np.float32(resolution)
    for i in range(0, num_strata, LANES):
        distance = load(middles, i)
        px, py, pz = contract(
            fma(distance, ray[3], ray[0]), fma(distance, ray[4], ray[1]),
            fma(distance, ray[5], ray[2]),
        )  # fmt: skip
        store(x, i, px * size)
        store(y, i, py * size)
        store(z, i, pz * size)
    for i in range(num_strata):
        row = clamped(x[i], resolution) * resolution + clamped(y[i], resolution)
        found[i] = cells[row * resolution + clamped(z[i], resolution)]


@kernel
def accumulate_shares(found, lengths, num_strata, uniform, optical, weights, cumulative):
    """Cumulative shares of the strata, from 0."""
    total = ZERO
    for i in range(num_strata):
        depth = found[i] * lengths[i]
        optical[i], weights[i] = depth, total
        total += depth
    for i in range(0, num_strata, LANES):
        before = exp2(load(weights, i) * -LOG2_E)
        store(weights, i, before * (ONE - exp2(load(optical, i) * -LOG2_E)))
    before, here = ZERO, weights[0]
    cumulative[0] = total = ZERO
    for i in range(num_strata):
        after = weights[i + 1] if i + 1 < num_strata else ZERO
        total += HALF * (max(before, here) + max(here, after)) + uniform
        cumulative[i + 1] = total
        before, here = here, after


@kernel
def choose(cumulative, strata, num_strata, num_samples, jitter, middles, lengths):
    """Intervals between cuts where the cumulative shares reach evenly spaced values."""
    step = cumulative[num_strata] / np.float32(max(num_samples - 1, 1))
    k, start = 0, strata[0]
    for j in range(num_samples):
        end = strata[num_strata]
        if j < num_samples - 1:
            wanted = (np.float32(j) + jitter) * step
            while k < num_strata - 1 and cumulative[k + 1] <= wanted:
                k += 1
            share = (wanted - cumulative[k]) / (cumulative[k + 1] - cumulative[k])
            end = strata[k] + (strata[k + 1] - strata[k]) * min(max(share, ZERO), ONE)
        middles[j] = HALF * (start + end)
        lengths[j] = end - start
        start = end


@kernel
def draw(counter, num_items, rays, strata, places, cells, uniform, jitter, middles, lengths):
    """Intervals [R, N] of rays [R, 6]. `places` is (middles, lengths) of the strata."""
    num_rays, num_samples = middles.shape
    num_strata, resolution = strata.shape[0] - 1, cells.shape[0]
    memory = np.empty(7 * num_strata + 1, np.float32)
    x = pointer(memory)
    y, z = offset(x, num_strata), offset(x, 2 * num_strata)
    found, optical = offset(x, 3 * num_strata), offset(x, 4 * num_strata)
    weights, cumulative = offset(x, 5 * num_strata), offset(x, 6 * num_strata)
    while True:
        item = take(counter)
        if item >= num_items:
            break
        for ray in range(item * RAYS_PER_ITEM, min((item + 1) * RAYS_PER_ITEM, num_rays)):
            look_up(
                offset(pointer(rays), 6 * ray), pointer(places[0]), num_strata, pointer(cells),
                resolution, x, y, z, found,
            )  # fmt: skip
            accumulate_shares(
                found, pointer(places[1]), num_strata, uniform, optical, weights, cumulative
            )
            choose(
                cumulative, pointer(strata), num_strata, num_samples,
                jitter[ray],
                offset(pointer(middles), ray * num_samples),
                offset(pointer(lengths), ray * num_samples),
            )  # fmt: skip
    keep_alive(memory)


@kernel
def count_samples(rays, middles, densities, largest, resolution, cells, sums, counts):
    """Find the samples' cells, and add up the number and the densities of each cell's samples."""
    num_rays, num_samples = middles.shape
    memory = np.empty(3 * num_samples, np.float32)
    x = pointer(memory)
    y, z = offset(x, num_samples), offset(x, 2 * num_samples)
    size = np.float32(resolution)
    for ray in range(num_rays):
        own = offset(pointer(middles), ray * num_samples)
        place_samples(offset(pointer(rays), 6 * ray), own, num_samples, x, y, z)
        for i in range(num_samples):
            row = clamped(x[i] * size, resolution) * resolution
            row = (row + clamped(y[i] * size, resolution)) * resolution
            cell = row + clamped(z[i] * size, resolution)
            cells[ray, i] = cell
            sums[cell] += min(densities[ray, i], largest)
            counts[cell] += ONE
    keep_alive(memory)


@kernel
def move_cells(grid, cells, sums, counts, rate):
    """Move each counted cell towards the mean of its samples, and forget the count."""
    for i in range(cells.shape[0]):
        cell = cells[i]
        number = counts[cell]
        if number > ZERO:
            way = sums[cell] / number - grid[cell]
            grid[cell] += way * (ONE - (ONE - rate) ** number)
            sums[cell] = counts[cell] = ZERO
