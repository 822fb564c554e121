"""Polycam's raw export: keyframes/images and a JSON file per keyframe.

t_00 to t_23 are the first three rows of the camera-to-world matrix, in metres, y of the world up,
with OpenGL axes of the camera; fx, fy, cx, cy and width, height are pixels. Cameras that Polycam
optimised lie in keyframes/corrected_cameras and belong to the same photos.
"""

from pathlib import Path

import torch

from fm3d_plugins.files import read_json
from fm3d_plugins.io.pose_files.posed_photos import PosedPhotos, posed_photos, without_rounding
from fm3d_plugins.io.pose_files.reading import files_in, json_or_none, number, size

LOOKED_FOR = "Polycam: keyframes/corrected_cameras/*.json or keyframes/cameras/*.json with t_00"

_FOLDERS = ("keyframes/corrected_cameras", "corrected_cameras", "keyframes/cameras", "cameras", ".")


def find(path: Path) -> tuple[Path, ...]:
    """One file per keyframe; corrected ones before those of ARKit."""
    for folder in _FOLDERS:
        cameras = tuple(
            file for file in files_in(path, (folder,), ("*.json",))
            if isinstance(document := json_or_none(file), dict) and "t_00" in document
        )  # fmt: skip
        if cameras:
            return cameras
    return ()


def read(files: tuple[Path, ...]) -> PosedPhotos:
    """All keyframes, named like their files.

    Raises:
        ValueError: A file lacks a number, or holds what is none.
    """
    poses, lenses, sizes = [], [], []
    for file in files:
        camera = read_json(file, "Export the poses anew.")
        pose = [number(camera, f"t_{i}{j}", str(file)) for i in range(3) for j in range(4)]
        poses.append([*pose, 0.0, 0.0, 0.0, 1.0])
        lenses.append([number(camera, key, str(file)) for key in ("fx", "fy", "cx", "cy")])
        sizes.append(size([camera.get("width"), camera.get("height")], str(file)))
    lens = torch.tensor(lenses, dtype=torch.float64)
    matrices = torch.tensor(poses, dtype=torch.float64).reshape(-1, 4, 4)
    return posed_photos(
        [file.stem for file in files],
        without_rounding(matrices),
        lens[:, :2],
        axes="opengl",
        principal_points=lens[:, 2:],
        image_sizes=sizes,
        scale="metric",
    )
