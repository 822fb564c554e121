"""Gain and offset per photo."""

import pytest
import torch

from fm3d_plugins.exposure import Exposure, exposure_of


def test_fresh_exposure_changes_nothing():
    exposure = Exposure(3)
    colors = torch.rand(10, 3)
    seen = exposure(colors, torch.ones(10, 1), torch.randint(3, (10,)))
    assert torch.equal(seen, colors)
    assert float(exposure.penalty()) == 0


def test_gain_and_offset_act_on_the_photos_own_rays():
    """Photo 0 twice as bright in red as photo 1: gains sqrt(2) and 1 / sqrt(2) about the mean."""
    exposure = Exposure(2)
    with torch.no_grad():
        exposure.corrections[0, 0] = torch.tensor(2.0).log()
        exposure.corrections[1, 5] = 0.2  # Blue offset: +0.1 for photo 1, -0.1 for photo 0.
    colors, opacity = torch.full((2, 3), 0.4), torch.tensor([[1.0], [0.5]])
    seen = exposure(colors, opacity, torch.tensor([0, 1]))
    expected = [[0.4 * 2**0.5, 0.4, 0.3], [0.4 / 2**0.5, 0.4, 0.45]]
    torch.testing.assert_close(seen, torch.tensor(expected))


def test_what_all_photos_have_in_common_is_left_to_the_field():
    exposure = Exposure(4)
    with torch.no_grad():
        exposure.corrections.copy_(torch.randn(6).expand(4, 6))
    torch.testing.assert_close(exposure.centred(), torch.zeros(4, 6))


def test_rendered_views_have_no_say_in_the_photos_mean():
    """One that is three times as bright leaves the photos where they are, and is corrected."""
    exposure = Exposure(2, num_rendered=1)
    with torch.no_grad():
        exposure.corrections[2, :3] = torch.tensor(3.0).log()
    seen = exposure(torch.full((3, 3), 0.2), torch.ones(3, 1), torch.arange(3))
    torch.testing.assert_close(seen[:, 0], torch.tensor([0.2, 0.2, 0.6]))


def test_gain_alone_has_no_offset():
    exposure = exposure_of("gain", 2, None)
    assert exposure is not None and exposure.corrections.shape == (2, 3)
    with torch.no_grad():
        exposure.corrections[0] = torch.tensor([4.0, 1, 1]).log()
    seen = exposure(torch.full((2, 3), 0.2), torch.ones(2, 1), torch.arange(2))
    torch.testing.assert_close(seen, torch.tensor([[0.4, 0.2, 0.2], [0.1, 0.2, 0.2]]))


def test_an_image_has_the_exposure_of_its_photo():
    exposure = exposure_of("affine", 3, torch.tensor([False, False, True]))
    assert exposure is not None and exposure.num_photos == 2
    with torch.no_grad():
        exposure.corrections.normal_()
    image = torch.rand(4, 5, 3)
    whole = exposure(image, torch.ones(4, 5, 1), torch.tensor([[1]]))
    rays = exposure(image.flatten(0, 1), torch.ones(20, 1), torch.ones(20, dtype=torch.long))
    torch.testing.assert_close(whole.flatten(0, 1), rays)


@pytest.mark.parametrize(("mode", "columns"), [("none", None), (False, None), (True, 6)])
def test_modes_and_those_of_older_runs(mode, columns):
    exposure = exposure_of(mode, 3, None)
    assert (None if exposure is None else exposure.corrections.shape[1]) == columns


def test_one_photos_error_moves_its_own_correction_alone():
    """And its penalty is of its own: other rows are left to their optimizer as they are."""
    exposure = Exposure(3)
    with torch.no_grad():
        exposure.corrections.normal_()
    seen = exposure(torch.rand(7, 3), torch.ones(7, 1), torch.tensor([1]))
    (seen.sum() + exposure.penalty(1)).backward()
    grad = exposure.corrections.grad
    assert (grad[1] != 0).all() and not grad[[0, 2]].any()
