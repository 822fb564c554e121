"""VisualSFM's N-View Match (Wu 2011).

Each camera has a focal length, the quaternion (scalar first) of camera_from_world with OpenCV axes,
its centre in the world, and r1. Measurements (x', y') are pixels from the photo's middle over the
focal length, and r1 undoes the lens: (x, y) = (1 + r1 (x'² + y'²)) (x', y'). That is the inverse of
the usual direction, see `radial_distortion`.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from fm3d_plugins.geometry.poses import (
    pose_from_rotation_translation,
    rotation_from_quaternion_wxyz,
)
from fm3d_plugins.io.pose_files.posed_photos import PosedPhotos, posed_photos
from fm3d_plugins.io.pose_files.reading import files_in, head, numbers, read_text
from fm3d_plugins.progress import say

LOOKED_FOR = "VisualSFM: *.nvm that begins with `NVM_V3`"

_CAMERA, _POINT = 10, 7
"""Numbers of a camera behind its name, and of a point before its observations."""

_RADII = 400
"""Samples of a photo's radius to which a lens is fitted."""


def find(path: Path) -> tuple[Path, ...]:
    """The file; of several the first by name."""
    for file in files_in(path, (".",), ("*.nvm",)):
        if head(file).startswith(b"NVM_V3"):
            return (file,)
    return ()


def read(files: tuple[Path, ...]) -> PosedPhotos:
    """The largest of the file's models; one line says so if there are others.

    Raises:
        ValueError: The file is cut off or damaged.
    """
    (path,) = files
    first, *rest = read_text(path).splitlines()
    lines = iter([line for line in rest if line.strip()])
    models = []
    while (model := _model(lines)) is not None:
        models.append(model)
    if not models:
        raise ValueError(f"{path} holds no model. Expected cameras. Save the reconstruction anew.")
    names, table, xyz, rgb = max(models, key=lambda model: len(model[0]))
    if len(models) > 1:
        say(f"{path} holds {len(models)} models; the largest, of {len(names)} photos, is taken.")
    quaternions, centers = table[:, 1:5], table[:, 5:8]
    rotation = rotation_from_quaternion_wxyz(quaternions).mT
    focals, middles = table[:, :1].expand(-1, 2), None
    fixed = first.split()[1:]
    if fixed[:1] == ["FixedK"]:
        fx, cx, fy, cy = numbers(fixed[1:5], 4, "FixedK")
        focals = torch.tensor([[fx, fy]]).double().expand(len(names), 2)
        middles = torch.tensor([[cx, cy]]).double().expand(len(names), 2)
    return posed_photos(
        names,
        pose_from_rotation_translation(rotation, centers),
        focals,
        axes="opencv",
        principal_points=middles,
        inverse_radial=table[:, 8],
        points=xyz,
        point_colors=rgb,
    )


def radial_distortion(inverse_radial: float, radius: float) -> Float64[np.ndarray, "3"]:
    """k1, k2, k3 of the lens that NVM's r1 undoes, within a photo.

    The inverse of a polynomial is none: these are the least squares over the photo, which miss it
    by less than 0.05 px in 1000 of the focal length, for a r1 of -0.15 to 0.15 and corners that lie
    0.7 focal lengths from the middle.

    Args:
        inverse_radial: r1.
        radius: Of the photo's farthest corner from the principal point, over the focal length.

    Raises:
        ValueError: The lens folds the photo over itself.
    """
    seen = np.linspace(0, radius, _RADII)
    straight = seen * (1 + inverse_radial * seen**2)
    if not (1 + 3 * inverse_radial * seen**2 > 0.1).all():
        raise ValueError(
            f"The radial distortion {inverse_radial:g} folds a photo whose corners lie "
            f"{radius:.2f} focal lengths from its middle. Expected a lens that does not. Undistort "
            "the photos, or export another format."
        )
    powers = np.stack([straight**3, straight**5, straight**7], axis=-1)
    return np.linalg.lstsq(powers, seen - straight, rcond=None)[0]


def _model(
    lines: Iterator[str],
) -> tuple[list[str], torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """The next model: names, camera numbers [view, 9], points and colours; None at the end."""
    count = _count(next(lines, "0"))
    if not count:
        return None
    names, cameras = [], []
    for _ in range(count):
        words = next(lines, "").rsplit(maxsplit=_CAMERA)
        if len(words) != _CAMERA + 1:
            raise ValueError(
                f"There are {count} cameras, but only {len(names)} can be read. Expected a name "
                f"and {_CAMERA} numbers a line. Save the file anew."
            )
        names.append(words[0])
        cameras.append(numbers(words[1:], _CAMERA, f"the camera of {words[0]}")[: _CAMERA - 1])
    points = []
    for _ in range(_count(next(lines, "0"))):
        words = next(lines, "").split(maxsplit=_POINT)
        points.append(numbers(words[: _POINT - 1], _POINT - 1, "a point"))
    table = torch.tensor(points, dtype=torch.float64).reshape(-1, _POINT - 1)
    return (
        names,
        torch.tensor(cameras, dtype=torch.float64),
        table[:, :3],
        table[:, 3:].clamp(0, 255).to(torch.uint8),
    )


def _count(line: str) -> int:
    """How many lines follow."""
    number = numbers(line, 1, "a count")[0]
    if not number.is_integer() or number < 0 or math.isinf(number):
        raise ValueError(f"A count is {line!r}; expected a whole number. Save the file anew.")
    return int(number)
