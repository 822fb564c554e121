"""A plain backdrop behind a thing is told from surroundings, and its pixels from the thing's."""

import pytest
import torch

from fm3d_plugins.backgrounds.plain import (
    ALIKE,
    backdrop,
    plain_background,
    with_all_terms,
)
from fm3d_plugins.backgrounds.regions import connected, may_be_things, without

HEIGHT, WIDTH = 40, 60
THING = torch.tensor([0.9, 0.5, 0.2])


def photos(color, count=4, shade=None):
    """A bright square before a colour with the noise of a camera; it touches no border."""
    images = []
    for seed in range(count):
        noise = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(seed)) * 0.02
        behind = torch.tensor(color) * (1 if shade is None else shade)
        image = (behind + noise - 0.01).clamp(0, 1)
        image[10:30, 15 + seed : 40] = THING
        images.append(image)
    return images


def vignette():
    """Brightness of a sweep that is lit from above, through a lens that darkens corners."""
    y, x = torch.linspace(-1, 1, HEIGHT)[:, None, None], torch.linspace(-1, 1, WIDTH)[:, None]
    return (1 - 0.1 * y) * (1 - 0.15 * (x**2 + y**2))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.42, 0.6, 1.0])
def test_what_is_connected_is_what_growing_step_by_step_reaches(share):
    """At 0.4 parts of a random region just hang together, by long ways."""
    generator = torch.Generator().manual_seed(0)
    inside = torch.rand(50, 70, generator=generator) < share
    start = torch.zeros_like(inside)
    start[:2] = True
    reached = inside & start
    for _ in range(inside.numel()):
        grown = torch.nn.functional.max_pool2d(reached[None].float(), 3, 1, padding=1)[0] > 0
        if torch.equal(inside & grown, reached):
            break
        reached = inside & grown
    torch.testing.assert_close(connected(inside, start), reached)


@pytest.mark.parametrize("color", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.1, 0.6, 0.3)])
def test_the_colour_behind_a_thing_is_found(color):
    """In all pixels, also those that show the thing."""
    found = plain_background(photos(color), [None] * 4)
    assert found is not None
    for terms in found.coefficients:
        expected = torch.tensor(color).expand(HEIGHT, WIDTH, 3)
        torch.testing.assert_close(backdrop(terms, HEIGHT, WIDTH), expected, atol=0.01, rtol=0)


def test_a_sweep_with_vignetting_is_found():
    """Its product of three factors is no quadratic: within half of what counts as alike."""
    found = plain_background(photos((0.6, 0.6, 0.55), shade=vignette()), [None] * 4)
    assert found is not None
    expected = torch.tensor((0.6, 0.6, 0.55)) * vignette()
    error = backdrop(found.coefficients[0], HEIGHT, WIDTH) - expected
    assert error.abs().max() < ALIKE / 2


def test_what_shows_the_backdrop_is_all_but_the_thing():
    found = plain_background(photos((0.0, 0.0, 0.0)), [None] * 4)
    assert found is not None
    for seed, region in enumerate(found.is_shown):
        thing = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        thing[10:30, 15 + seed : 40] = True
        assert torch.equal(region, ~thing)


def test_what_a_thing_encloses_in_the_colour_of_the_backdrop_is_the_things():
    images = photos((0.0, 0.0, 0.0))
    for image in images:
        image[15:20, 25:30] = 0
    found = plain_background(images, [None] * 4)
    assert found is not None and not any(region[15:20, 25:30].any() for region in found.is_shown)


def test_a_thing_may_leave_the_photo():
    """Over a fifth of the border here: from the lower edge, and no wider than the square."""
    images = photos((1.0, 1.0, 1.0))
    for image in images:
        image[30:, 10:50] = THING
    found = plain_background(images, [None] * 4)
    assert found is not None and not any(region[30:, 10:50].any() for region in found.is_shown)


def test_photos_of_surroundings_have_none():
    images = [
        torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(s)) for s in range(4)
    ]
    assert plain_background(images, [None] * 4) is None


