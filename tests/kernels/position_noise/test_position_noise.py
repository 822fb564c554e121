"""Random moves of gaussians: closed forms, and the compiled kernel against its definition."""

import math

import pytest
import torch

from fm3d_plugins.kernels import threads
from fm3d_plugins.kernels.position_noise import add_position_noise

SMALLEST = 0.005


def gaussians(count, dtype=torch.float32):
    """Means, quaternions, log scales, opacity logits and noise; half of them nearly dead."""
    generator = torch.Generator().manual_seed(0)

    def normal(columns):
        return torch.randn(count, columns, generator=generator, dtype=torch.float64).to(dtype)

    logits = 2 * normal(1) + torch.tensor([-6.0, 0.0], dtype=dtype).repeat(count)[:count, None]
    return [normal(3), normal(4), 0.5 * normal(3), logits, normal(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_along_the_axes_moves_by_its_variances(dtype):
    """Half a turn about z keeps the axes. At the smallest opacity the gate is one half."""
    means = torch.zeros(1, 3, dtype=dtype)
    quaternion = torch.tensor([[0.0, 0, 0, 3]], dtype=dtype)
    log_scales = torch.tensor([[1.0, 2, 3]], dtype=dtype).log()
    logit = torch.tensor([[math.log(SMALLEST / (1 - SMALLEST))]], dtype=dtype)
    noise = torch.tensor([[1.0, -1, 2]], dtype=dtype)
    add_position_noise(means, quaternion, log_scales, logit, noise, SMALLEST)
    torch.testing.assert_close(means, torch.tensor([[0.5, -2, 9]], dtype=dtype))


def test_opaque_gaussian_stays():
    means, quaternions, log_scales, logits, noise = gaussians(9)
    before = means.clone()
    # The gate of opacity 1 is e^-99.5.
    add_position_noise(means, quaternions, log_scales, logits + 50, noise, SMALLEST)
    assert torch.equal(means, before)


@pytest.mark.parametrize("count", [0, 1, 700])
def test_kernel_moves_as_the_definition_does_in_float64(count):
    exact, fast = gaussians(count, torch.float64), gaussians(count)
    add_position_noise(*exact, SMALLEST)
    add_position_noise(*fast, SMALLEST)
    # Moves of up to about ten, in float32.
    torch.testing.assert_close(fast[0].double(), exact[0], atol=1e-5, rtol=1e-5)


def test_moves_are_bitwise_equal_for_any_number_of_threads():
    moved = []
    for num_threads in (1, 2, 5):
        threads.set_num_threads(num_threads)
        moved.append(gaussians(2000))
        add_position_noise(*moved[-1], SMALLEST)
    threads.set_num_threads(None)
    assert all(torch.equal(values[0], moved[0][0]) for values in moved)
