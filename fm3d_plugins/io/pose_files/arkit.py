"""Frames of ARKit as apps export them: one JSON file per photo, or all in a list.

A frame has a camera-to-world transform (4 x 4, metres, y of the world up) whose camera has OpenGL
axes in the sensor's lying picture, and intrinsics (3 x 3) in that picture's pixels. Matrices lie
row by row, or column by column as in Apple's simd types: which of both, their zeros tell.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fm3d_plugins.files import read_json
from fm3d_plugins.io.pose_files.posed_photos import PosedPhotos, posed_photos, without_rounding
from fm3d_plugins.io.pose_files.reading import (
    files_in,
    is_transforms,
    json_or_none,
    number,
    numbers,
    size,
)

LOOKED_FOR = "ARKit: *.json with cameraPoseARFrame (or transform) and intrinsics, one per photo"

_POSE = (
    "cameraPoseARFrame", "cameraTransform", "camera_transform", "transform", "transform_matrix",
    "cameraToWorld", "camera_to_world",
)  # fmt: skip
_INTRINSICS = ("intrinsics", "cameraIntrinsics", "camera_intrinsics")
_NAME = ("file_path", "imageName", "image_name", "image", "imagePath", "image_path")
_SIZE = ("imageResolution", "image_resolution", "resolution")
_LENS = (("fx", "fl_x"), ("fy", "fl_y"), ("cx",), ("cy",))
_SIDES = (("width", "height"), ("w", "h"), ("imageWidth", "imageHeight"))


def find(path: Path) -> tuple[Path, ...]:
    """Files of frames, or the one that lists them."""
    for folder in (".", "frames", "images", "poses", "cameras"):
        files = files_in(path, (folder,), ("*.json",))
        frames = tuple(file for file in files if _frames(json_or_none(file)))
        if frames:
            return frames
    return ()


def read(files: tuple[Path, ...]) -> PosedPhotos:
    """All frames; a photo is named by its frame, or like the frame's file.

    Raises:
        ValueError: A frame has no pose or no intrinsics.
    """
    frames, names = [], []
    for file in files:
        document = read_json(file, "Export the poses anew.")
        found = _frames(document)
        for frame in found:
            name = _first(frame, _NAME)
            if not isinstance(name, str) and len(found) > 1:
                raise ValueError(
                    f"{file} lists {len(found)} frames, one of which names no photo. Expected one "
                    f"of {', '.join(_NAME)} in each. Export it anew."
                )
            names.append(name if isinstance(name, str) else file.stem)
            shared = document if isinstance(document, dict) else {}
            frames.append({**shared, **frame})
    return posed_photos(
        names,
        without_rounding(_matrices([_first(frame, _POSE) for frame in frames], 4, names)),
        (intrinsics := _intrinsics(frames, names))[:, (0, 1), (0, 1)],
        axes="opengl",
        principal_points=intrinsics[:, :2, 2],
        image_sizes=[_size(frame, name) for frame, name in zip(frames, names, strict=True)],
        scale="metric",
    )


def _frames(document: Any) -> Sequence[Mapping[str, Any]]:
    """Frames of a JSON document; none if it holds anything else."""
    if is_transforms(document):
        return []
    listed = document.get("frames") if isinstance(document, dict) else document
    frames = listed if isinstance(listed, list) else [document]
    are_frames = all(
        isinstance(frame, dict) and _first(frame, _POSE) is not None for frame in frames
    )
    return frames if are_frames else []


def _first(values: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((values[key] for key in keys if values.get(key) is not None), None)


def _intrinsics(frames: Sequence[Mapping[str, Any]], names: Sequence[str]) -> torch.Tensor:
    """Of each frame, [view, 3, 3]."""
    told = []
    for frame, name in zip(frames, names, strict=True):
        found = _first(frame, _INTRINSICS)
        source = found if isinstance(found, dict) else frame
        if isinstance(found, list) and len(found) != len(_LENS):
            told.append(found)
            continue
        if isinstance(found, list):
            source = {keys[0]: value for keys, value in zip(_LENS, found, strict=True)}
        fx, fy, cx, cy = (
            number(source, next((key for key in keys if key in source), keys[0]), name)
            for keys in _LENS
        )
        told.append([fx, 0, cx, 0, fy, cy, 0, 0, 1])
    matrices = _matrices(told, 3, names)
    expected = torch.zeros(3, 3, dtype=torch.bool)
    expected[(0, 0, 1, 1, 2), (0, 2, 1, 2, 2)] = True
    for matrix, name in zip(matrices, names, strict=True):
        if bool(matrix[~expected].any()) or float(matrix[2, 2]) != 1:
            raise ValueError(
                f"The intrinsics of {name} are {matrix.tolist()}; expected [fx, 0, cx], "
                "[0, fy, cy], [0, 0, 1]. Export the frame anew."
            )
    return matrices


def _matrices(values: Sequence[object], side: int, names: Sequence[str]) -> torch.Tensor:
    """[view, side, side], turned round where the last column and not the last row is 0, ..., 1."""
    rows = [
        numbers(value, side * side, f"a matrix of {name}")
        for value, name in zip(values, names, strict=True)
    ]
    matrices = torch.tensor(rows, dtype=torch.float64).reshape(-1, side, side)
    ends = torch.eye(side, dtype=torch.float64)[-1]
    if bool((matrices[:, -1] - ends).abs().max() <= 1e-6):
        return matrices
    if bool((matrices[:, :, -1] - ends).abs().max() <= 1e-6):
        return matrices.mT.contiguous()
    wrong = int((matrices[:, -1] - ends).abs().amax(1).argmax())
    raise ValueError(
        f"A matrix of {names[wrong]} is {matrices[wrong].tolist()}; expected one whose last row "
        f"(or last column, in all of them) is {ends.tolist()}. Export the frame anew."
    )


def _size(frame: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Width and height, 0 where the frame does not tell."""
    told = _first(frame, _SIZE)
    if isinstance(told, list):
        return size(told, name)
    for source in (told, _first(frame, _INTRINSICS), frame):
        for keys in _SIDES:
            if isinstance(source, dict) and all(key in source for key in keys):
                return size([source[key] for key in keys], name)
    return 0, 0
