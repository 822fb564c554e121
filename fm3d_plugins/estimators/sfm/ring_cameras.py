"""Cameras of photos all around a thing of which only neighbours match.

Photo after photo is joined by points that three of them see. Where photos share 15 to 50 matches
with each neighbour and hardly one with both, none can join. But that they were taken all around, in
the order of their names, says nearly all: cameras begin in a ring of even steps (`rings.py`), and
leave it as far as the photos say that they did.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64

from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.backends.pycolmap.verification import CameraGuess
from fm3d_plugins.estimators.matching.photo_matches import camera_guess, rows_of
from fm3d_plugins.estimators.refinement.adjustment import Spread
from fm3d_plugins.estimators.refinement.gate import LEAST_OBSERVATIONS
from fm3d_plugins.estimators.refinement.rounds import Evidence, Solution, solve, world_from_camera
from fm3d_plugins.estimators.sfm.attempts import implausibility
from fm3d_plugins.estimators.sfm.look_alikes import (
    Doubt,
    contradicted,
    fitting_shares,
    is_closed,
    near_in_order,
)
from fm3d_plugins.estimators.sfm.result import Found
from fm3d_plugins.estimators.sfm.rings import Ring, fitted_ring, focal_deviation, nearest_ring
from fm3d_plugins.geometry.poses import so3_log
from fm3d_plugins.kernels.bundle_adjustment.layout import POSE

IN_A_RING = "as photos taken in even steps all around, in the order of their names"

TURN, CENTER = math.radians(5.0), 0.08
"""Standard deviations from the ring with which cameras begin to leave it, about and along each
axis: radians and radii."""

LEAST_TURN, LEAST_CENTER = math.radians(0.1), 0.002

NOISE_DEGREES = 2.0
"""By which the ring may contradict matches, for `solve`."""

ROUNDS, SETTLED = 8, 0.8
"""How often ring and deviations from it are asked for, and the factor at which these stay."""

EVEN_DEGREES = 1.0
"""Deviation from the ring up to which steps are even. Turntables came out with 0.1 to 0.6, hands
with 1.4 to 6; no wrong ring that matches told (`TOLD`) with less than 3."""

TOLD = 0.15
"""Largest share of `TURN`, squared, that the variance of a photo's turn about the ring's axis is
left with, for matches to tell it: 0.03 to 0.08 where they did and 0.24 to 0.5 where 20 of a pair
did not."""

MOST_CONTRADICTED = 0.2
"""Of the matches of neighbours, by an even ring that is believed: it has 4 unknowns, so that no
chance makes the others agree. Right ones contradicted 0.02 to 0.17."""

AS_MANY = 0.95
"""Of the neighbours' matches that other cameras explain, of which an even ring must explain as
many, for these have far more unknowns."""


@dataclass(frozen=True)
class LeftRing:
    """Cameras that began in a ring."""

    solution: Solution
    deviation_degrees: float
    """Standard deviation from the ring about one axis: how uneven its steps are."""
    untold: float
    """Share of the variance of a photo's turn about the axis that matches left, as of `TOLD`."""

    @property
    def focal_deviation(self) -> float:
        """Standard deviation of the focal length's logarithm."""
        row = POSE * len(self.solution.cameras.centers)
        return math.sqrt(self.solution.covariance()[row, row])

    def model(self) -> SparseModel:
        """Of the photos that see enough points; it is in no file."""
        solution, seen = self.solution, self.solution.seen
        joined = np.flatnonzero(solution.observations >= LEAST_OBSERVATIONS)
        view_of = np.full(len(solution.cameras.centers), -1)
        view_of[joined] = np.arange(len(joined))
        kept = view_of[seen.view] >= 0
        kept &= np.bincount(seen.point[kept], minlength=len(solution.points))[seen.point] > 1
        points, point = np.unique(seen.point[kept], return_inverse=True)
        errors = np.bincount(point, solution.errors[kept], minlength=len(points))
        matrix = np.eye(3)
        matrix[(0, 1), (0, 1)] = solution.cameras.focal[0]
        matrix[:2, 2] = solution.cameras.principal_point[0]
        return SparseModel(
            image_index=joined,
            world_from_camera=world_from_camera(solution.cameras)[joined],
            intrinsics=np.tile(matrix, (len(joined), 1, 1)),
            distortion=np.tile(solution.cameras.distortion, (len(joined), 1)),
            points=solution.points[points],
            point_errors=errors / np.bincount(point, minlength=len(points)),
            track_point=point.astype(np.int64),
            track_view=view_of[seen.view[kept]],
            track_keypoint=solution.keypoint[kept],
        )


