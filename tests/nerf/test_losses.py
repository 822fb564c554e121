"""Errors of colours and distortion of rays."""

import pytest
import torch

from fm3d_plugins.nerf.losses import (
    charbonnier_error,
    emptiness,
    scene_distortion,
    squared_error,
)


def test_squared_error_is_what_psnr_counts():
    rendered, target = torch.full((5, 3), 0.5), torch.full((5, 3), 0.6)
    assert float(squared_error(rendered, target)) == pytest.approx(0.01)


def test_charbonnier_error_counts_large_errors_by_their_size_and_has_a_slope_at_zero():
    target = torch.zeros(1, 3)
    assert float(charbonnier_error(target + 0.5, target)) == pytest.approx(0.5, rel=1e-4)
    rendered = torch.zeros(1, 3, requires_grad=True)
    charbonnier_error(rendered, target).backward()
    assert torch.equal(rendered.grad, torch.zeros(1, 3))


@pytest.mark.parametrize("error", [squared_error, charbonnier_error])
def test_a_ray_counts_by_its_weight_and_a_weight_of_1_changes_nothing(error):
    rendered, target = torch.rand(2, 3), torch.rand(2, 3)
    each = [error(rendered[row : row + 1], target[row : row + 1]) for row in (0, 1)]
    weighted = error(rendered, target, torch.tensor([[1.0], [0.25]]))
    torch.testing.assert_close(weighted, (each[0] + 0.25 * each[1]) / 2)
    assert torch.equal(error(rendered, target, torch.ones(2, 1)), error(rendered, target))


def test_near_distortion_is_half_of_that_in_scene_units_and_far_distortion_inverse():
    """One interval with weight 1: a third of its length, which is 0.2 / 2 from 0.4 to 0.6, and
    1/2 (1/2 - 1/4) from 2 to 4."""
    one, two = torch.ones(1, 1), torch.full((1, 1), 2.0)
    near = scene_distortion(one, one / 2, one / 5)
    far = scene_distortion(one, 3 * one, two)
    assert float(near) == pytest.approx(0.1 / 3)
    assert float(far) == pytest.approx(0.125 / 3)


def test_an_opaque_ray_before_the_background_is_still_pulled_and_no_other():
    """Truth: d/do of -log(1.001 - o), over three rays: 333 where o is 1, 1 / 3 where it is 0."""
    opacity = torch.tensor([[1.0], [0.0], [1.0]], requires_grad=True)
    emptiness(opacity, torch.tensor([[True], [True], [False]])).backward()
    expected = torch.tensor([[1000 / 3], [1 / 3], [0.0]])
    # Of 1.001 - 1 in 32 bits a thousandth is left.
    torch.testing.assert_close(opacity.grad, expected, rtol=2e-3, atol=0)
