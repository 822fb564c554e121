"""Photos whose cameras are not known, or not believed, placed by what refined cameras see."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from fm3d_plugins.backends.pycolmap.absolute_pose import absolute_pose
from fm3d_plugins.backends.pycolmap.features import Descriptors
from fm3d_plugins.backends.pycolmap.triangulation import Matches
from fm3d_plugins.estimators.matching.image_pairs import similar_pairs
from fm3d_plugins.estimators.refinement.covisibility import ALL_UP_TO, NEIGHBOURS
from fm3d_plugins.estimators.refinement.epipolar import Pair, pinholes, straightened
from fm3d_plugins.estimators.refinement.rounds import Evidence, Solution
from fm3d_plugins.kernels.bundle_adjustment import Cameras

LEAST_INLIERS, LEAST_SHARE = 15, 0.25
"""Points on which a pose must agree, and of all that are matched."""

PIXELS = 8.0
"""By which a point may be off while a pose is sought."""


@dataclass(frozen=True)
class Wanted:
    """A photo whose camera is sought."""

    row: int
    """Among the views of the cameras."""
    knows_focal: bool


def placed(
    cameras: Cameras, wanted: Sequence[Wanted], evidence: Evidence, solution: Solution
) -> tuple[Cameras, list[int]]:
    """Cameras with those that could be placed where they were seen to be, and which rows these are.

    Args:
        cameras: Of all views, the first ones those of the solution; of a wanted one only the lens
            counts. A wanted one whose focal length is not known has a lens of its own.
        wanted: Views to be placed.
        evidence: Of all views, with matches between wanted ones and others.
        solution: Of the first views.
    """
    straight, matrices = straightened(cameras, evidence.keypoints), pinholes(cameras)
    point_of = _points_of_keypoints(solution, evidence)
    sought = {each.row for each in wanted}
    turns, centers, focal = (
        each.copy() for each in (cameras.camera_from_world, cameras.centers, cameras.focal)
    )
    found = []
    for one in wanted:
        keypoints, points = _seen(one.row, sought, evidence.matches, point_of)
        if len(points) < LEAST_INLIERS:
            continue
        pose = absolute_pose(
            straight[one.row][keypoints],
            solution.points[points],
            matrices[one.row],
            evidence.image_sizes[one.row],
            error=PIXELS,
            knows_focal=one.knows_focal,
        )
        if pose is None or pose.inliers.sum() < max(LEAST_INLIERS, LEAST_SHARE * len(points)):
            continue
        turns[one.row], centers[one.row] = pose.camera_from_world, pose.center
        if not one.knows_focal:
            focal[cameras.group[one.row]] = pose.focal
        found.append(one.row)
    return replace(cameras, camera_from_world=turns, centers=centers, focal=focal), found


def _points_of_keypoints(
    solution: Solution, evidence: Evidence
) -> list[Int64[np.ndarray, " _feature"]]:
    """Row of the point that each keypoint of each view is; -1 for none."""
    points = [np.full(len(each), -1, np.int64) for each in evidence.keypoints]
    for view in range(len(solution.cameras.group)):
        rows = solution.seen.view == view
        points[view][solution.keypoint[rows]] = solution.seen.point[rows]
    return points


def _seen(
    row: int, sought: set[int], matches: Matches, point_of: Sequence[Int64[np.ndarray, " _feature"]]
) -> tuple[Int64[np.ndarray, " match"], Int64[np.ndarray, " match"]]:
    """Keypoints of a view, and the points that other views say they are; each pair once."""
    pairs = [np.zeros((0, 2), np.int64)]
    for (first, second), ends in matches.items():
        if row not in (first, second):
            continue
        side = 0 if row == first else 1
        other = (first, second)[1 - side]
        if other in sought:
            continue
        points = point_of[other][ends[:, 1 - side]]
        pairs.append(np.stack([ends[:, side], points], axis=1)[points >= 0])
    keypoints, points = np.unique(np.concatenate(pairs), axis=0).T
    return keypoints, points


def joined_lens(
    cameras: Cameras,
    lens: int | None,
    focal: float,
    principal_point: Float64[np.ndarray, "2"],
) -> Cameras:
    """Cameras with one more view, anywhere.

    Args:
        lens: Row of the lens that took it; None for one of its own, without distortion.
        focal: Of that one, pixels.
        principal_point: Of that one, pixels.
    """
    known = len(cameras.focal)
    if lens is None:
        cameras = replace(
            cameras,
            focal=np.concatenate([cameras.focal, np.full((1, 2), focal)]),
            principal_point=np.concatenate([cameras.principal_point, principal_point[None]]),
            distortion=np.concatenate([cameras.distortion, np.zeros((1, 6))]),
        )
    return replace(
        cameras,
        camera_from_world=np.concatenate([cameras.camera_from_world, np.eye(3)[None]]),
        centers=np.concatenate([cameras.centers, cameras.centers.mean(0)[None]]),
        group=np.append(cameras.group, known if lens is None else lens),
    )


def some_views(cameras: Cameras, rows: Sequence[int]) -> Cameras:
    """Only these views, with the lenses that took them."""
    chosen = list(rows)
    used, group = np.unique(cameras.group[chosen], return_inverse=True)
    return Cameras(
        camera_from_world=cameras.camera_from_world[chosen],
        centers=cameras.centers[chosen],
        group=group.reshape(-1).astype(np.int64),
        focal=cameras.focal[used],
        principal_point=cameras.principal_point[used],
        distortion=cameras.distortion[used],
    )


def lost_pairs(
    descriptors: Sequence[Descriptors],
    lost: Sequence[int],
    others: Sequence[int],
) -> list[Pair]:
    """Pairs of photos to be placed with others; of very many of these, with the most alike."""
    every = [(min(a, b), max(a, b)) for a in lost for b in others]
    if len(others) <= ALL_UP_TO:
        return sorted(every)
    return sorted(set(every) & set(similar_pairs(descriptors, NEIGHBOURS, 0)))
