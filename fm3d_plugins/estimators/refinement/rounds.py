"""Three rounds of triangulation and adjustment, with falling tolerance for errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from fm3d_plugins.backends.pycolmap.triangulation import (
    Matches,
    TriangulationSettings,
    triangulate,
)
from fm3d_plugins.estimators.refinement.adjustment import Spread, adjust, covariance
from fm3d_plugins.estimators.refinement.epipolar import pinholes, straightened
from fm3d_plugins.kernels.bundle_adjustment import Cameras, Observations, reprojection_errors

LEAST_ANGLE = 1.5
"""Between the rays of a point, degrees."""

WIDE_LENS = 0.30
"""Half the diagonal over the focal length, below which photos do not tell k1."""


@dataclass(frozen=True)
class Evidence:
    """What the photos say."""

    image_sizes: Sequence[tuple[int, int]]
    """Width and height of each photo as it was worked on, pixels."""
    keypoints: Sequence[Float64[np.ndarray, "_feature 2"]]
    """Of each photo, where they were found."""
    matches: Matches
    """Verified ones."""
    judging: Sequence[int] | None = None
    """How many of each photo's keypoints, from the first, may judge; None: all. Others only help to
    find cameras."""

    def may_judge(self, pair: tuple[int, int]) -> Bool[np.ndarray, " match"]:
        """Which matches of a pair are of keypoints that may judge."""
        rows = self.matches[pair]
        if self.judging is None:
            return np.ones(len(rows), bool)
        return np.all(rows < np.array([self.judging[view] for view in pair]), axis=1)


@dataclass(frozen=True)
class Solution:
    """Cameras with the points that they and the photos agree on."""

    cameras: Cameras
    points: Float64[np.ndarray, "point 3"]
    seen: Observations
    keypoint: Int64[np.ndarray, " observation"]
    """Row of the view's keypoints that each observation is."""
    errors: Float64[np.ndarray, " observation"]
    """Distance of each observation from its projected point, pixels."""
    prior: Cameras
    spread: Spread
    """Of the last round."""
    rough_rms: float = np.inf
    """`rms` after the second round, whose tolerance for errors is larger; pixels."""
    judging: Sequence[int] | None = None
    """As of the evidence."""

    @property
    def observations(self) -> Int64[np.ndarray, " view"]:
        """How many each view has."""
        return np.bincount(self.seen.view, minlength=len(self.cameras.centers))

    @property
    def verifying(self) -> Int64[np.ndarray, " view"]:
        """How many of each view's observations may judge."""
        if self.judging is None:
            return self.observations
        view = self.seen.view[self.keypoint < np.array(self.judging)[self.seen.view]]
        return np.bincount(view, minlength=len(self.cameras.centers))

    @property
    def rms(self) -> float:
        """Root mean square of all errors, pixels; infinite without observations."""
        return float(np.sqrt((self.errors**2).mean())) if len(self.errors) else np.inf

    def covariance(self) -> Float64[np.ndarray, "unknown unknown"]:
        """Of all cameras, see `adjustment.covariance`."""
        return covariance(
            self.cameras, self.points, self.seen, self.prior, self.spread, reach=_FINAL_REACH
        )


_FINAL_REACH = 1.0
"""Of the last round's loss, pixels."""


def solve(
    prior: Cameras,
    spread: Spread,
    evidence: Evidence,
    noise_degrees: float,
    is_hopeful: Callable[[float], bool] = lambda _: True,
    start: Cameras | None = None,
) -> Solution:
    """Adjust cameras to the photos, from rough to fine.

    Args:
        prior: What is believed of the cameras.
        spread: How firmly. k1 is held in the first round, and where the lens is long.
        evidence: Of the same views.
        noise_degrees: By how much the prior contradicts the matches.
        is_hopeful: Asked with `rough_rms` whether the last round, the longest, is worth its time;
            if not, the solution is that of the second.
        start: Where the first round starts, if not from the prior.
    """
    held = replace(spread, k1=np.zeros_like(spread.k1))
    free = replace(spread, k1=np.where(_is_wide(prior, evidence.image_sizes), spread.k1, 0.0))
    first = float(np.clip(8 * noise_degrees, 3, 20))
    degree = float(np.median(prior.focal)) * np.pi / 180
    rough = _Round(first, max(4.0, first / 4 * degree), 4.0, 1e-3, completes=False)
    better = _Round(max(first / 4, 2.0), 6.0, 2.0, 1e-4, completes=True)
    fine = _Round(2.0, 4.0, _FINAL_REACH, 1e-6, completes=True)
    cameras = _solved(rough, start or prior, prior, held, evidence).cameras
    second = _solved(better, cameras, prior, free, evidence)
    if not is_hopeful(second.rms):
        return replace(second, rough_rms=second.rms)
    last = _solved(fine, second.cameras, prior, free, evidence)
    return replace(last, rough_rms=second.rms)


