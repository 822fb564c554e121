"""Estimates on disk: read when they are of exactly these photos, else made anew, with a line."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from fm3d_plugins.estimators.base import Estimator
from fm3d_plugins.estimators.cache import cameras_cached, points_cached
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.scene import SceneGeometry, Tracks
from fm3d_plugins.view_depth import ViewDepth

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


def tensor_edits():
    """By name: what is done to the tensors of a file."""

    def put(name, index, value):
        def edit(tensors):
            tensors[name] = tensors[name].clone()
            tensors[name][index] = value

        return edit

    def become(name, make):
        return lambda tensors: tensors.update({name: make(tensors[name]).contiguous()})

    return {
        "points that are no numbers": put("points", (2, 1), torch.nan),
        "points at infinity": put("points", (0, 0), torch.inf),
        "confidence above 1": put("point_confidence", 0, 2.0),
        "confidence that is no number": put("point_confidence", 0, torch.nan),
        "tracks of points far beyond": put("tracks.point_index", 0, 10**9),
        "tracks of negative points": put("tracks.point_index", 0, -1),
        "tracks of views beyond": put("tracks.view_index", 0, 3),
        "tracks at no pixel": put("tracks.pixels", (0, 0), torch.nan),
        "negative sizes": put("image_sizes", (0, 0), -64),
        "sizes of nothing": put("image_sizes", (0, 1), 0),
        "poses that are not rigid": put("world_from_camera", (0, 0, 0), 2.0),
        "poses that are mirrored": put("world_from_camera", (0, 0, 0), -1.0),
        "poses without a bottom row": put("world_from_camera", (0, 3, 3), 0.0),
        "focal lengths without end": put("intrinsics", (0, 0, 0), 1e30),
        "negative focal lengths": put("intrinsics", (0, 0, 0), -1.0),
        "depth that is no number": put("depth.depth", (0, 0, 0), torch.nan),
        "negative depth": put("depth.depth", (0, 0, 0), -1.0),
        "depth of confidence 3": put("depth.confidence", (0, 0, 0), 3.0),
        "depth without scale": put("depth.map_from_photo.scale", (0, 0), 0.0),
        "depth of fewer views": become("depth.depth", lambda t: t[1:]),
        "depth of one dimension": become("depth.depth", lambda t: t.flatten()),
        "placements of one number": become("depth.map_from_photo.scale", lambda t: t[:, :1]),
        "poses of three rows": become("world_from_camera", lambda t: t[:, :3]),
        "points of two numbers": become("points", lambda t: t[:, :2]),
        "points that are one number": become("points", lambda t: t[0, 0]),
        "points in whole numbers": become("points", lambda t: t.long()),
        "sizes in fractions": become("image_sizes", lambda t: t.double()),
        "colours in fractions": become("point_colors", lambda t: t.double()),
        "one camera too few": become("camera_index", lambda t: t[1:]),
        "no points": lambda tensors: tensors.pop("points"),
        "no pixels of tracks": lambda tensors: tensors.pop("tracks.pixels"),
        "something besides": lambda tensors: tensors.update(more=torch.zeros(1)),
    }


def header_edits():
    return {
        "names in one text": lambda header: header.update(names="012"),
        "numbers for names": lambda header: header.update(names=[0, 1, 2]),
        "no names": lambda header: header.pop("names"),
        "names that lead elsewhere": lambda header: header.update(names=["../0.png", "1", "2"]),
        "an unknown scale": lambda header: header.update(scale="what"),
        "a scale that is a list": lambda header: header.update(scale=[]),
        "provenance as a list": lambda header: header.update(provenance=[1]),
        "nothing unregistered": lambda header: header.update(unregistered=None),
    }


@pytest.mark.parametrize("what", [*tensor_edits(), *header_edits()])
def test_scene_with_what_none_has_is_made_anew(cameras, what, capsys):
    find, path = cameras
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["scene"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if what in tensor_edits():
        tensor_edits()[what](tensors)
    else:
        header_edits()[what](header)
    save_file(tensors, path, {"scene": json.dumps(header)})
    expected = scene_of(("0.png", "1.png", "2.png"))
    found = find()
    assert Counting.calls == ["cameras", "cameras"], f"a scene with {what} was used"
    assert torch.equal(found.world_from_camera, expected.world_from_camera)
    assert f"{path} is not used and made anew" in capsys.readouterr().out
    find()
    assert len(Counting.calls) == 2


def test_files_with_random_damage_are_read_or_made_anew(cameras):
    find, path = cameras
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        kind = random.integers(3)
        if kind == 0:
            del damaged[random.integers(len(damaged)) :]
        elif kind == 1:
            damaged[random.integers(len(damaged))] = random.integers(256)
        else:
            start = random.integers(len(damaged))
            damaged[start : start + 8] = random.bytes(8)
        path.write_bytes(damaged)
        scene = find()
        assert scene.names == ("0.png", "1.png", "2.png")
        assert bool(scene.points.isfinite().all())
