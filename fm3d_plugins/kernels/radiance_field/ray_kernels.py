"""What happens along one ray: positions, densities, weights, colours, and their gradients."""

import math

import numpy as np

from fm3d_plugins.kernels.compiled import inlined_kernel, kernel
from fm3d_plugins.kernels.radiance_field.definitions import (
    GEOMETRY,
    HIDDEN,
    INITIAL_DENSITY,
    MAX_LOG_DENSITY,
)
from fm3d_plugins.kernels.radiance_field.layer_kernels import (
    multiply_narrow,
    multiply_wide,
    rectify,
    repeat_row,
)
from fm3d_plugins.kernels.simd import (
    LANES,
    absolute,
    exp2,
    fma,
    load,
    minimum,
    offset,
    splat,
    store,
    where_greater,
)

ZERO, HALF, ONE, TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
QUARTER, SIXTH = np.float32(0.25), np.float32(1 / 6)
LOG2_E = np.float32(math.log2(math.e))
LOG2_INITIAL = np.float32(math.log2(INITIAL_DENSITY))
CEILING = np.float32(MAX_LOG_DENSITY)
# Below, 1 - exp(-x) by its series: the difference would lose its digits.
SMALL = np.float32(0.02)


@inlined_kernel
def contract(x, y, z):
    """Vectors of positions into the unit cube; see torch_reference.contract_to_cube."""
    ax, ay, az = absolute(x), absolute(y), absolute(z)
    largest = where_greater(ax, ay, ax, ay)
    largest = where_greater(largest, az, largest, az)
    largest = where_greater(largest, ONE, largest, ONE)
    inverse = ONE / largest
    factor = (TWO - inverse) * inverse * QUARTER
    return fma(x, factor, HALF), fma(y, factor, HALF), fma(z, factor, HALF)


@kernel
def contract_block(x, y, z, count):
    """Positions into the unit cube, in place."""
    for i in range(0, count, LANES):
        px, py, pz = contract(load(x, i), load(y, i), load(z, i))
        store(x, i, px)
        store(y, i, py)
        store(z, i, pz)


@inlined_kernel
def place_samples(ray, middles, num_samples, x, y, z):
    """Write positions in the unit cube of the intervals' middles to three planes.

    `ray` holds origin and direction.
    """
    for i in range(0, num_samples, LANES):
        middle = load(middles, i)
        px, py, pz = contract(
            fma(middle, ray[3], ray[0]), fma(middle, ray[4], ray[1]), fma(middle, ray[5], ray[2])
        )
        store(x, i, px)
        store(y, i, py)
        store(z, i, pz)


@kernel
def density_network(features, num_features, weights, hidden, geometry, num_samples):
    """Geometry [samples, 16] of features [samples, F]; hidden [samples, 64] on the way."""
    multiply_wide(hidden, features, num_features, weights[0], num_features, num_samples, False)
    rectify(hidden, num_samples * HIDDEN)
    multiply_narrow(geometry, GEOMETRY, hidden, HIDDEN, weights[1], HIDDEN, num_samples)


@inlined_kernel
def density(log_density):
    """Density of the density network's first output."""
    return exp2(fma(minimum(log_density, CEILING), LOG2_E, LOG2_INITIAL))


@kernel
def densities_of(geometry, num_samples, densities):
    """Write the densities of geometry [samples, 16]."""
    for i in range(num_samples):
        densities[i] = geometry[i * GEOMETRY]
    for i in range(0, num_samples, LANES):
        store(densities, i, density(load(densities, i)))


@kernel
def weigh(densities, lengths, num_samples, optical, transmittance, weights):
    """Optical depth, transmittance before and weight of every interval."""
    for i in range(0, num_samples, LANES):
        store(optical, i, load(densities, i) * load(lengths, i))
    total = ZERO
    for i in range(num_samples):
        transmittance[i] = total
        total += optical[i]
    for i in range(0, num_samples, LANES):
        before = exp2(load(transmittance, i) * -LOG2_E)
        depth = load(optical, i)
        alpha = ONE - exp2(depth * -LOG2_E)
        series = depth * (ONE - depth * (HALF - depth * SIXTH))
        store(transmittance, i, before)
        store(weights, i, before * where_greater(SMALL, depth, series, alpha))


@kernel
def color_network(of_direction, weights, geometry, hidden, colors, num_samples):
    """Colours [samples, 16], of which 3 count, of geometry and the ray's direction."""
    repeat_row(hidden, of_direction, num_samples)
    multiply_wide(hidden, geometry, GEOMETRY, weights[2], GEOMETRY, num_samples, True)
    rectify(hidden, num_samples * HIDDEN)
    multiply_narrow(colors, LANES, hidden, HIDDEN, weights[3], HIDDEN, num_samples)
    for i in range(0, num_samples * LANES, LANES):
        store(colors, i, ONE / (ONE + exp2(load(colors, i) * -LOG2_E)))


@inlined_kernel
def weighted_sum(weights, colors, num_samples):
    """The ray's colour, in the first 3 lanes."""
    total = splat(ZERO)
    for i in range(num_samples):
        total = fma(load(colors, i * LANES), weights[i], total)
    return total


@kernel
def pull_back_weights(
    num_samples, weights, transmittance, optical, gains, colors, d_rgb, d_weights, d_log_density
):
    """Gradient of the density network's first output, of a ray's colour and weights.

    w_i = T_i (1 - exp(-tau_i)): its own tau lets less through, every earlier one dims it.
    """
    behind = ZERO
    for k in range(num_samples):
        i = num_samples - 1 - k
        color = offset(colors, i * LANES)
        gain = d_weights[i] + d_rgb[0] * color[0] + d_rgb[1] * color[1] + d_rgb[2] * color[2]
        d_optical = gain * (transmittance[i] - weights[i]) - behind
        behind += gain * weights[i]
        d_log_density[i] = d_optical * optical[i] * gains[i]


@inlined_kernel
def calm(middles, num_samples, inverse_distance, gains):
    """Write the factors min(1, (t / distance)^2) of the gradients of samples at distance t."""
    for i in range(0, num_samples, LANES):
        share = load(middles, i) * inverse_distance
        store(gains, i, minimum(share * share, ONE))


@inlined_kernel
def pull_back_colors(num_samples, weights, gains, colors, d_rgb):
    """Colours become the gradient before the sigmoid, in place."""
    gradient = load(d_rgb, 0)
    for i in range(num_samples):
        color = load(colors, i * LANES)
        factor = weights[i] * gains[i]
        store(colors, i * LANES, gradient * factor * (color * (ONE - color)))


@kernel
def pull_back_position(x, y, z, d_x, d_y, d_z):
    """Gradient of a position in scene units, of its place in the unit cube."""
    ax, ay, az = abs(x), abs(y), abs(z)
    largest = max(ax, ay, az)
    if largest <= ONE:
        return d_x * QUARTER, d_y * QUARTER, d_z * QUARTER
    inverse = ONE / largest
    factor = (TWO - inverse) * inverse * QUARTER
    slope = (inverse - ONE) * inverse * inverse * HALF * (x * d_x + y * d_y + z * d_z)
    d_x, d_y, d_z = d_x * factor, d_y * factor, d_z * factor
    if ax == largest:
        d_x += slope if x > ZERO else -slope
    elif ay == largest:
        d_y += slope if y > ZERO else -slope
    else:
        d_z += slope if z > ZERO else -slope
    return d_x, d_y, d_z