@dataclass(frozen=True)
class _Round:
    angle_degrees: float
    """By which rays may miss the points that they make."""
    limit: float
    """Pixels by which an observation may be off in the end."""
    reach: float
    """Of the loss, pixels."""
    tolerance: float
    """Of the adjustment."""
    completes: bool
    """Whether tracks are extended and merged."""


def _solved(
    how: _Round, start: Cameras, prior: Cameras, spread: Spread, evidence: Evidence
) -> Solution:
    """One round: points are made anew, adjusted with the cameras, and the bad ones dropped."""
    model = triangulate(
        world_from_camera(start),
        pinholes(start),
        evidence.image_sizes,
        straightened(start, evidence.keypoints),
        evidence.matches,
        TriangulationSettings(how.angle_degrees, how.completes, completing_error=how.limit),
    )
    order = np.argsort(model.track_point, kind="stable")
    view, keypoint = model.track_view[order], model.track_keypoint[order]
    seen = Observations(view, model.track_point[order], pixels_of(evidence, view, keypoint))
    found = adjust(
        start, model.points, seen, prior, spread, reach=how.reach, tolerance=how.tolerance
    )
    errors = np.linalg.norm(reprojection_errors(found.cameras, found.points, seen), axis=1)
    whole = Solution(
        found.cameras, found.points, seen, keypoint, errors, prior, spread,
        judging=evidence.judging,
    )  # fmt: skip
    return filtered(whole, how.limit)


def filtered(solution: Solution, limit: float) -> Solution:
    """Without observations that are more than `limit` pixels off, and points that nothing holds."""
    keep = solution.errors <= limit
    seen = solution.seen
    count = np.bincount(seen.point[keep], minlength=len(solution.points))
    angles = widest_angles(solution.cameras, solution.points, seen, keep)
    good = (count >= 2) & (angles >= LEAST_ANGLE)
    keep &= good[seen.point]
    new_row = np.cumsum(good) - 1
    return replace(
        solution,
        points=solution.points[good],
        seen=Observations(seen.view[keep], new_row[seen.point[keep]], seen.pixel[keep]),
        keypoint=solution.keypoint[keep],
        errors=solution.errors[keep],
    )


def widest_angles(
    cameras: Cameras,
    points: Float64[np.ndarray, "point 3"],
    seen: Observations,
    counted: Bool[np.ndarray, " observation"],
) -> Float64[np.ndarray, " point"]:
    """Of two rays of each point, degrees; 0 for points with fewer than two counted observations.

    From any ray to the one that is farthest from it, and from there again: the widest of all where
    the centres lie on a line or a plane, never more, and half of it at least.
    """
    rays = points[seen.point] - cameras.centers[seen.view]
    rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-300)
    rows = np.flatnonzero(counted)
    start = np.full(len(points), -1)
    start[seen.point[rows][::-1]] = rows[::-1]
    widest = np.zeros(len(points))
    for _ in range(2):
        angles = _angles(rays[rows], rays[start[seen.point[rows]]])
        order = np.lexsort((angles, seen.point[rows]))
        last = np.flatnonzero(np.diff(seen.point[rows][order], append=-1))
        ends = order[last]
        start[seen.point[rows][ends]] = rows[ends]
        widest[seen.point[rows][ends]] = angles[ends]
    return widest


def _angles(
    one: Float64[np.ndarray, "ray 3"], other: Float64[np.ndarray, "ray 3"]
) -> Float64[np.ndarray, " ray"]:
    sine = np.linalg.norm(np.cross(one, other), axis=1)
    return np.degrees(np.arctan2(sine, (one * other).sum(1)))


def pixels_of(
    evidence: Evidence, view: Int64[np.ndarray, " row"], keypoint: Int64[np.ndarray, " row"]
) -> Float64[np.ndarray, "row 2"]:
    """Where keypoints of views lie."""
    offsets = np.cumsum([0, *map(len, evidence.keypoints)])[:-1]
    return np.concatenate(list(evidence.keypoints))[offsets[view] + keypoint]


def world_from_camera(cameras: Cameras) -> Float64[np.ndarray, "view 4 4"]:
    """Poses, OpenCV axes."""
    poses = np.tile(np.eye(4), (len(cameras.centers), 1, 1))
    poses[:, :3, :3] = cameras.camera_from_world.transpose(0, 2, 1)
    poses[:, :3, 3] = cameras.centers
    return poses


def _is_wide(cameras: Cameras, sizes: Sequence[tuple[int, int]]) -> Bool[np.ndarray, " lens"]:
    """Whether photos of a lens reach far enough from its axis to tell k1."""
    half = np.zeros(len(cameras.focal))
    np.maximum.at(half, cameras.group, [np.hypot(*size) / 2 for size in sizes])
    return half >= WIDE_LENS * cameras.focal.mean(1)
