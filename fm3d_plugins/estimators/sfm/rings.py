"""One camera that goes all around a thing in even steps, as one before a turntable does.

It has four unknowns besides its size: its rotation before the axis, and its focal length.
The matches of all neighbours tell them together (Fitzgibbon et al. 1998, single axis motion).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from fm3d_plugins.backends.pycolmap.verification import CameraGuess
from fm3d_plugins.geometry.poses import nearest_rotation, skew, so3_exp
from fm3d_plugins.kernels.bundle_adjustment import Cameras

FOCAL_DEVIATION, KNOWN_FOCAL_DEVIATION = 0.3, 0.02
"""Of the logarithm of a focal length that is guessed, and of one that EXIF tells. Matches of
neighbours tell it hardly: from far away a ring looks the same through any lens."""

PAN_DEVIATION = 0.1
"""Of the angle by which the camera looks past the axis, radians."""

ELEVATIONS = tuple(math.radians(degrees) for degrees in (-45, -30, -15, 0, 15, 30, 45))
ROLLS = tuple(math.radians(degrees) for degrees in (0, 90, 180, 270))
"""Where the search begins. A ring that runs the other way is one that is seen upside down."""

BEST_STARTS = 4
"""Of these, from which it goes on."""

ROUGH, FINE = 8.0, 2.0
"""Reach of the loss, pixels: of the first search and of the second."""

MATCHES_PER_PAIR = 60
"""As many tell the ring; the others would only cost time."""

Pair = tuple[int, int]
Rows = Mapping[Pair, Int64[np.ndarray, "_match 2"]]


@dataclass(frozen=True)
class Ring:
    """One camera that goes around an axis in equal steps.

    The axis is z and the radius 1: the first camera stands at (1, 0, 0).
    """

    camera_from_ring: Float64[np.ndarray, "3 3"]
    """Rotation of the first camera."""
    focal: float
    """Pixels."""

    def cameras(self, count: int, principal_point: tuple[float, float]) -> Cameras:
        """All cameras of the ring."""
        turns = _turns(2 * math.pi * np.arange(count) / count)
        return Cameras(
            camera_from_world=np.ascontiguousarray(
                self.camera_from_ring @ turns.transpose(0, 2, 1)
            ),
            centers=np.ascontiguousarray(turns[:, :, 0]),
            group=np.zeros(count, np.int64),
            focal=np.full((1, 2), self.focal),
            principal_point=np.array([principal_point]),
            distortion=np.zeros((1, 6)),
        )


def fitted_ring(
    keypoints: Sequence[Float64[np.ndarray, "_feature 2"]], matches: Rows, guess: CameraGuess
) -> Ring:
    """The ring that matches fit best, by their distances from its epipolar lines.

    Args:
        keypoints: Of all photos, in the order in which they were taken around; pixels.
        matches: Of photos that are near each other in that order.
        guess: The camera's focal length, as far as it is known beforehand.
    """
    from scipy.optimize import least_squares

    problem = _Problem(keypoints, matches, guess)
    starts = [(_first_rotation(e, r), np.zeros(4)) for e in ELEVATIONS for r in ROLLS]
    starts.sort(key=lambda start: problem.cost(start[1], start[0], ROUGH))
    found = []
    for rotation, start in starts[:BEST_STARTS]:
        step = start
        for reach in (ROUGH, FINE):
            step = least_squares(problem.residuals, step, args=(rotation, reach), max_nfev=30).x
        found.append((problem.cost(step, rotation, FINE), problem.ring(step, rotation)))
    return min(found, key=lambda each: each[0])[1]


def nearest_ring(cameras: Cameras) -> Ring:
    """The ring with the mean rotation of cameras of one lens that nearly are in one.

    Their mean distance from its axis is their unit of length, and where they stand along it is
    where its first camera does, so that nothing but the rotation is left.
    """
    turns = _turns(2 * math.pi * np.arange(len(cameras.centers)) / len(cameras.centers))
    mean = torch.from_numpy((cameras.camera_from_world @ turns).mean(0))
    return Ring(nearest_rotation(mean).numpy(), float(cameras.focal[0, 0]))


def focal_deviation(guess: CameraGuess) -> float:
    """Standard deviation of the logarithm of a guessed focal length."""
    return KNOWN_FOCAL_DEVIATION if guess.is_known else FOCAL_DEVIATION


class _Problem:
    """Matches and what is believed of the camera, as residuals of a step from a first rotation."""

    def __init__(
        self,
        keypoints: Sequence[Float64[np.ndarray, "_feature 2"]],
        matches: Rows,
        guess: CameraGuess,
    ) -> None:
        count = len(keypoints)
        some = {pair: _thinned(rows) for pair, rows in matches.items()}
        self.pair = np.repeat(np.arange(len(some)), [len(rows) for rows in some.values()])
        self.ends = tuple(
            np.concatenate(
                [
                    np.pad(
                        keypoints[pair[side]][rows[:, side]] - guess.center,
                        ((0, 0), (0, 1)),
                        constant_values=1.0,
                    )
                    for pair, rows in some.items()
                ]
            )
            for side in (0, 1)
        )
        steps = np.array([second - first for first, second in some])
        self.turns = _turns(2 * math.pi * steps / count)
        self.focal = guess.focal
        self.focal_deviation = focal_deviation(guess)

    def ring(self, step: Float64[np.ndarray, "4"], rotation: Float64[np.ndarray, "3 3"]) -> Ring:
        """At a step: a rotation vector, and the logarithm of the focal length over the guess."""
        turn = so3_exp(torch.from_numpy(np.ascontiguousarray(step[:3]))).numpy()
        return Ring(turn @ rotation, self.focal * math.exp(step[3]))

    def cost(
        self, step: Float64[np.ndarray, "4"], rotation: Float64[np.ndarray, "3 3"], reach: float
    ) -> float:
        """Sum of squares of the residuals."""
        return float((self.residuals(step, rotation, reach) ** 2).sum())

    def residuals(
        self, step: Float64[np.ndarray, "4"], rotation: Float64[np.ndarray, "3 3"], reach: float
    ) -> Float64[np.ndarray, " residual"]:
        """Roots of Cauchy's loss of the Sampson errors, and deviations from what is believed."""
        ring = self.ring(step, rotation)
        off = self._errors(ring) / reach
        pan = ring.camera_from_ring[2, 1] / PAN_DEVIATION
        believed = [step[3] / self.focal_deviation, pan]
        return np.concatenate([np.sqrt(np.log1p(off**2)) * reach / FINE, believed])

    def _errors(self, ring: Ring) -> Float64[np.ndarray, " match"]:
        """As `epipolar.sampson_errors`, for all pairs of a ring at once; centred pixels."""
        rotation, back = ring.camera_from_ring, self.turns.transpose(0, 2, 1)
        shift = (back[:, :, 0] - np.array([1.0, 0.0, 0.0])) @ rotation.T
        essential = skew(torch.from_numpy(shift)).numpy() @ (rotation @ back @ rotation.T)
        inverse = np.array([1 / ring.focal, 1 / ring.focal, 1.0])
        between = (inverse[:, None] * essential * inverse)[self.pair]
        one, two = self.ends
        in_second = np.einsum("mij,mj->mi", between, one)
        in_first = np.einsum("mij,mi->mj", between, two)
        slope = (in_second[:, :2] ** 2).sum(1) + (in_first[:, :2] ** 2).sum(1)
        return (in_second * two).sum(1) / np.sqrt(np.maximum(slope, 1e-300))


def _thinned(rows: Int64[np.ndarray, "_match 2"]) -> Int64[np.ndarray, "_kept 2"]:
    """At most `MATCHES_PER_PAIR` of them, evenly spaced."""
    if len(rows) <= MATCHES_PER_PAIR:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MATCHES_PER_PAIR).round().astype(int)]


def _turns(angles: Float64[np.ndarray, " turn"]) -> Float64[np.ndarray, "turn 3 3"]:
    """Rotations about z, radians."""
    turns = np.tile(np.eye(3), (len(angles), 1, 1))
    turns[:, 0, 0] = turns[:, 1, 1] = np.cos(angles)
    turns[:, 1, 0] = np.sin(angles)
    turns[:, 0, 1] = -turns[:, 1, 0]
    return turns


def _first_rotation(elevation: float, roll: float) -> Float64[np.ndarray, "3 3"]:
    """Of a camera at (1, 0, 0) that looks at the axis, down by its elevation."""
    ahead = np.array([-math.cos(elevation), 0.0, -math.sin(elevation)])
    right = np.array([0.0, 1.0, 0.0])
    level = np.stack([right, np.cross(ahead, right), ahead])
    return _turns(np.array([roll]))[0] @ level
