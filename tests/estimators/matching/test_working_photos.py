"""Working copies: one exact scale for both axes, masks, colours."""

import numpy as np
import pytest
from PIL import Image

from fm3d_plugins.estimators.matching.working_photos import (
    find_features,
    scaled_image,
    working_scale,
)
from fm3d_plugins.photos.photo_set import find_photos


def save(folder, name, pixels):
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


def blocks(seed, shape):
    noise = np.random.default_rng(seed).integers(0, 255, (shape[0] // 5, shape[1] // 5, 3))
    return np.kron(noise, np.ones((5, 5, 1))).astype(np.uint8)


def features_of(photos, max_image_size=1600):
    return find_features(
        photos.photos,
        max_features=2000,
        max_image_size=max_image_size,
        num_threads=2,
        report=lambda _done: None,
    )


def test_small_photos_are_worked_on_as_they_are(tmp_path):
    pixels = blocks(0, (100, 150))
    save(tmp_path, "a.png", pixels)
    (photo,) = find_photos(tmp_path)
    assert working_scale(photo, 150) == 1.0
    np.testing.assert_array_equal(scaled_image(pixels, 1.0), pixels)


@pytest.mark.parametrize("size", [200, 333, 487])
def test_large_photos_are_scaled_alike_on_both_axes(tmp_path, size):
    """Truth: a linear ramp stays the same ramp under exact scaling, in x and in y.

    A stretch to whole pixels would shift it by up to half a pixel, 0.5 grey levels per factor.
    """
    rows, columns = np.mgrid[:370, :500] + 0.5
    save(
        tmp_path, "a.png", np.stack([columns / 2, rows / 2, 0 * rows], -1).round().astype(np.uint8)
    )
    (photo,) = find_photos(tmp_path)
    scale = working_scale(photo, size)
    scaled = scaled_image(photo.read(), scale).astype(float)
    height, width, _ = scaled.shape
    assert (width, height) == (int(500 * scale + 1e-6), int(370 * scale + 1e-6))
    rows, columns = np.mgrid[:height, :width] + 0.5
    inner = np.s_[5:-5, 5:-5]
    # Rounding to whole levels, twice, leaves less than 0.1 levels in the mean of the far half.
    for channel, axis in ((0, columns), (1, rows)):
        difference = (scaled[..., channel] - axis / scale / 2)[inner]
        assert abs(difference[difference.shape[0] // 2 :, difference.shape[1] // 2 :].mean()) < 0.1


def test_features_keep_to_the_mask_and_carry_their_pixels_colour(tmp_path):
    pixels = blocks(1, (200, 300))
    save(tmp_path / "images", "a.png", pixels)
    mask = np.zeros((200, 300), np.uint8)
    mask[:, 150:] = 255
    save(tmp_path / "masks", "a.png", mask)
    (found,) = features_of(find_photos(tmp_path / "images"))
    assert len(found.features) > 20
    x, y = found.features.keypoints[:, :2].T
    assert (x >= 150).all()
    np.testing.assert_array_equal(found.colors, pixels[y.astype(int), x.astype(int)])


def test_masks_of_scaled_photos_are_looked_up_in_the_photos_own_pixels(tmp_path):
    save(tmp_path / "images", "a.png", blocks(2, (400, 600)))
    mask = np.zeros((400, 600), np.uint8)
    mask[:200] = 255
    save(tmp_path / "masks", "a.png", mask)
    (found,) = features_of(find_photos(tmp_path / "images"), max_image_size=300)
    assert found.scale == 0.5
    assert len(found.features) > 20
    assert (found.features.keypoints[:, 1] < 100).all()
    assert found.center == (150.0, 100.0)


def test_order_and_number_are_those_of_the_photos(tmp_path):
    for number in range(11):
        save(tmp_path, f"{number}.png", blocks(number, (60, 60 + 5 * number)))
    photos = find_photos(tmp_path)
    done = []
    found = find_features(
        photos.photos, max_features=100, max_image_size=1600, num_threads=1, report=done.append
    )
    assert [one.photo.name for one in found] == [photo.name for photo in photos]
    assert [one.width for one in found] == [60 + 5 * number for number in range(11)]
    assert done == [4, 8, 11]
