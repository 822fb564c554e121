"""The radiance field rendered along rays, fused: grid, networks and quadrature per ray.

All of a ray's intermediate values stay in the first-level cache. The forward pass keeps only the
grid's features; the backward pass computes the rest again, which is cheaper than memory is.

Rays are handed to threads in items of RAYS_PER_ITEM, each with its own slot for the gradient of the
networks; the slots are summed in their order, so the result is that of one thread.
"""

import numpy as np

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.hash_grid.kernels import encode_points
from fm3d_plugins.kernels.radiance_field.definitions import GEOMETRY, HIDDEN, MAX_LOG_DENSITY
from fm3d_plugins.kernels.radiance_field.layer_kernels import (
    add_outer_narrow,
    add_outer_wide,
    mask_gradient,
    multiply_narrow,
    multiply_wide,
    sum_rows,
)
from fm3d_plugins.kernels.radiance_field.ray_kernels import (
    calm,
    color_network,
    contract_block,
    densities_of,
    density_network,
    place_samples,
    pull_back_colors,
    pull_back_position,
    pull_back_weights,
    weigh,
    weighted_sum,
)
from fm3d_plugins.kernels.simd import LANES, keep_alive, offset, pointer, splat, store, take

RAYS_PER_ITEM = 64

NUM_PLANES = HIDDEN + GEOMETRY + HIDDEN + LANES + HIDDEN + 5
"""Floats of scratch per sample: hidden, geometry, colour's hidden, colours, gradient of a hidden
layer, optical depth, transmittance, weight, gain of the gradient, gradient of the log density."""

ZERO = np.float32(0.0)


@kernel
def scratch_planes(scratch, num_samples):
    """The parts of a thread's scratch memory."""
    hidden = scratch
    geometry = offset(hidden, num_samples * HIDDEN)
    color_hidden = offset(geometry, num_samples * GEOMETRY)
    colors = offset(color_hidden, num_samples * HIDDEN)
    d_hidden = offset(colors, num_samples * LANES)
    optical = offset(d_hidden, num_samples * HIDDEN)
    transmittance = offset(optical, num_samples)
    weights = offset(transmittance, num_samples)
    gains = offset(weights, num_samples)
    planes = hidden, geometry, color_hidden, colors, d_hidden
    return planes, optical, transmittance, weights, gains


@kernel
def render(
    counter, num_items, rays, middles, lengths, of_direction, table, levels, networks, positions,
    features, out,
):  # fmt: skip
    """Render rays [R, 6] along intervals given by middles and lengths [R, N].

    `networks` are the four weight matrices; `positions` [3, R N] and `features` [R N, F] are
    written for the backward pass; `out` is (rgb [R, 3], weights [R, N], densities [R, N]).
    """
    num_rays, num_samples = middles.shape
    num_features, total = features.shape[1], positions.shape[1]
    memory = np.empty(num_samples * NUM_PLANES + LANES, np.float32)
    scratch = pointer(memory)
    planes, optical, transmittance, _, _ = scratch_planes(scratch, num_samples)
    hidden, geometry, color_hidden, colors, _ = planes
    color = offset(scratch, num_samples * NUM_PLANES)
    weights = (
        pointer(networks[0]), pointer(networks[1]), pointer(networks[2]), pointer(networks[3])
    )  # fmt: skip
    while True:
        item = take(counter)
        if item >= num_items:
            break
        for ray in range(item * RAYS_PER_ITEM, min((item + 1) * RAYS_PER_ITEM, num_rays)):
            first = ray * num_samples
            own_lengths = offset(pointer(lengths), first)
            x = offset(pointer(positions), first)
            y, z = offset(x, total), offset(x, 2 * total)
            own_middles = offset(pointer(middles), first)
            place_samples(offset(pointer(rays), 6 * ray), own_middles, num_samples, x, y, z)
            own = offset(pointer(features), first * num_features)
            encode_points(x, y, z, num_samples, pointer(table), levels, own, num_features)
            density_network(own, num_features, weights, hidden, geometry, num_samples)
            densities = offset(pointer(out[2]), first)
            densities_of(geometry, num_samples, densities)
            ray_weights = offset(pointer(out[1]), first)
            weigh(densities, own_lengths, num_samples, optical, transmittance, ray_weights)
            direction = offset(pointer(of_direction), ray * HIDDEN)
            color_network(direction, weights, geometry, color_hidden, colors, num_samples)
            store(color, 0, weighted_sum(ray_weights, colors, num_samples))
            for channel in range(3):
                out[0][ray, channel] = color[channel]
    keep_alive(memory)


