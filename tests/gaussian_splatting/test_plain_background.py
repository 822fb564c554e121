"""One colour behind a thing is told from a photo's surroundings."""

import pytest
import torch

from fm3d_plugins.gaussian_splatting.plain_background import plain_background


def photos(color, count=4):
    """A bright square before a colour with the noise of a camera; it touches no border."""
    images = []
    for seed in range(count):
        noise = torch.rand(40, 60, 3, generator=torch.Generator().manual_seed(seed)) * 0.02
        image = (torch.tensor(color) + noise - 0.01).clamp(0, 1)
        image[10:30, 15 + seed : 40] = torch.tensor([0.9, 0.5, 0.2])
        images.append(image)
    return images


@pytest.mark.parametrize("color", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.1, 0.6, 0.3)])
def test_the_colour_behind_a_thing_is_found(color):
    found = plain_background(photos(color), [None] * 4)
    torch.testing.assert_close(found, torch.tensor(color), atol=0.01, rtol=0)


def test_photos_of_surroundings_have_none():
    images = [torch.rand(40, 60, 3, generator=torch.Generator().manual_seed(s)) for s in range(4)]
    assert plain_background(images, [None] * 4) is None


def test_one_photo_before_something_else_is_enough_to_have_none():
    images = [*photos((0.0, 0.0, 0.0), 19), torch.full((40, 60, 3), 0.5)]
    assert plain_background(images, [None] * 20) is None


def test_what_is_masked_does_not_count():
    images = photos((0.0, 0.0, 0.0))
    mask = torch.zeros(40, 60, 1)
    mask[10:30, 15:40] = 1
    assert plain_background(images, [mask] * 4) is None
