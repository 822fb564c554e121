"""What an estimate itself takes for the same, where photos' features say nothing.

A network that sees two photos together tells which of their pixels show one point, on blank walls,
too. Its cameras come from the same: such matches may place a view, and never judge one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from fm3d_plugins.backends.pycolmap.features import Features
from fm3d_plugins.backends.pycolmap.triangulation import Matches
from fm3d_plugins.backends.pycolmap.verification import verified_matches
from fm3d_plugins.estimators.matching.photo_matches import camera_guess
from fm3d_plugins.estimators.matching.working_photos import WorkingPhoto
from fm3d_plugins.estimators.refinement.epipolar import Pair
from fm3d_plugins.scene import Tracks


@dataclass(frozen=True)
class OwnMatches:
    """Photos whose keypoints end with those of an estimate's tracks, and matches of these."""

    working: Sequence[WorkingPhoto]
    """Descriptors of what was added are zero: nothing looks like them."""
    matches: Matches


def own_matches(
    tracks: Tracks, working: Sequence[WorkingPhoto], pairs: Collection[Pair]
) -> OwnMatches:
    """Matches that tracks make between some photos, verified as those of features are.

    Args:
        tracks: Of the first photos, in their pixels.
        working: Photos with features of SIFT.
        pairs: Of the first photos, that features do not connect.
    """
    involved = sorted({view for pair in pairs for view in pair})
    seen = {view: _seen(tracks, view, working[view].scale) for view in involved}
    matches, longer = {}, list(working)
    for first, second in sorted(pairs):
        ends = [seen[view] for view in (first, second)]
        _, *rows = np.intersect1d(ends[0][0], ends[1][0], return_indices=True)
        one, other = (
            (camera_guess(working[view], "SIMPLE_PINHOLE"), seen[view][1])
            for view in (first, second)
        )
        found = verified_matches(one, other, np.stack(rows, axis=1), seed=0)
        if found is not None:
            after = [len(working[view].features) for view in (first, second)]
            matches[first, second] = found.rows + np.array(after)
    for view in {view for pair in matches for view in pair}:
        longer[view] = _longer(working[view], seen[view][1])
    return OwnMatches(longer, matches)


def _seen(
    tracks: Tracks, view: int, scale: float
) -> tuple[Int64[np.ndarray, " point"], Float64[np.ndarray, "point 2"]]:
    """Points that a view sees, each once, and where, in working pixels."""
    mine = (tracks.view_index == view).numpy()
    points, rows = np.unique(tracks.point_index.numpy()[mine], return_index=True)
    return points.astype(np.int64), tracks.pixels.double().numpy()[mine][rows] * scale


def _longer(one: WorkingPhoto, pixels: Float64[np.ndarray, "point 2"]) -> WorkingPhoto:
    keypoints = np.tile(np.array([0, 0, 1, 0, 0, 1], np.float32), (len(pixels), 1))
    keypoints[:, :2] = pixels
    known = one.features
    nothing = np.zeros((len(pixels), known.descriptors.shape[1]), known.descriptors.dtype)
    grey = np.full((len(pixels), 3), 128, np.uint8)
    return replace(
        one,
        features=Features(
            np.concatenate([known.keypoints, keypoints]),
            np.concatenate([known.descriptors, nothing]),
        ),
        colors=np.concatenate([one.colors, grey]),
    )
