"""Whether cameras agree with all matches, or a thing looks alike from several sides.

Matches between parts that look alike are verified like right ones: two sides of a box with the
same print are one side to them. What tells is that all cannot be true at once. Photos taken one
after the other, all around a thing, show the same side; so those that are near each other in the
order of their names are believed first, where the matches of all contradict each other.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float32

from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.backends.pycolmap.verification import VerifiedMatches
from fm3d_plugins.estimators.refinement.epipolar import sampson_errors, straightened
from fm3d_plugins.estimators.sfm.attempts import GOOD_SHARE
from fm3d_plugins.geometry.poses import so3_log
from fm3d_plugins.kernels.bundle_adjustment import Cameras

FITS = 4.0
"""Pixels by which a match may be off its epipolar lines: as much as when it was verified."""

LEAST_FEATURES = 15
"""Of a photo that any match can have."""

MANY = 30
"""Matches of a pair that seldom agree by chance; 15 are the least."""

STRONG = 0.15
"""Of the matches of the strongest pair of either photo, that a pair has whose matches count. Sides
that look alike match as strongly as one side does; of 50 photos of the fox, whose cameras are
right, 7 % of all matches contradict these, in weak pairs, and 2 % of those that count."""

MOST_CONTRADICTED = 0.05
"""Of the matches between photos with cameras, in a model that is believed."""

ONE_PLACE = 0.02
"""Distance of cameras that seem one, in units of the median between any two."""

TOO_MANY_IN_ONE_PLACE = 0.25
"""Of all photos."""

NEAR_PART = 8
"""Photos less than this part of all around from each other are near: a thing with four equal sides
looks the same a quarter around, and from an eighth on more so to the wrong side."""

LEAST_PHOTOS = 8
"""Of a ring: an eighth of a turn apart hardly anything matches."""

BRIDGED = 0.8
"""Of the steps from a photo to the next, that some pair of near photos must match across."""

Item = TypeVar("Item")
Pair = tuple[int, int]
Matches = Mapping[Pair, VerifiedMatches]
Keypoints = Sequence[Float32[np.ndarray, "_feature _"]]


def reach_in_order(count: int) -> int:
    """How many places on photos are near, of so many that were taken all around."""
    return max(1, (count - 1) // NEAR_PART)


def near_in_order(matches: Mapping[Pair, Item], count: int) -> dict[Pair, Item]:
    """Those of photos that are near each other in their order, the last being next to the first.

    Args:
        matches: Or anything else of pairs, by rows of photos in the order of their names.
        count: Of all photos.
    """
    reach = reach_in_order(count)
    steps = {pair: (pair[1] - pair[0]) % count for pair in matches}
    return {pair: matches[pair] for pair, step in steps.items() if min(step, count - step) <= reach}


def is_closed(near: Collection[Pair], count: int) -> bool:
    """Whether so many photos may be all around: matches lead from most to the next, and from the
    last to the first. Of an arc, nothing says how large its steps are.

    Args:
        near: Pairs of photos that are near each other in order and match.
    """
    bridged = set()
    for first, second in near:
        step = second - first
        begin, length = (first, step) if step <= count / 2 else (second, count - step)
        bridged |= {(begin + place) % count for place in range(length)}
    return count >= LEAST_PHOTOS and count - 1 in bridged and len(bridged) >= BRIDGED * count


def fitting_shares(model: SparseModel, keypoints: Keypoints, matches: Matches) -> dict[Pair, float]:
    """The share of each pair's matches that fit the cameras; of pairs with two cameras.

    Args:
        keypoints: Of each photo; x and y first, in pixels of the model.
    """
    view_of = {row: view for view, row in enumerate(model.image_index.tolist())}
    rows = {
        (view_of[one], view_of[two]): each.rows
        for (one, two), each in matches.items()
        if one in view_of and two in view_of
    }
    if not rows:
        return {}
    cameras = _cameras(model)
    pixels = [keypoints[row][:, :2].astype(np.float64) for row in model.image_index]
    errors = sampson_errors(cameras, straightened(cameras, pixels), rows)
    index = model.image_index.tolist()
    return {
        (index[one], index[two]): float((each <= FITS).mean())
        for (one, two), each in errors.items()
    }


@dataclass(frozen=True)
class Doubt:
    """Why cameras may be wrong or too few."""

    reasons: tuple[str, ...]
    is_of_cameras: bool
    """Whether something speaks against those that were found, not only against their number."""

    def __str__(self) -> str:
        return ", and ".join(self.reasons)


def doubt(
    model: SparseModel | None,
    keypoints: Keypoints,
    matches: Matches,
    most_contradicted: float,
) -> Doubt | None:
    """What speaks against a model's cameras or their number; None where nothing does.

    Args:
        most_contradicted: Share of the matches; such as `MOST_CONTRADICTED`.
    """
    count = len(keypoints)
    # A photo that shows nothing is no reason to look again.
    usable = sum(len(each) >= LEAST_FEATURES for each in keypoints)
    joined = len(model) if model is not None else 0
    number, cameras = [], []
    if joined < GOOD_SHARE * usable:
        number.append(f"{joined} of {usable} photos have a camera")
    if model is not None:
        share = contradicted(model, keypoints, matches)
        if share > most_contradicted:
            cameras.append(f"{100 * share:.0f} % of the matches contradict the cameras")
        twice = num_in_one_place(model, count)
        if twice >= TOO_MANY_IN_ONE_PLACE * count:
            where = "from where another was that is far in their order"
            cameras.append(f"{twice} photos seem taken {where}")
    if not (number or cameras):
        return None
    return Doubt((*number, *cameras), is_of_cameras=bool(cameras))


def contradicted(model: SparseModel, keypoints: Keypoints, matches: Matches) -> float:
    """Share of the matches between photos with cameras that do not fit these.

    Pairs with hardly more matches than the least do not count, as these can agree by chance, nor
    do pairs of photos that have far more with others.
    """
    most: dict[int, int] = {}
    for pair, each in matches.items():
        for photo in pair:
            most[photo] = max(most.get(photo, 0), len(each.rows))
    shares = {
        (one, two): share
        for (one, two), share in fitting_shares(model, keypoints, matches).items()
        if len(matches[one, two].rows) >= max(MANY, STRONG * min(most[one], most[two]))
    }
    counts = np.array([len(matches[pair].rows) for pair in shares], dtype=np.float64)
    fits = np.array(list(shares.values()))
    return float(1 - (counts * fits).sum() / counts.sum()) if len(counts) else 0.0


def num_in_one_place(model: SparseModel, count: int) -> int:
    """Photos with the place of another that is not near them in their order.

    Args:
        count: Of all photos.
    """
    centers = model.world_from_camera[:, :3, 3]
    away = np.linalg.norm(centers[:, None] - centers, axis=-1)
    step = (model.image_index[:, None] - model.image_index) % count
    is_far_in_order = np.minimum(step, count - step) > reach_in_order(count)
    between = away[~np.eye(len(away), dtype=bool)]
    is_there = away < ONE_PLACE * np.median(between)
    return int((is_there & is_far_in_order).any(axis=1).sum())


def goes_around(model: SparseModel) -> bool:
    """Whether cameras, in order and back to the first, turn once around rather than not at all.

    The turns about any axis add up to a multiple of 360 degrees. Where neighbours that are a step
    of a pattern apart were taken for the same, cameras go back and forth, and it is none.
    """
    rotations = torch.from_numpy(model.world_from_camera[:, :3, :3])
    turns = so3_log(rotations.roll(-1, dims=0) @ rotations.mT)
    axis = torch.linalg.svd(turns).Vh[0]
    return abs(float((turns @ axis).sum())) > math.pi


def fitting(
    model: SparseModel, keypoints: Keypoints, matches: Matches
) -> dict[Pair, VerifiedMatches]:
    """Pairs of which most matches fit the cameras."""
    shares = fitting_shares(model, keypoints, matches)
    return {pair: matches[pair] for pair, share in shares.items() if share > 0.5}  # noqa: PLR2004


def _cameras(model: SparseModel) -> Cameras:
    """The model's, one lens for each view."""
    intrinsics, poses = model.intrinsics, model.world_from_camera
    return Cameras(
        camera_from_world=poses[:, :3, :3].transpose(0, 2, 1),
        centers=poses[:, :3, 3],
        group=np.arange(len(model)),
        focal=intrinsics[:, (0, 1), (0, 1)],
        principal_point=intrinsics[:, (0, 1), (2, 2)],
        distortion=model.distortion,
    )
