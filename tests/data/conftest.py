"""Small scenes in both layouts."""

import json

import numpy as np
import pytest
from PIL import Image

POSE = [[1.0, 0, 0, 2], [0, 0, 1, 3], [0, -1, 0, 4], [0, 0, 0, 1]]


@pytest.fixture
def write_photo():
    def write(path, width=12, height=8, seed=0):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return pixels

    return write


@pytest.fixture
def write_scene(tmp_path, write_photo):
    """Writes LVSM's layout below `<tmp>/set`, with some fields of frame 1 changed."""

    def write(name="room", num_frames=3, **changes):
        frames = []
        for index in range(num_frames):
            photo = tmp_path / "set" / "images" / name / f"{index:05d}.png"
            write_photo(photo, seed=index)
            frames.append({"image_path": str(photo), "fxfycxcy": [9.0, 8.0, 6.0, 4.0], "w2c": POSE})
        frames[1] = {k: v for k, v in (frames[1] | changes).items() if v is not None}
        path = tmp_path / "set" / "metadata" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"scene_name": name, "frames": frames}))
        return path

    return write