def test_a_few_photos_before_something_else_have_none_and_the_others_have():
    """One of five shows the thing alone, as from too close; with two of five none has any."""
    close = THING + 0.3 * torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))
    found = plain_background([*photos((0.0, 0.0, 0.0)), close.clamp(0, 1)], [None] * 5)
    assert found is not None
    assert [bool(region.any()) for region in found.is_shown] == [True] * 4 + [False]
    assert not found.may_be_shown[4].any()
    few = [*photos((0.0, 0.0, 0.0), 3), close.clamp(0, 1), close.flip(0).clamp(0, 1)]
    assert plain_background(few, [None] * 5) is None


def test_photos_may_be_exposed_differently():
    """White paper from 0.35 to 0.95; but a green wall and a red one are two."""
    images = [photo for gain in (0.35, 0.6, 0.95, 0.7) for photo in photos((gain, gain, gain), 1)]
    found = plain_background(images, [None] * 4)
    assert found is not None
    brightness = [backdrop(terms, 8, 8).mean() for terms in found.coefficients]
    torch.testing.assert_close(
        torch.stack(brightness), torch.tensor([0.35, 0.6, 0.95, 0.7]), atol=0.01, rtol=0
    )
    walls = [*photos((0.6, 0.2, 0.2), 2), *photos((0.2, 0.6, 0.2), 2)]
    assert plain_background(walls, [None] * 4) is None


@pytest.mark.parametrize("light", [1.0, 0.1, 0.05])
def test_a_dark_room_and_a_bare_table_are_no_backdrop(light):
    """Boards 0.12 apart in brightness, at any light; within 0.04 of each other in the dark."""
    boards = (torch.arange(WIDTH) // 6 % 2)[:, None] * torch.tensor([0.12, 0.1, 0.08])
    room = light * (torch.tensor([0.5, 0.4, 0.3]) + boards)
    images = [image.minimum(light * torch.ones(3)) for image in photos((0.0, 0.0, 0.0))]
    dark = [torch.where(image > 0.3 * light, image, room) for image in images]
    assert plain_background(dark, [None] * 4) is None


def test_what_is_masked_does_not_count():
    images = photos((0.0, 0.0, 0.0))
    mask = torch.zeros(HEIGHT, WIDTH, 1)
    mask[10:30, 15:40] = 1
    assert plain_background(images, [mask] * 4) is None


def test_a_photo_without_a_region_counts_nowhere_else_less():
    """One pixel of the small copy is two by two of the photo here."""
    region = torch.zeros(2, 3, dtype=torch.bool)
    region[0, 1] = True
    expected = torch.ones(4, 6, 1)
    expected[:2, 2:4] = 0
    entry = {"image": torch.zeros(4, 6, 3), "image_idx": 7}
    assert torch.equal(without(entry, region)["mask"], expected)
    half = torch.ones(4, 6, 1, dtype=torch.bool)
    half[2:] = False
    assert torch.equal(without({**entry, "mask": half}, region)["mask"], expected * half)


def test_one_colour_of_an_older_checkpoint_is_that_backdrop():
    color = torch.tensor([0.1, 0.2, 0.3])
    drawn = backdrop(with_all_terms(color), 2, 5)
    torch.testing.assert_close(drawn, color.expand(2, 5, 3))


def test_points_before_a_backdrop_or_seen_by_few_are_no_things():
    """Three cameras look along z from one place, at 60 x 40 pixels each; the last two are ten times
    narrower. Their middle shows the thing. Where three points are, all see the thing; at (1, 0, 5),
    20 pixels aside, the first photo shows the backdrop; at (0.2, 0, 5) it shows the thing, but the
    others look past that, and one in three is less than half of three; behind them none looks."""
    region = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    region[10:30, 20:40] = False
    intrinsics = torch.tensor([[100.0, 0, 30], [0, 100, 20], [0, 0, 1]]).repeat(3, 1, 1)
    intrinsics[1:, 0, 0] = intrinsics[1:, 1, 1] = 1000.0
    points = torch.tensor([[0.0, 0, 5], [0, 0, 6], [0, 0, 7], [1, 0, 5], [0.2, 0, 5], [0, 0, -5]])
    sizes = torch.tensor([[WIDTH, HEIGHT]] * 3)
    kept = may_be_things(points, [region] * 3, intrinsics, torch.eye(4).repeat(3, 1, 1), sizes)
    assert kept.tolist() == [True] * 3 + [False] * 3
