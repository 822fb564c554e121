"""Sky by looks: made-up skies, and real photos with and without."""

import numpy as np
import pytest
from PIL import Image

from fm3d_plugins.estimators.dense.sky import sky_mask


def scenery(color, horizon=60):
    """Noise below, a smooth gradient of a colour above."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (120, 160, 3)).astype(np.uint8)
    ramp = np.linspace(1.0, 1.15, horizon)[:, None, None]
    image[:horizon] = np.clip(np.array(color) * ramp, 0, 255).astype(np.uint8)
    return image


@pytest.mark.parametrize("color", [(110, 150, 215), (200, 200, 205), (60, 100, 170)])
def test_blue_and_overcast_sky_above_the_horizon_is_found(color):
    mask = sky_mask(scenery(color))
    assert mask[:58].mean() > 0.99
    assert mask[64:].mean() < 0.01


@pytest.mark.parametrize("color", [(150, 110, 60), (60, 140, 50), (40, 40, 45), (20, 25, 50)])
def test_smooth_things_of_other_colours_and_the_night_are_kept(color):
    assert not sky_mask(scenery(color)).any()


def test_a_cloud_inside_the_sky_belongs_to_it():
    image = scenery((110, 150, 215))
    rng = np.random.default_rng(1)
    image[20:35, 60:90] = rng.integers(170, 255, (15, 30, 1))
    assert sky_mask(image)[22:33, 62:88].all()


def test_blue_that_does_not_reach_the_upper_border_is_kept():
    image = scenery((110, 150, 215))
    assert not sky_mask(image[::-1].copy()).any()
    image[:3] = np.random.default_rng(2).integers(0, 255, (3, 160, 3))
    assert not sky_mask(image).any()


def test_a_photo_of_nothing_but_one_colour_is_kept():
    assert not sky_mask(np.full((120, 160, 3), 180, np.uint8)).any()


@pytest.mark.parametrize(
    ("scene", "least", "most"),
    [
        ("sceaux", 0.15, 0.45),
        ("lund", 0.1, 0.4),
        ("fox", 0, 0),
        ("banana", 0, 0),
        ("berlin3", 0, 0),
    ],
)
def test_real_photos_outdoors_have_sky_and_others_none(shared, scene, least, most):
    for file in sorted((shared / "scenes" / scene / "images").iterdir())[:6]:
        image = Image.open(file).convert("RGB")
        image.thumbnail((320, 320))
        assert least <= sky_mask(np.asarray(image)).mean() <= most, file.name