@kernel
def pull_back_ray(
    num_samples, num_features, features, networks, transposed, planes, d_log_density, slot
):
    """Features become their gradient; the networks' gradient is added to the slot.

    The planes hold the results of the forward pass, and the gradient before the sigmoid in the
    place of colours.
    """
    hidden, geometry, color_hidden, d_colors, d_hidden = planes
    d_first = slot
    d_second = offset(d_first, num_features * HIDDEN)
    d_third = offset(d_second, HIDDEN * GEOMETRY)
    d_fourth = offset(d_third, GEOMETRY * HIDDEN)
    add_outer_narrow(d_fourth, color_hidden, HIDDEN, d_colors, num_samples)
    # Only 3 of the 16 columns of colours exist.
    multiply_wide(d_hidden, d_colors, LANES, transposed[3], 3, num_samples, False)
    mask_gradient(d_hidden, color_hidden, num_samples * HIDDEN)
    add_outer_wide(d_third, geometry, GEOMETRY, d_hidden, num_samples)
    d_geometry = d_colors
    multiply_narrow(d_geometry, GEOMETRY, d_hidden, HIDDEN, transposed[2], HIDDEN, num_samples)
    for i in range(num_samples):
        if geometry[i * GEOMETRY] < MAX_LOG_DENSITY:
            d_geometry[i * GEOMETRY] += d_log_density[i]
    return d_first, d_second, d_geometry


@kernel
def pull_back_density_network(
    num_samples, num_features, features, transposed, hidden, d_hidden, d_geometry, d_first, d_second
):
    """Features become their gradient; those of the two matrices are added to the slot's."""
    add_outer_narrow(d_second, hidden, HIDDEN, d_geometry, num_samples)
    multiply_wide(d_hidden, d_geometry, GEOMETRY, transposed[1], GEOMETRY, num_samples, False)
    mask_gradient(d_hidden, hidden, num_samples * HIDDEN)
    add_outer_wide(d_first, features, num_features, d_hidden, num_samples)
    multiply_narrow(features, num_features, d_hidden, HIDDEN, transposed[0], HIDDEN, num_samples)


