"""The kernels of the plane sweep against their definitions."""

import numpy as np
import pytest
import torch

from fm3d_plugins.kernels.plane_sweep import plane_sweep_costs, smooth_costs
from fm3d_plugins.kernels.plane_sweep.torch_reference import (
    plane_sweep_costs_torch,
    smooth_costs_torch,
)

RADIUS, SMALLEST_VARIANCE = 2, 1e-4


def shifts(*pixels):
    """Homographies that move pixels sideways."""
    matrices = torch.eye(3, dtype=torch.float64).repeat(len(pixels), 1, 1)
    matrices[:, 0, 2] = torch.tensor(pixels, dtype=torch.float64)
    return matrices


def costs_of(image, neighbours, homographies):
    return torch.from_numpy(
        plane_sweep_costs(
            image.numpy(),
            neighbours.numpy(),
            homographies.numpy(),
            radius=RADIUS,
            smallest_variance=SMALLEST_VARIANCE,
        )
    )


@pytest.mark.parametrize("width", [15, 16, 17, 40])
def test_costs_are_those_of_the_definition(width):
    """Turned, tilted and shifted planes, some out of sight, some behind the camera."""
    torch.manual_seed(0)
    image, neighbours = torch.rand(13, width), torch.rand(3, 11, 15)
    homographies = torch.eye(3, dtype=torch.float64) + 0.02 * torch.randn(
        3, 6, 3, 3, dtype=torch.float64
    )
    homographies[:, :, 2] *= 0.1
    homographies[:, :, 2, 2] = 1
    homographies[1, 2] *= -1
    homographies[:, 5, 0, 2] = 100
    expected = plane_sweep_costs_torch(image, neighbours, homographies, RADIUS, SMALLEST_VARIANCE)
    found = costs_of(image, neighbours, homographies)
    # Variances are differences of sums of 25 numbers in float32.
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)
    assert (found[..., 5] == 1).all()


def test_the_right_plane_costs_nothing_in_spite_of_exposure_and_of_one_that_is_hidden():
    """Truth: correlation knows no gain and no offset; the best two of three neighbours count."""
    torch.manual_seed(1)
    image = torch.rand(20, 30)
    moved = torch.roll(image, 3, dims=1)
    neighbours = torch.stack([0.5 * moved + 0.2, torch.rand(20, 30), moved])
    costs = costs_of(image, neighbours, shifts(0, 3, 6).repeat(3, 1, 1, 1))
    inner = costs[4:-4, 4:-8]
    assert (inner.argmin(-1) == 1).all()
    # The smallest variance takes 1e-4 of 1/12 (or of a quarter of it) from a correlation of 1.
    assert inner[..., 1].max() < 0.02


def test_one_neighbour_and_windows_of_another_size_are_those_of_the_definition():
    torch.manual_seed(3)
    image, neighbours = torch.rand(9, 20), torch.rand(1, 9, 20)
    warps = shifts(-2.5, 0, 3)[None]
    expected = plane_sweep_costs_torch(image, neighbours, warps, 3, SMALLEST_VARIANCE)
    found = plane_sweep_costs(image.numpy(), neighbours.numpy(), warps.numpy(), radius=3)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=2e-4, rtol=2e-4)


def test_arrays_need_not_be_contiguous():
    torch.manual_seed(4)
    image, neighbours = torch.rand(20, 9), torch.rand(2, 20, 9)
    warps = shifts(0, 1).repeat(2, 1, 1, 1)
    costs = costs_of(image.T.contiguous(), neighbours.mT.contiguous(), warps)
    torch.testing.assert_close(costs_of(image.T, neighbours.mT, warps), costs, rtol=0, atol=0)
    smoothed = smooth_costs(costs.numpy(), image.T.contiguous().numpy())
    strided = costs.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    np.testing.assert_array_equal(smooth_costs(strided.numpy(), image.T.numpy()), smoothed)


@pytest.mark.parametrize("planes", [1, 5, 16, 37])
def test_smoothing_is_that_of_the_definition(planes):
    torch.manual_seed(2)
    costs, image = torch.rand(6, 7, planes), torch.rand(6, 7)
    options = {"step": 0.1, "jump": 0.6, "edge": 0.05}
    expected = smooth_costs_torch(costs, image, **options)
    found = torch.from_numpy(smooth_costs(costs.numpy(), image.numpy(), **options))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_says_nothing_becomes_as_its_surroundings():
    """Truth: between two walls of one plane, equal costs leave that plane the cheapest."""
    costs = torch.ones(9, 15, 8)
    costs[:, :4, 3] = costs[:, -4:, 3] = 0
    total = torch.from_numpy(smooth_costs(costs.numpy(), torch.full((9, 15), 0.5).numpy()))
    assert (total.argmin(-1) == 3).all()
