"""A picture that stands still behind a thing is told from scenes, its pixels from the thing's."""

import math

import pytest
import torch
from torch.nn.functional import interpolate, max_pool2d

from fm3d_plugins.backgrounds.still import at_size, still_background

HEIGHT, WIDTH, COUNT = 240, 320, 8
THING = torch.tensor([0.9, 0.5, 0.2])


def noise(seed: int, rows: int, columns: int) -> torch.Tensor:
    """Smooth colours from 0.2 to 0.7: [HEIGHT, WIDTH, 3]."""
    coarse = torch.rand(1, 3, rows, columns, generator=torch.Generator().manual_seed(seed))
    fine = interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    return 0.2 + 0.5 * fine[0].permute(1, 2, 0)


def turning(degrees: float, count: int = COUNT) -> torch.Tensor:
    """Cameras that turn about y, so far in all: [count, 4, 4]."""
    poses = torch.eye(4).repeat(count, 1, 1)
    angles = torch.linspace(0, math.radians(degrees), count)
    poses[:, 0, 0] = poses[:, 2, 2] = angles.cos()
    poses[:, 0, 2], poses[:, 2, 0] = angles.sin(), -angles.sin()
    return poses


def place(number: int) -> tuple[slice, slice]:
    """Of a thing that moves from photo to photo, and never reaches the border."""
    return slice(90, 170), slice(60 + 22 * number, 100 + 22 * number)


def photos(behind, count: int = COUNT) -> list[torch.Tensor]:
    """A square that moves before a picture, with the noise of a camera."""
    images = []
    for number in range(count):
        draw = torch.Generator().manual_seed(100 + number)
        image = behind + 0.01 * torch.randn(HEIGHT, WIDTH, 3, generator=draw)
        image[place(number)] = THING
        images.append(image.clamp(0, 1))
    return images


def found(images, degrees: float = 90.0, masks=None):
    return still_background(images, masks or [None] * len(images), turning(degrees, len(images)))


@pytest.mark.parametrize(("rows", "columns"), [(12, 16), (30, 40)])
def test_what_shows_the_picture_is_all_but_the_thing(rows, columns):
    """But for two pixels at its outline, as most around a pixel must agree, and a few parts of one
    colour beside its way, which could be the thing's."""
    background = found(photos(noise(0, rows, columns)))
    assert background is not None
    for number, region in enumerate(background.is_shown):
        thing = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        thing[place(number)] = True
        wrong = region == thing
        inner, outer = torch.zeros_like(thing), torch.ones_like(thing)
        ys, xs = place(number)
        inner[ys.start + 2 : ys.stop - 2, xs.start + 2 : xs.stop - 2] = True
        outer[ys.start - 2 : ys.stop + 2, xs.start - 2 : xs.stop + 2] = False
        assert not wrong[inner].any()
        assert wrong[outer].float().mean() < 0.03


def test_the_picture_is_as_it_is_also_where_the_thing_is_most_of_the_time():
    """Five of eight photos show it at one place, each time in other colours. The noise of the few
    photos averages to below 0.01, and bytes round by 0.002."""
    behind = noise(0, 30, 40)
    images = photos(behind)
    for number, image in enumerate(images[:5]):
        draw = torch.Generator().manual_seed(number)
        image[20:60, 200:260] = torch.rand(40, 60, 3, generator=draw)
    background = found(images)
    assert background is not None
    error = (background.colors(0, HEIGHT, WIDTH) - behind).abs()
    assert error[20:60, 200:260].mean() < 0.01
    assert error.mean() < 0.01


def test_what_of_the_thing_always_looks_the_same_is_not_behind_it():
    """A vase of one colour in the middle stands as still as the wall."""
    images = photos(noise(0, 30, 40))
    vase = slice(60, 200), slice(120, 200)
    for number, image in enumerate(images):
        image[vase] = torch.tensor([0.8, 0.8, 0.75])
        image[place(number)] = THING
    background = found(images)
    assert background is not None
    for region, may_be in zip(background.is_shown, background.may_be_shown, strict=True):
        assert not region[66:194, 126:194].any() and not may_be[66:194, 126:194].any()