def leave_ring(ring: Ring, evidence: Evidence, guess: CameraGuess) -> LeftRing:
    """Cameras that left a ring as far as the photos tell.

    The ring itself, and how far cameras are from it, are unknown as well: they are what explains
    best where cameras went, and how surely (expectation and maximisation; Dempster et al. 1977).
    Without the first an error of the ring's stays where few matches speak against it.

    Args:
        evidence: Of all photos of the ring, in order.
        guess: As of `fitted_ring`.
    """
    count = len(evidence.keypoints)
    start = ring.cameras(count, guess.center)
    # What is believed of the focal length does not come from the same matches.
    believed = np.full_like(start.focal, guess.focal)
    spread = Spread(
        np.full(count, TURN),
        np.full(count, CENTER),
        np.array([focal_deviation(guess)]),
        np.zeros(1),
    )
    solution = solve(replace(start, focal=believed), spread, evidence, NOISE_DEGREES, start=start)
    untold = float(np.median(_axis_variances(solution))) / TURN**2
    for _ in range(ROUNDS):
        before, spread = spread, _likeliest(solution)
        if spread.turn[0] >= SETTLED * before.turn[0]:
            break
        start = nearest_ring(solution.cameras).cameras(count, guess.center)
        prior = replace(start, focal=believed)
        solution = solve(prior, spread, evidence, NOISE_DEGREES, start=start)
    return LeftRing(solution, math.degrees(spread.turn[0]), untold)


def _axis_variances(solution: Solution) -> Float64[np.ndarray, " view"]:
    """Of each view's turn about the world's z, squared radians."""
    axes = solution.cameras.camera_from_world[:, :, 2]
    views = len(axes)
    size = POSE * views
    blocks = solution.covariance()[:size, :size].reshape(views, POSE, views, POSE)
    own = blocks[np.arange(views), :3, np.arange(views), :3]
    return np.einsum("vi,vij,vj->v", axes, own, axes)


def _likeliest(solution: Solution) -> Spread:
    """Standard deviations from the prior that explain a solution best."""
    prior, cameras = solution.prior, solution.cameras
    views = len(cameras.centers)
    variances = np.diag(solution.covariance())[: POSE * views].reshape(views, POSE)
    turned = cameras.camera_from_world @ prior.camera_from_world.transpose(0, 2, 1)
    turns = so3_log(torch.from_numpy(turned)).numpy()
    moved = cameras.centers - prior.centers
    turn = math.sqrt((turns**2 + variances[:, :3]).mean())
    center = math.sqrt((moved**2 + variances[:, 3:]).mean())
    return replace(
        solution.spread,
        turn=np.full(views, max(turn, LEAST_TURN)),
        center=np.full(views, max(center, LEAST_CENTER)),
    )


def as_ring(known: Sequence[Found], groups: Sequence[int]) -> Found:
    """The best of what was found, or cameras that began in a ring, where these are believed or all
    else is in doubt and explains less.

    Args:
        known: What was found, the best first; the last by the matches that are to be explained.
        groups: The camera of each photo; a ring is of one.
    """
    best, asked = known[0], known[-1]
    working, count = asked.working, len(asked.working)
    near = near_in_order(asked.matches, count)
    if len(set(groups)) > 1 or not is_closed(near, count):
        return best
    guess = camera_guess(working[0], "SIMPLE_PINHOLE")
    keypoints = [one.features.keypoints for one in working]
    evidence = Evidence(
        [(one.width, one.height) for one in working],
        [each[:, :2].astype(np.float64) for each in keypoints],
        rows_of(near),
    )
    left = leave_ring(fitted_ring(evidence.keypoints, evidence.matches, guess), evidence, guess)
    model = left.model()
    if implausibility(model, evidence.image_sizes) is not None:
        return best

    def explained(one: SparseModel | None) -> float:
        shares = {} if one is None else fitting_shares(one, keypoints, near)
        return float(sum(share * len(near[pair].rows) for pair, share in shares.items()))

    others = max(explained(one.search.best) for one in known)
    why = _doubt(left, contradicted(model, keypoints, near))
    needed = others if why is not None else AS_MANY * others
    if explained(model) < needed or (why is not None and best.doubt is None):
        return best
    tried = [*best.search.tried, f"in a ring: {len(model)}"]
    search = replace(best.search, best=model, holds_focal=False, tried=tried)
    return Found(working, list(groups), asked.matches, search, why, IN_A_RING, left.focal_deviation)


def _doubt(left: LeftRing, share: float) -> Doubt | None:
    """What speaks against cameras that began in a ring, of which a share of matches contradicts."""
    reasons = []
    if left.untold > TOLD:
        reasons.append("too few matches tell how even the steps between photos are")
    if left.deviation_degrees > EVEN_DEGREES:
        reasons.append(
            f"they are {left.deviation_degrees:.0f} degrees from even steps all around, where the "
            "search for them began"
        )
    if share > MOST_CONTRADICTED:
        reasons.append(f"{100 * share:.0f} % of the matches of neighbours contradict them")
    return Doubt(tuple(reasons), is_of_cameras=True) if reasons else None
