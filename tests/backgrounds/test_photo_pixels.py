"""Single pixels of photos, and single rays, have the background that whole photos have."""

import pytest
import torch

from fm3d_plugins.backgrounds.kept import KeptBackground
from fm3d_plugins.backgrounds.photo_pixels import IS_SHOWN, MAY_BE, PhotoPixels
from fm3d_plugins.backgrounds.plain import PlainBackground
from fm3d_plugins.backgrounds.regions import resized
from fm3d_plugins.backgrounds.still import StillBackground

SIZES = ((12, 20), (18, 16))
"""Height and width of two photos."""


def regions():
    """Of small copies: 2 and 3 times smaller than the photos."""
    generator = torch.Generator().manual_seed(0)
    is_shown = [torch.rand(6, 10, generator=generator) < 0.4]
    is_shown += [torch.rand(6, 8, generator=generator) < 0.4]
    may_be = [each | (torch.rand(each.shape, generator=generator) < 0.3) for each in is_shown]
    return is_shown, may_be


def plain():
    coefficients = 0.1 * torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
    coefficients[:, 0] += 0.5
    return PlainBackground(*regions(), coefficients)


def still():
    draw = torch.Generator().manual_seed(2)
    picture = torch.randint(256, (*SIZES[0], 3), generator=draw, dtype=torch.uint8)
    return StillBackground(*regions(), picture, torch.tensor([1.0, 1.4]))


def places(height, width):
    """Of all pixels, row by row: [H * W, 2], across and down."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([(column + 0.5) / width, (row + 0.5) / height], -1).reshape(-1, 2)


@pytest.mark.parametrize("photo", [0, 1])
def test_pixels_show_what_the_regions_of_their_photo_say(photo):
    found, (height, width) = plain(), SIZES[photo]
    row = torch.full((height * width,), photo)
    shown = PhotoPixels(found).shown(row, places(height, width)).reshape(height, width, 1)
    is_shown = resized(found.is_shown[photo], height, width)
    may_be = resized(found.may_be_shown[photo], height, width)
    assert torch.equal((shown == IS_SHOWN).float(), is_shown)
    assert torch.equal((shown >= MAY_BE).float(), may_be)


@pytest.mark.parametrize("photo", [0, 1])
@pytest.mark.parametrize("found", [plain(), still()])
def test_the_colour_behind_a_pixel_is_that_of_the_whole_photo(found, photo):
    """Photos before a picture that stands still have one size; the second is brighter."""
    height, width = SIZES[0] if isinstance(found, StillBackground) else SIZES[photo]
    row = torch.full((height * width,), photo)
    colors = PhotoPixels(found).colors(row, places(height, width))
    expected = found.colors(photo, height, width).reshape(-1, 3)
    torch.testing.assert_close(colors, expected)


@pytest.mark.parametrize("found", [plain(), still()])
def test_the_colour_behind_a_ray_is_that_of_the_whole_view(found):
    kept, (height, width) = KeptBackground(found), SIZES[0]
    whole = kept.at_size(height, width)
    torch.testing.assert_close(kept.at(places(height, width)), whole.reshape(-1, 3))


@pytest.mark.parametrize("found", [plain(), still()])
def test_a_checkpoint_brings_its_background_to_a_model_that_found_none(found):
    kept, other = KeptBackground(found), KeptBackground(None)
    assert not other.state_dict() and other.at_size(3, 4) is None
    assert other.at(places(3, 4)) is None
    state = {f"behind.{name}": tensor for name, tensor in kept.state_dict().items()}
    assert len(state) == 1
    state = other.take_from(state, "behind.")
    other.load_state_dict({name.removeprefix("behind."): each for name, each in state.items()})
    assert torch.equal(other.at_size(*SIZES[0]), kept.at_size(*SIZES[0]))