DISC = (
    (torch.arange(HEIGHT)[:, None] - 125).square() / 60**2
    + (torch.arange(WIDTH) - 160).square() / 110**2
) < 1


def beside(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """A mask and what is at most so many pixels from it."""
    side = 2 * pixels + 1
    return max_pool2d(mask[None].float(), side, stride=1, padding=pixels)[0] > 0


@pytest.mark.parametrize("rows", [60, 120])
def test_fine_texture_lies_behind_as_far_as_a_turntable_that_stands_still(rows):
    """A disc of one colour, before which a thing moves; four pixels along outlines are not looked
    at."""
    behind = noise(0, rows, rows * 4 // 3)
    behind[DISC] = 0.45
    background = found(photos(behind))
    assert background is not None
    for number, region in enumerate(background.is_shown):
        thing = DISC.clone()
        thing[place(number)] = True
        assert not region[~beside(~thing, 4)].any()
        assert region[~beside(thing, 4)].float().mean() > 0.99


def test_a_turntable_keeps_its_place_where_its_outline_is_lost():
    """A strip of its colour reaches from the photo's border to it."""
    behind = noise(0, 60, 80)
    behind[128:136, :60] = 0.45
    behind[DISC] = 0.45
    background = found(photos(behind))
    assert background is not None
    for number, region in enumerate(background.is_shown):
        disc = DISC.clone()
        disc[place(number)] = False
        assert region[~beside(~disc, 8)].float().mean() < 0.01


def test_photos_may_be_exposed_differently():
    """From 0.7 to 1.2 of the light; colours are those of each photo, and the region is as exact as
    in equal light."""
    behind, gains = noise(0, 30, 40), torch.linspace(0.7, 1.2, COUNT)
    images = [image * gain for image, gain in zip(photos(behind), gains, strict=True)]
    background = found(images)
    assert background is not None
    for number, gain in enumerate(gains):
        error = (background.colors(number, HEIGHT, WIDTH) - gain * behind).abs()
        assert error.mean() < 0.015
        thing = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        thing[place(number)] = True
        assert (background.is_shown[number] == thing).float().mean() < 0.03


def test_photos_of_a_scene_have_none():
    assert found([noise(seed, 30, 40) for seed in range(COUNT)]) is None


def test_cameras_that_do_not_turn_have_none():
    """Then what is far away stands still."""
    images = photos(noise(0, 30, 40))
    assert found(images, degrees=5.0) is None
    assert found(images, degrees=15.0) is not None


def test_a_straight_end_of_a_floor_is_no_picture():
    """In a bare room it stays at its height while the camera goes around at its own."""
    room = torch.full((HEIGHT, WIDTH, 3), 0.7)
    room[100:] = torch.tensor([0.4, 0.3, 0.2])
    shade = 1 - 0.2 * torch.linspace(-1, 1, WIDTH)[:, None] ** 2
    assert found(photos(room * shade)) is None


def test_what_is_masked_does_not_count():
    images = photos(noise(0, 30, 40))
    mask = torch.zeros(HEIGHT, WIDTH, 1)
    mask[60:180, 60:260] = 1
    assert found(images, masks=[mask] * COUNT) is None


def test_few_photos_and_photos_of_other_sizes_have_none():
    images = photos(noise(0, 30, 40))
    assert found(images[:4]) is None
    assert found([*images[:-1], images[-1][:200]]) is None


def test_a_picture_of_another_size_keeps_its_means():
    """Of each 2 x 2 pixels; and one of more pixels is as bright."""
    picture = torch.randint(0, 256, (4, 6, 3), generator=torch.Generator().manual_seed(0))
    picture = picture.to(torch.uint8)
    halved = (picture / 255).reshape(2, 2, 3, 2, 3).mean((1, 3))
    torch.testing.assert_close(at_size(picture, 2, 3), halved)
    assert (
        at_size(picture[:1, :1].expand(4, 6, 3), 5, 8).sub(picture[0, 0] / 255).abs().max() < 1e-6
    )