@kernel
def pull_back(
    counter, num_items, middles, lengths, of_direction, networks, transposed, features, densities,
    inverse_distance, d_out, d_in,
):  # fmt: skip
    """Gradients of what `render` computed, calmed near the rays' origins.

    Features are replaced by their gradient. `d_out` is (d_rgb [R, 3], d_weights [R, N]); `d_in` is
    (slots [items, numbers of the networks], d_of_direction [R, 64]).
    """
    num_rays, num_samples = middles.shape
    num_features, slot_size = features.shape[1], d_in[0].shape[1]
    memory = np.empty(num_samples * NUM_PLANES + LANES, np.float32)
    scratch = pointer(memory)
    planes, optical, transmittance, ray_weights, gains = scratch_planes(scratch, num_samples)
    d_log_density = offset(gains, num_samples)
    hidden, geometry, color_hidden, colors, d_hidden = planes
    d_rgb = offset(scratch, num_samples * NUM_PLANES)
    store(d_rgb, 0, splat(ZERO))
    weights = (
        pointer(networks[0]), pointer(networks[1]), pointer(networks[2]), pointer(networks[3])
    )  # fmt: skip
    backwards = (
        pointer(transposed[0]), pointer(transposed[1]), pointer(transposed[2]),
        pointer(transposed[3]),
    )  # fmt: skip
    while True:
        item = take(counter)
        if item >= num_items:
            break
        slot = offset(pointer(d_in[0]), item * slot_size)
        for ray in range(item * RAYS_PER_ITEM, min((item + 1) * RAYS_PER_ITEM, num_rays)):
            first = ray * num_samples
            own = offset(pointer(features), first * num_features)
            density_network(own, num_features, weights, hidden, geometry, num_samples)
            own_lengths = offset(pointer(lengths), first)
            own_densities = offset(pointer(densities), first)
            weigh(own_densities, own_lengths, num_samples, optical, transmittance, ray_weights)
            direction = offset(pointer(of_direction), ray * HIDDEN)
            color_network(direction, weights, geometry, color_hidden, colors, num_samples)
            for channel in range(3):
                d_rgb[channel] = d_out[0][ray, channel]
            d_weights = offset(pointer(d_out[1]), first)
            calm(offset(pointer(middles), first), num_samples, inverse_distance, gains)
            pull_back_weights(
                num_samples, ray_weights, transmittance, optical, gains, colors, d_rgb, d_weights,
                d_log_density,
            )  # fmt: skip
            pull_back_colors(num_samples, ray_weights, gains, colors, d_rgb)
            d_first, d_second, d_geometry = pull_back_ray(
                num_samples, num_features, own, weights, backwards, planes, d_log_density, slot
            )
            sum_rows(offset(pointer(d_in[1]), ray * HIDDEN), d_hidden, num_samples)
            pull_back_density_network(
                num_samples, num_features, own, backwards, hidden, d_hidden, d_geometry,
                d_first, d_second,
            )  # fmt: skip
    keep_alive(memory)


@kernel
def pull_back_rays(counter, num_items, rays, middles, d_positions, d_rays):
    """Gradient of origins and directions [R, 6], of places in the unit cube [3, R N]."""
    num_rays, num_samples = middles.shape
    while True:
        item = take(counter)
        if item >= num_items:
            break
        for ray in range(item * RAYS_PER_ITEM, min((item + 1) * RAYS_PER_ITEM, num_rays)):
            ox, oy, oz = rays[ray, 0], rays[ray, 1], rays[ray, 2]
            vx, vy, vz = rays[ray, 3], rays[ray, 4], rays[ray, 5]
            gx = gy = gz = hx = hy = hz = ZERO
            for i in range(num_samples):
                middle = middles[ray, i]
                at = ray * num_samples + i
                dx, dy, dz = pull_back_position(
                    ox + middle * vx, oy + middle * vy, oz + middle * vz,
                    d_positions[0, at], d_positions[1, at], d_positions[2, at],
                )  # fmt: skip
                gx, gy, gz = gx + dx, gy + dy, gz + dz
                hx, hy, hz = hx + middle * dx, hy + middle * dy, hz + middle * dz
            d_rays[ray, 0], d_rays[ray, 1], d_rays[ray, 2] = gx, gy, gz
            d_rays[ray, 3], d_rays[ray, 4], d_rays[ray, 5] = hx, hy, hz


@kernel
def densities_at(counter, num_items, points, table, levels, networks, densities):
    """Densities of positions [N, 3] in scene units, without gradient; N a multiple of 64."""
    num_features = levels.shape[0] * 4
    block = RAYS_PER_ITEM
    memory = np.empty(block * (3 + num_features + HIDDEN + GEOMETRY), np.float32)
    x = pointer(memory)
    y, z = offset(x, block), offset(x, 2 * block)
    features = offset(x, 3 * block)
    hidden = offset(features, block * num_features)
    geometry = offset(hidden, block * HIDDEN)
    weights = pointer(networks[0]), pointer(networks[1])
    while True:
        item = take(counter)
        if item >= num_items:
            break
        for i in range(block):
            at = item * block + i
            x[i], y[i], z[i] = points[at, 0], points[at, 1], points[at, 2]
        contract_block(x, y, z, block)
        encode_points(x, y, z, block, pointer(table), levels, features, num_features)
        density_network(features, num_features, weights, hidden, geometry, block)
        densities_of(geometry, block, offset(pointer(densities), item * block))
    keep_alive(memory)
