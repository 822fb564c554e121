"""Reprojection errors of many observations, and their normal equations without the points."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from fm3d_plugins.kernels.bundle_adjustment.layout import LENS, POSE
from fm3d_plugins.kernels.shapes import check_shapes


@dataclass(frozen=True)
class Cameras:
    """Views and the cameras that took them; OpenCV axes, pixels."""

    camera_from_world: Float64[np.ndarray, "view 3 3"]
    """Rotations."""
    centers: Float64[np.ndarray, "view 3"]
    """World frame."""
    group: Int64[np.ndarray, " view"]
    """Row of each view's lens."""
    focal: Float64[np.ndarray, "lens 2"]
    principal_point: Float64[np.ndarray, "lens 2"]
    distortion: Float64[np.ndarray, "lens 6"]
    """k1, k2, k3, k4, p1, p2 of the OpenCV model in nerfstudio's order."""


@dataclass(frozen=True)
class Observations:
    """Which pixel of which view sees which point; those of a point stand together."""

    view: Int64[np.ndarray, " observation"]
    point: Int64[np.ndarray, " observation"]
    """Never falls from one row to the next."""
    pixel: Float64[np.ndarray, "observation 2"]

    def __len__(self) -> int:
        return len(self.view)


@dataclass(frozen=True)
class Derivatives:
    """Of each observation's error by the unknowns that it depends on."""

    by_camera: Float64[np.ndarray, "observation 2 8"]
    """By its view's pose and its camera's lens, see `layout`."""
    by_point: Float64[np.ndarray, "observation 2 3"]


@dataclass(frozen=True)
class Equations:
    """Normal equations of all cameras, the points eliminated (Schur's complement).

    Unknowns are the views' poses, then the lenses: 6 V + 2 L of them.
    """

    matrix: Float64[np.ndarray, "unknown unknown"]
    diagonal: Float64[np.ndarray, " unknown"]
    """Of the cameras' own part of the matrix, points not eliminated: what damping is a share of."""
    right: Float64[np.ndarray, " unknown"]
    point_inverse: Float64[np.ndarray, "point 3 3"]
    """Inverse of each point's own damped block."""
    point_right: Float64[np.ndarray, "point 3"]


def reprojection_errors(
    cameras: Cameras, points: Float64[np.ndarray, "point 3"], seen: Observations
) -> Float64[np.ndarray, "observation 2"]:
    """Projected minus seen pixel; `layout.BEHIND` for points that are not before their camera.

    Raises:
        ValueError: Sizes do not agree, or a row is named that is not there.
    """
    from fm3d_plugins.kernels.bundle_adjustment.kernels import errors_of

    _check(cameras, points, seen)
    errors = np.empty((len(seen), 2))
    errors_of(*_arrays(cameras, points, seen), errors)
    return errors


def derivatives(
    cameras: Cameras, points: Float64[np.ndarray, "point 3"], seen: Observations
) -> Derivatives:
    """Of `reprojection_errors`; zero for points that are not before their camera.

    Raises:
        ValueError: As `reprojection_errors`.
    """
    from fm3d_plugins.kernels.bundle_adjustment.kernels import derivatives_of

    _check(cameras, points, seen)
    found = Derivatives(np.empty((len(seen), 2, POSE + LENS)), np.empty((len(seen), 2, 3)))
    derivatives_of(*_arrays(cameras, points, seen), found.by_camera, found.by_point)
    return found


