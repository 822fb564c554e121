"""Random moves of gaussians, one gaussian at a time; exponentials in single precision."""

import math

import numpy as np

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.position_noise.torch_reference import STEEPNESS
from fm3d_plugins.kernels.rasterizer.projection_kernels import (
    BLOCK,
    dot,
    load_quaternion,
    rotation_rows,
    triple,
)
from fm3d_plugins.kernels.simd import pointer, take

ONE, TWO = np.float32(1.0), np.float32(2.0)


@kernel
def sigmoid(x):
    """1 / (1 + e^-x) of a float32."""
    return ONE / (ONE + math.exp(-x))


@kernel
def noise_along(axis, log_scale, noise):
    """The variance along one axis of a gaussian, times what the noise has of that axis."""
    return math.exp(TWO * log_scale) * dot(axis, noise)


@kernel
def add_noise(
    counter, num_blocks, means, quaternions, log_scales, opacity_logits, noise, smallest_opacity
):
    """`torch_reference.add_noise_torch`."""
    num_gaussians = np.int64(len(means))
    targets, rotations, scales = pointer(means), pointer(quaternions), pointer(log_scales)
    logits, draws = pointer(opacity_logits), pointer(noise)
    steepness, smallest = np.float32(STEEPNESS), np.float32(smallest_opacity)
    while True:
        block = take(counter)
        if block >= num_blocks:
            break
        for i in range(block * BLOCK, min(num_gaussians, (block + 1) * BLOCK)):
            gate = sigmoid(steepness * (smallest - sigmoid(logits[i])))
            r0, r1, r2 = rotation_rows(load_quaternion(rotations, i)[0])
            draw = triple(draws, 3 * i)
            along = (
                gate * noise_along((r0[0], r1[0], r2[0]), scales[3 * i], draw),
                gate * noise_along((r0[1], r1[1], r2[1]), scales[3 * i + 1], draw),
                gate * noise_along((r0[2], r1[2], r2[2]), scales[3 * i + 2], draw),
            )
            targets[3 * i] += dot(r0, along)
            targets[3 * i + 1] += dot(r1, along)
            targets[3 * i + 2] += dot(r2, along)
