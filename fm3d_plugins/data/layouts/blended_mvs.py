"""BlendedMVS and data sets in MVSNet's layout: `cams`, `blended_images`, `rendered_depth_maps`.

Facts (github.com/YoYo000/BlendedMVS and github.com/YoYo000/MVSNet, "File formats"): one text per
view, `cams/00000000_cam.txt`: the word extrinsic and 4 x 4 numbers camera_from_world, OpenCV axes;
the word intrinsic and 3 x 3 numbers in pixels, the first pixel's centre at 0.5; then the nearest
depth, the step between depths and, where they are told, the number of steps and the farthest depth.
Photos are `blended_images/00000000.jpg`, depth is z in `rendered_depth_maps/00000000.pfm`, 0 where
nothing is known.
"""

from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path

import torch

from fm3d_plugins.data.layouts.layout import Layout, Where, lenses
from fm3d_plugins.data.scenes import CapturedScene, DepthFile, checked_scene
from fm3d_plugins.files import is_file, naming_damage
from fm3d_plugins.io.pose_files.reading import numbers, read_text
from fm3d_plugins.io.raw_depth import read_pfm

_END = "_cam.txt"
_RANGE = (2, 4)
_EXPECTED = (
    "Expected a camera of BlendedMVS: extrinsic and 16 numbers, intrinsic and 9 numbers, nearest "
    "depth and step. Fetch it again."
)


def _find(folder: Path, names: Set[str]) -> list[Path]:
    return [folder] if {"cams", "blended_images"} <= names else []


def read_blended_scene(folder: Path, where: Where) -> Iterator[CapturedScene]:
    """The scene of a folder."""
    files = sorted((folder / "cams").glob(f"*{_END}"))
    if not files:
        raise FileNotFoundError(f"{folder / 'cams'} holds no camera. {_EXPECTED}")
    names = [file.name.removesuffix(_END) for file in files]
    cameras, poses, middles = [], [], []
    for file in files:
        lens, pose, middle = read_camera(file)
        cameras.append(lens)
        poses.append(pose)
        middles.append(middle)
    photos = [folder / "blended_images" / f"{name}.jpg" for name in names]
    maps = [folder / "rendered_depth_maps" / f"{name}.pfm" for name in names]
    depths = tuple(DepthFile(path, read_pfm) if is_file(path) else None for path in maps)
    pose = torch.tensor(poses, dtype=torch.float64).reshape(-1, 4, 4)
    name = where.scene_name(folder)
    scene = checked_scene(name, photos, lenses(cameras), pose, folder / "cams")
    yield replace(
        scene,
        depths=depths if any(depths) else (),
        typical_depth=torch.tensor(middles) if all(middles) else None,
    )


def read_camera(path: Path) -> tuple[list[float], list[float], float | None]:
    """One camera.

    Returns:
        fx, fy, cx, cy in pixels; 16 numbers camera_from_world; the middle of the range of depths,
        where it is told.

    Raises:
        ValueError: It is none.
        OSError: It cannot be read.
    """
    with naming_damage(path, _EXPECTED):
        words = read_text(path).split()
        if words[:1] != ["extrinsic"] or words[17:18] != ["intrinsic"]:
            raise ValueError("the words extrinsic and intrinsic are not where they belong")
        pose = numbers(words[1:17], 16, "extrinsic")
        fx, skew, cx, zero, fy, cy, *bottom = numbers(words[18:27], 9, "intrinsic")
        if skew or zero or bottom != [0, 0, 1]:
            raise ValueError("its intrinsics are none of a pinhole without skew")
        rest = words[27:]
        if len(rest) not in _RANGE:
            raise ValueError(f"{len(rest)} numbers follow on the intrinsics, expected 2 or 4")
        depths = numbers(rest, len(rest), "the range of depths")
        middle = (depths[0] + depths[3]) / 2 if len(depths) == _RANGE[1] else None
        is_range = middle is not None and depths[0] >= 0 and depths[3] > depths[0]
        return [fx, fy, cx, cy], pose, middle if is_range else None


BLENDED_MVS = Layout("BlendedMVS", _find, read_blended_scene)