def reduced_equations(
    cameras: Cameras,
    seen: Observations,
    errors: Float64[np.ndarray, "observation 2"],
    weights: Float64[np.ndarray, " observation"],
    slopes: Derivatives,
    *,
    num_points: int,
    damping: float,
) -> Equations:
    """Of the sum of weighted squared errors.

    Args:
        damping: Share by which the diagonals of the points' blocks grow. The cameras' part is left
            to the caller, who may add to it first.

    Raises:
        ValueError: Sizes do not agree, or a row is named that is not there.
    """
    from fm3d_plugins.kernels.bundle_adjustment.kernels import reduce_points

    _check(cameras, np.empty((num_points, 3)), seen)
    _check_shapes(
        "reduced_equations",
        {
            "errors": (errors, "o 2"),
            "weights": (weights, "o"),
            "by_camera": (slopes.by_camera, "o 2 8"),
            "by_point": (slopes.by_point, "o 2 3"),
        },
        {"o": len(seen)},
    )
    views, lenses = len(cameras.centers), len(cameras.focal)
    size = POSE * views + LENS * lenses
    made = Equations(
        np.zeros((size, size)),
        np.zeros(size),
        np.zeros(size),
        np.zeros((num_points, 3, 3)),
        np.zeros((num_points, 3)),
    )
    reduce_points(
        seen.view, seen.point, cameras.group, views, errors, weights, slopes.by_camera,
        slopes.by_point, damping, made.matrix, made.diagonal, made.right, made.point_inverse,
        made.point_right,
    )  # fmt: skip
    return made


def moved_points(
    cameras: Cameras,
    seen: Observations,
    weights: Float64[np.ndarray, " observation"],
    slopes: Derivatives,
    equations: Equations,
    step: Float64[np.ndarray, " unknown"],
) -> Float64[np.ndarray, "point 3"]:
    """The points' steps that go with the cameras' step."""
    from fm3d_plugins.kernels.bundle_adjustment.kernels import substitute_points

    steps = np.empty_like(equations.point_right)
    substitute_points(
        seen.view, seen.point, cameras.group, len(cameras.centers), weights, slopes.by_camera,
        slopes.by_point, equations.point_inverse, equations.point_right, step, steps,
    )  # fmt: skip
    return steps


def _arrays(cameras: Cameras, points: np.ndarray, seen: Observations) -> tuple[np.ndarray, ...]:
    return (
        cameras.camera_from_world, cameras.centers, cameras.group, cameras.focal,
        cameras.principal_point, cameras.distortion, points, seen.view, seen.point, seen.pixel,
    )  # fmt: skip


def _check(cameras: Cameras, points: np.ndarray, seen: Observations) -> None:
    _check_shapes(
        "A bundle adjustment",
        {
            "camera_from_world": (cameras.camera_from_world, "v 3 3"),
            "centers": (cameras.centers, "v 3"),
            "focal": (cameras.focal, "l 2"),
            "principal_point": (cameras.principal_point, "l 2"),
            "distortion": (cameras.distortion, "l 6"),
            "points": (points, "p 3"),
            "pixel": (seen.pixel, "o 2"),
        },
        {},
    )
    _check_shapes(
        "A bundle adjustment",
        {"group": (cameras.group, "v"), "view": (seen.view, "o"), "point": (seen.point, "o")},
        {"v": len(cameras.centers), "o": len(seen)},
    )
    for name, rows, count in (
        ("group", cameras.group, len(cameras.focal)),
        ("view", seen.view, len(cameras.centers)),
        ("point", seen.point, len(points)),
    ):
        if len(rows) and not (0 <= rows.min() and rows.max() < count):
            raise ValueError(
                f"A bundle adjustment got {name} from {rows.min()} to {rows.max()}. "
                f"Expected rows from 0 to {count - 1}. Pass arrays that belong together."
            )
    if (np.diff(seen.point) < 0).any():
        raise ValueError(
            "A bundle adjustment got observations in mixed order. Expected those of a point "
            "together, by rising row. Sort them by point."
        )


def _check_shapes(
    where: str, arrays: Mapping[str, tuple[np.ndarray, str]], sizes: Mapping[str, int]
) -> None:
    tensors = {name: (torch.from_numpy(array), axes) for name, (array, axes) in arrays.items()}
    check_shapes(where, tensors, sizes)
