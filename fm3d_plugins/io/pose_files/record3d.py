"""Record3D's `metadata` (of an .r3d archive that was unpacked).

`poses` holds qx, qy, qz, qw, tx, ty, tz of the camera in the world for every frame: metres, OpenGL
axes. `K` is the matrix of intrinsics column by column, in pixels of the colour picture, w x h;
`perFrameIntrinsicCoeffs` (fx, fy, cx, cy for every frame) goes before it. The photo of frame 12 is
rgbd/12.jpg.
"""

from pathlib import Path
from typing import Any

import torch

from fm3d_plugins.files import read_json
from fm3d_plugins.geometry.poses import (
    pose_from_rotation_translation,
    rotation_from_quaternion_wxyz,
)
from fm3d_plugins.io.pose_files.posed_photos import PosedPhotos, posed_photos
from fm3d_plugins.io.pose_files.reading import (
    files_in,
    json_or_none,
    numbers,
    shown,
    size,
)

LOOKED_FOR = "Record3D: metadata (or metadata.json) with poses and K"


def find(path: Path) -> tuple[Path, ...]:
    """The file."""
    for file in files_in(path, (".",), ("metadata", "metadata.json", "*metadata*.json")):
        if _is_metadata(json_or_none(file)):
            return (file,)
    return ()


def read(files: tuple[Path, ...]) -> PosedPhotos:
    """All frames, named by their numbers.

    Raises:
        ValueError: A field is absent, or not what it should be.
    """
    (path,) = files
    metadata = read_json(path, "Export the poses anew.")
    poses = metadata["poses"]
    if not isinstance(poses, list):
        raise ValueError(f"{path}: poses is {shown(poses)}; expected a list. Export it anew.")
    rows = [numbers(pose, 7, f"pose {index}") for index, pose in enumerate(poses)]
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 7)
    lenses = _lenses(metadata, len(table))
    rotation = rotation_from_quaternion_wxyz(table[:, (3, 0, 1, 2)])
    sides = size([metadata.get("w"), metadata.get("h")], str(path))
    return posed_photos(
        [f"{index}.jpg" for index in range(len(table))],
        pose_from_rotation_translation(rotation, table[:, 4:]),
        lenses[:, :2],
        axes="opengl",
        principal_points=lenses[:, 2:],
        image_sizes=[sides] * len(table),
        scale="metric",
    )


def _lenses(metadata: dict[str, Any], count: int) -> torch.Tensor:
    """fx, fy, cx, cy of each frame."""
    each = metadata.get("perFrameIntrinsicCoeffs")
    if isinstance(each, list) and len(each) == count:
        rows = [numbers(row, 4, f"perFrameIntrinsicCoeffs {i}") for i, row in enumerate(each)]
    else:
        matrix = numbers(metadata.get("K"), 9, "K")
        if any(matrix[at] for at in (1, 2, 3, 5)) or matrix[8] != 1:
            raise ValueError(
                f"K is {matrix}; expected [fx, 0, 0, 0, fy, 0, cx, cy, 1], column by column. "
                "Export it anew."
            )
        rows = [[matrix[0], matrix[4], matrix[6], matrix[7]]] * count
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def _is_metadata(document: Any) -> bool:
    return isinstance(document, dict) and "poses" in document and (
        "K" in document or "perFrameIntrinsicCoeffs" in document
    )  # fmt: skip
