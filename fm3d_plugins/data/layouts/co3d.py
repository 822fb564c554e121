"""CO3D and data sets in its layout: `CATEGORY/frame_annotations.jgz`, and a folder per sequence.

Facts (github.com/facebookresearch/co3d, "Dataset format", and pytorch3d.org, "Cameras"):

* The annotations are a list of frames in JSON, compressed by gzip. Paths are relative to the folder
  that holds the categories.
* `viewpoint`: PyTorch3D's camera, x to the left, y up, z forward; points are rows, multiplied from
  the left: camera = world R + T. `focal_length` and `principal_point` are normalised, x to the
  left: by half of the image's shorter side (`ndc_isotropic`) or by half of each
  (`ndc_norm_image_bounds`, also where no format is named); (0, 0) is the image's middle.
* `depth`: a 16-bit PNG whose 16 bits are a number in half precision, times `scale_adjustment`, in
  units of the cameras; `mask_path` is an image, above 0 where it is to be trusted.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from fm3d_plugins.data.layouts.layout import Layout, Where, lenses
from fm3d_plugins.data.scenes import CapturedScene, DepthFile, checked_scene
from fm3d_plugins.files import naming_damage, parse_json, read_gzip
from fm3d_plugins.io.depth_files import read_map
from fm3d_plugins.io.pose_files.reading import number, numbers, size

_FILE = "frame_annotations.jgz"
_EXPECTED = (
    "Expected CO3D's annotations: a list of frames with sequence_name, frame_number, image and "
    "viewpoint. Fetch the file again."
)
_BITS = 1 << 16


def _find(folder: Path, names: Set[str]) -> list[Path]:
    return [folder / _FILE] * (_FILE in names)


def read_annotations(path: Path, where: Where) -> Iterator[CapturedScene]:
    """All sequences of a category, each in the order of its frames."""
    content = read_gzip(path, _EXPECTED)
    with naming_damage(path, _EXPECTED):
        frames = parse_json(content.decode())
        if not isinstance(frames, list) or not frames:
            raise ValueError("it holds no list of frames")
        sequences: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row, frame in enumerate(frames):
            name = frame.get("sequence_name") if isinstance(frame, dict) else None
            if not isinstance(name, str) or not name or "/" in name:
                raise ValueError(f"frame {row} is of the sequence {name!r:.80}")
            sequences[name].append(frame)
        for name, each in sequences.items():
            yield _sequence(path, name, each, where)


def _sequence(
    path: Path, name: str, frames: list[Mapping[str, Any]], where: Where
) -> CapturedScene:
    base, photos, cameras, poses, sizes, depths = path.parent.parent, [], [], [], [], []
    for frame in sorted(frames, key=lambda frame: number(frame, "frame_number", name)):
        what = f"{name}, frame {frame['frame_number']}"
        image, viewpoint = (_object(frame, key, what) for key in ("image", "viewpoint"))
        height, width = size(image.get("size") or (), what)
        sizes.append((width, height))
        photos.append(where.below(base, _path(image, "path", what), path))
        cameras.append(_lens(viewpoint, width, height, what))
        poses.append(_camera_from_world(viewpoint, what))
        depths.append(_depth(frame, base, path, where, what))
    if len({str(photo) for photo in photos}) < len(photos):
        raise ValueError(f"{name} has a photo twice")
    scene = checked_scene(
        f"{path.parent.name}/{name}", photos, lenses(cameras), torch.tensor(np.stack(poses)), path
    )
    return replace(
        scene, sizes=torch.tensor(sizes).double(), depths=tuple(depths) if any(depths) else ()
    )


def _camera_from_world(viewpoint: Mapping[str, Any], what: str) -> Float[np.ndarray, "4 4"]:
    """OpenCV axes, columns as points."""
    rotation = np.reshape(numbers(viewpoint.get("R"), 9, f"R of {what}"), (3, 3))
    translation = numbers(viewpoint.get("T"), 3, f"T of {what}")
    pose, turned = np.eye(4), np.array([-1.0, -1.0, 1.0])
    pose[:3, :3], pose[:3, 3] = turned[:, None] * rotation.T, turned * translation
    return pose


def _lens(viewpoint: Mapping[str, Any], width: int, height: int, what: str) -> list[float]:
    """fx, fy, cx, cy in pixels."""
    kind = viewpoint.get("intrinsics_format") or "ndc_norm_image_bounds"
    if kind not in ("ndc_isotropic", "ndc_norm_image_bounds"):
        raise ValueError(f"{what} has the intrinsics_format {kind!r:.80}")
    halves = np.array([width, height]) / 2
    units = halves if kind == "ndc_norm_image_bounds" else np.full(2, halves.min())
    focal = numbers(viewpoint.get("focal_length"), 2, f"focal_length of {what}")
    principal = numbers(viewpoint.get("principal_point"), 2, f"principal_point of {what}")
    return [*(units * focal), *(halves - units * principal)]


def _depth(
    frame: Mapping[str, Any], base: Path, path: Path, where: Where, what: str
) -> DepthFile | None:
    if not frame.get("depth"):
        return None
    depth = _object(frame, "depth", what)
    unit = number(depth, "scale_adjustment", what)
    if unit <= 0:
        raise ValueError(f"{what} has the scale_adjustment {unit}")
    mask = _path(depth, "mask_path", what) if depth.get("mask_path") else None
    return DepthFile(
        where.below(base, _path(depth, "path", what), path),
        read_half_precision,
        unit,
        where.below(base, mask, path) if mask else None,
    )


def read_half_precision(path: Path) -> Float[np.ndarray, "rows columns"]:
    """A 16-bit image whose bits are numbers in half precision.

    Raises:
        ValueError, OSError: As `read_map`, or its pixels are none of 16 bits.
    """
    values = read_map(path)
    if not ((values >= 0) & (values < _BITS) & (values == np.floor(values))).all():
        raise ValueError(f"{path} is no image of 16 bits; expected CO3D's depth. Fetch it again.")
    return values.astype(np.uint16).view(np.float16).astype(np.float32)


def _object(frame: Mapping[str, Any], key: str, what: str) -> Mapping[str, Any]:
    value = frame.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{what} has {value!r:.80} as {key}; expected an object")
    return value


def _path(values: Mapping[str, Any], key: str, what: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} has {value!r:.80} as {key}; expected a path")
    return value


CO3D = Layout("CO3D", _find, read_annotations)
