"""Photos that nothing was found in, for tests of what is made of their matches."""

import numpy as np
import pytest
from PIL import Image

from fm3d_plugins.backends.pycolmap.features import Features
from fm3d_plugins.estimators.matching.working_photos import WorkingPhoto
from fm3d_plugins.photos.photo_set import find_photos


@pytest.fixture
def working(tmp_path):
    """Sixteen photos of 720 x 1280 working pixels, without EXIF and features."""
    (tmp_path / "photos").mkdir()
    for number in range(16):
        Image.new("RGB", (32, 32)).save(tmp_path / "photos" / f"{number:02d}.png")
    nothing = Features(np.zeros((0, 6), np.float32), np.zeros((0, 128), np.uint8))
    none = np.zeros((0, 3), np.uint8)
    return [
        WorkingPhoto(photo, 1.0, 720, 1280, nothing, none)
        for photo in find_photos(tmp_path / "photos")
    ]
