"""Estimates on disk: read when they are of exactly these photos, else made anew, with a line."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.estimators.base import Estimator
from fm3d_plugins.estimators.cache import cameras_cached, points_cached
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.scene import SceneGeometry, Tracks, ViewDepth

WIDTH, HEIGHT, COUNT = 64, 48, 4


def scene_of(names, unregistered=(), **changes):
    count = len(names)
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, 0, 3] = torch.arange(count)
    values = dict(
        names=names,
        image_sizes=torch.tensor([[WIDTH, HEIGHT]] * count),
        world_from_camera=poses,
        intrinsics=torch.tensor([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]).repeat(count, 1, 1),
        distortion=torch.zeros(count, 6),
        camera_index=torch.zeros(count, dtype=torch.long),
        points=torch.rand(5, 3),
        point_colors=torch.zeros(5, 3, dtype=torch.uint8),
        point_confidence=torch.rand(5),
        tracks=Tracks(torch.tensor([0, 4]), torch.tensor([0, 1]), torch.rand(2, 2)),
        depth=ViewDepth(
            torch.ones(count, 6, 8), torch.ones(count, 6, 8),
            PixelMap(torch.full((count, 2), 0.125), torch.zeros(count, 2)),
        ),
        unregistered=unregistered,
    )  # fmt: skip
    return SceneGeometry(**{**values, **changes})


@dataclass(frozen=True)
class Counting(Estimator):
    """Finds cameras for all photos but the last, of which it does not even speak."""

    name: ClassVar[str] = "counting"
    calls: ClassVar[list] = []

    def estimate(self, photos):
        self.calls.append("cameras")
        return scene_of(tuple(photo.name for photo in photos)[:-1])

    def with_points(self, scene, views):
        self.calls.append("points")
        return scene


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for row in range(COUNT):
        pixels = np.full((HEIGHT, WIDTH, 3), 40 * row, np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    Counting.calls.clear()
    return find_photos(folder)


@pytest.fixture
def cameras(photos, tmp_path):
    """A function that finds cameras, and the file that it leaves."""

    def find():
        return cameras_cached(Counting(), photos, tmp_path / "cache")

    first = find()
    (path,) = (tmp_path / "cache" / "scenes").glob("*.safetensors")
    assert first.unregistered == ("3.png",)
    assert find().names == first.names and Counting.calls == ["cameras"]
    return find, path


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (scene_of(("0.png", "1.png", "9.png"), ("3.png",)), "1 are not among the 4"),
        (scene_of(("0.png", "1.png"), ("3.png",)), "1 of those are not in it"),
        (scene_of(("0.png", "1.png", "2.png", "4.png"), ("3.png",)), "'4.png'"),
        (scene_of(("0.png", "1.png", "2.png")), "'3.png'"),
        (
            scene_of(
                ("0.png", "1.png", "2.png"), ("3.png",), image_sizes=torch.tensor([[48, 64]] * 3)
            ),
            "0.png at 48 x 64 pixels; the photo has 64 x 48",
        ),
    ],
)
def test_scene_of_other_photos_is_made_anew(cameras, found, said, capsys):
    find, path = cameras
    found.save(path)
    assert find().names == ("0.png", "1.png", "2.png")
    assert Counting.calls == ["cameras", "cameras"]
    text = capsys.readouterr().out
    assert "made anew" in text and said in text and str(path) in text
    find()
    assert len(Counting.calls) == 2


def test_estimator_that_names_other_photos_is_refused(photos, tmp_path):
    @dataclass(frozen=True)
    class Wrong(Counting):
        def estimate(self, photos):
            return scene_of(("0.png", "1.png", "9.png"))

    with pytest.raises(ValueError, match="1 are not among the 4 that it was asked for"):
        cameras_cached(Wrong(), photos, tmp_path / "cache")


def test_points_of_other_cameras_are_made_anew(photos, cameras, tmp_path, capsys):
    find, _ = cameras
    scene = find()
    points_cached(Counting(), photos, scene, [0], tmp_path / "cache")
    points_cached(Counting(), photos, scene, [0], tmp_path / "cache")
    assert Counting.calls == ["cameras", "points"]
    moved = replace(scene, world_from_camera=scene.world_from_camera + 0)
    moved.world_from_camera[1, 0, 3] += 1
    points_cached(Counting(), photos, moved, [0], tmp_path / "cache")
    assert Counting.calls == ["cameras", "points", "points"]
    assert "points belong to other cameras" in capsys.readouterr().out
