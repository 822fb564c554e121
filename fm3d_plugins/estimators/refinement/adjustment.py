"""Bundle adjustment that remembers what was believed before: maximum a posteriori (MAP).

The squared reprojection errors under Cauchy's loss, and for every view's turn and centre, every
camera's focal length and k1 the squared distance from its prior in units of its standard deviation.
Where matches are few or wrong, cameras stay where they were believed to be; where nothing but the
prior fixes the world's frame and scale, it does. Solved by Levenberg and Marquardt's steps with the
points eliminated (Triggs et al. 2000, "Bundle Adjustment - A Modern Synthesis", section 6.1).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64

from fm3d_plugins.geometry.least_squares import Damping
from fm3d_plugins.geometry.poses import skew, so3_exp, so3_log
from fm3d_plugins.geometry.robust import cauchy_cost, cauchy_weight
from fm3d_plugins.kernels.bundle_adjustment import (
    Cameras,
    Derivatives,
    Equations,
    Observations,
    derivatives,
    moved_points,
    reduced_equations,
    reprojection_errors,
)
from fm3d_plugins.kernels.bundle_adjustment.layout import LENS, POSE

MAX_STEPS = 60


@dataclass(frozen=True)
class Spread:
    """Standard deviations of what is believed of the cameras."""

    turn: Float64[np.ndarray, " view"]
    """Of each view about each axis, radians."""
    center: Float64[np.ndarray, " view"]
    """Of each view along each axis, scene units."""
    log_focal: Float64[np.ndarray, " lens"]
    k1: Float64[np.ndarray, " lens"]
    """0: it stays as it is. So with `log_focal`."""


@dataclass(frozen=True)
class Adjusted:
    """Cameras and points after the adjustment."""

    cameras: Cameras
    points: Float64[np.ndarray, "point 3"]
    cost: float
    steps: int


def adjust(
    start: Cameras,
    points: Float64[np.ndarray, "point 3"],
    seen: Observations,
    prior: Cameras,
    spread: Spread,
    *,
    reach: float,
    tolerance: float,
) -> Adjusted:
    """The cameras and points of the greatest posterior probability that is near a start.

    Args:
        start: Where the search begins; of the same views and lenses as the prior.
        points: Where they begin.
        seen: What is to be explained, with a standard deviation of one pixel.
        prior: What is believed of the cameras.
        spread: How firmly.
        reach: Of Cauchy's loss, pixels.
        tolerance: Relative fall of the cost below which nothing more is to be gained.
    """
    problem = _Problem(prior, spread, seen, reach)
    cameras, cost = start, problem.cost(start, points)
    damping, steps = Damping(least=1e-9, most=1e8), 0
    while steps < MAX_STEPS:
        errors = reprojection_errors(cameras, points, seen)
        slopes = derivatives(cameras, points, seen)
        weights = problem.weights(errors)

        def attempt(
            factor: float,
            cameras=cameras, points=points, errors=errors, weights=weights, slopes=slopes,
        ) -> tuple[tuple[Cameras, np.ndarray], float]:  # fmt: skip
            made = problem.equations(cameras, len(points), errors, weights, slopes, factor)
            step = _solved(made, problem.is_free, factor)
            moved = stepped(cameras, step)
            shifted = points + moved_points(cameras, seen, weights, slopes, made, step)
            return (moved, shifted), problem.cost(moved, shifted)

        found = damping.descend(cost, attempt)
        if found is None:
            break
        previous, ((cameras, points), cost) = cost, found
        steps += 1
        if previous - cost <= tolerance * previous:
            break
    return Adjusted(cameras, points, cost, steps)


def covariance(
    cameras: Cameras,
    points: Float64[np.ndarray, "point 3"],
    seen: Observations,
    prior: Cameras,
    spread: Spread,
    *,
    reach: float,
) -> Float64[np.ndarray, "unknown unknown"]:
    """Of all poses and lenses at the solution (Laplace's approximation), points integrated out.

    Unknowns are those of `kernels.bundle_adjustment.Equations`: rows and columns of what does not
    change are zero. Arguments as of `adjust`.
    """
    problem = _Problem(prior, spread, seen, reach)
    errors = reprojection_errors(cameras, points, seen)
    slopes = derivatives(cameras, points, seen)
    made = problem.equations(cameras, len(points), errors, problem.weights(errors), slopes, 0.0)
    free = problem.is_free
    found = np.zeros_like(made.matrix)
    found[np.ix_(free, free)] = np.linalg.inv(made.matrix[np.ix_(free, free)])
    return (found + found.T) / 2


@dataclass(frozen=True)
class _Problem:
    prior: Cameras
    spread: Spread
    seen: Observations
    reach: float

    @property
    def is_free(self) -> Bool[np.ndarray, " unknown"]:
        lenses = np.stack([self.spread.log_focal > 0, self.spread.k1 > 0], axis=1)
        return np.concatenate([np.ones(POSE * len(self.prior.centers), bool), lenses.ravel()])

    def weights(self, errors: Float64[np.ndarray, "observation 2"]) -> np.ndarray:
        return cauchy_weight(torch.from_numpy((errors**2).sum(1)), self.reach).numpy()

    def cost(self, cameras: Cameras, points: Float64[np.ndarray, "point 3"]) -> float:
        squared = torch.from_numpy((reprojection_errors(cameras, points, self.seen) ** 2).sum(1))
        off, information = self._prior_error(cameras)
        total = float(cauchy_cost(squared, self.reach).sum()) + float((off**2 * information).sum())
        return total if np.isfinite(total) else np.inf

    def equations(
        self,
        cameras: Cameras,
        num_points: int,
        errors: Float64[np.ndarray, "observation 2"],
        weights: Float64[np.ndarray, " observation"],
        slopes: Derivatives,
        damping: float,
    ) -> Equations:
        """The cameras' equations with their priors."""
        made = reduced_equations(
            cameras, self.seen, errors, weights, slopes, num_points=num_points, damping=damping
        )
        off, information = self._prior_error(cameras)
        by_step = self._prior_slope(off)
        views = len(cameras.centers)
        for view in range(views):
            rows = slice(POSE * view, POSE * view + 3)
            weighted = by_step[view].T * information[rows]
            made.matrix[rows, rows] += weighted @ by_step[view]
            made.diagonal[rows] += np.diag(weighted @ by_step[view])
            made.right[rows] -= weighted @ off[rows]
        rest = np.ones(len(off), bool)
        rest[: POSE * views] = np.tile([False] * 3 + [True] * 3, views)
        rows = np.flatnonzero(rest)
        made.matrix[rows, rows] += information[rows]
        made.diagonal[rows] += information[rows]
        made.right[rows] -= information[rows] * off[rows]
        return made

    def _prior_error(self, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
        """How far all unknowns are from what is believed, and one over their variances."""
        prior, spread = self.prior, self.spread
        turned = cameras.camera_from_world @ prior.camera_from_world.transpose(0, 2, 1)
        turns = so3_log(torch.from_numpy(turned)).numpy()
        poses = np.concatenate([turns, cameras.centers - prior.centers], axis=1)
        lenses = np.stack(
            [
                np.log(cameras.focal[:, 0] / prior.focal[:, 0]),
                cameras.distortion[:, 0] - prior.distortion[:, 0],
            ],
            axis=1,
        )
        deviations = np.concatenate(
            [
                np.repeat(np.stack([spread.turn, spread.center], axis=1), 3, axis=1).ravel(),
                np.stack([spread.log_focal, spread.k1], axis=1).ravel(),
            ]
        )
        held = deviations <= 0
        information = np.where(held, 0.0, 1 / np.where(held, 1.0, deviations) ** 2)
        return np.concatenate([poses.ravel(), lenses.ravel()]), information

    def _prior_slope(self, off: np.ndarray) -> Float64[np.ndarray, "view 3 3"]:
        """Derivative of each view's turn from its prior by a further turn to its left.

        The inverse of SO(3)'s left Jacobian, I - [w]/2 + (1/a² - (1 + cos a)/(2 a sin a)) [w]².
        """
        turns = torch.from_numpy(off[: POSE * len(self.prior.centers)].reshape(-1, POSE)[:, :3])
        angle = turns.norm(dim=-1).clamp_min(1e-4)
        factor = 1 / angle**2 - (1 + angle.cos()) / (2 * angle * angle.sin())
        across = skew(turns)
        eye = torch.eye(3, dtype=turns.dtype)
        return (eye - across / 2 + factor[:, None, None] * (across @ across)).numpy()


def _solved(
    made: Equations, free: Bool[np.ndarray, " unknown"], damping: float
) -> Float64[np.ndarray, " unknown"]:
    """The damped step of poses and lenses; nan where the equations cannot be solved."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    matrix = made.matrix[np.ix_(free, free)]
    matrix[np.diag_indices_from(matrix)] += damping * made.diagonal[free]
    step = np.zeros(len(free))
    try:
        step[free] = cho_solve(cho_factor(matrix, overwrite_a=True), made.right[free])
    except LinAlgError:
        step[free] = np.nan
    return step


def stepped(cameras: Cameras, step: Float64[np.ndarray, " unknown"]) -> Cameras:
    """Cameras after a step of all unknowns, as `kernels.bundle_adjustment.layout` has them."""
    views = len(cameras.centers)
    poses = step[: POSE * views].reshape(views, POSE)
    lenses = step[POSE * views :].reshape(-1, LENS)
    turns = so3_exp(torch.from_numpy(poses[:, :3].copy())).numpy()
    distortion = cameras.distortion.copy()
    distortion[:, 0] += lenses[:, 1]
    return replace(
        cameras,
        camera_from_world=turns @ cameras.camera_from_world,
        centers=cameras.centers + poses[:, 3:],
        focal=cameras.focal * np.exp(lenses[:, :1]),
        distortion=distortion,
    )
