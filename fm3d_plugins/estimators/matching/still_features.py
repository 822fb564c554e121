"""Features that stay in place in the picture while the camera, or a turntable, moves.

A thing on a turntable before a background, a watermark, a speck on the lens: what stands still
agrees perfectly between all photos, more of it than of the thing, and says that no camera moved.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from fm3d_plugins.backends.pycolmap.features import Features

IN_PLACE = 2.0
"""Pixels between features of two photos that are at one place."""

WIDEST_ANGLE = 0.5
"""Between descriptors of two features that look the same, radians."""

LEAST_PHOTOS = 4
"""Of fewer, none can be said to stand still."""

COMPARED = 8
"""Photos, spread over all, that each photo is compared with."""

STILL_IN = 0.5
"""Of these photos, in which a still feature is seen again at its place. Of photos around a thing
with equal sides fewer look the same."""

ENOUGH = 15
"""Still features of a photo (median) below which all are kept: as many could make a match."""


def moving_features(features: Sequence[Features]) -> list[Bool[np.ndarray, " _feature"]]:
    """Which features of each photo are to be used: all but those that stand still.

    Args:
        features: SIFT, in pixels of equal size of all photos.
    """
    count = len(features)
    keep = [np.ones(len(each), bool) for each in features]
    if count < LEAST_PHOTOS:
        return keep
    step = max(1, count // COMPARED)
    others = [
        [other for other in range(one % step, count, step) if other != one] for one in range(count)
    ]
    seen = [_seen(features, one, others[one]) for one in range(count)]
    still = [
        (each >= max(2, STILL_IN * len(compared))).sum()
        for each, compared in zip(seen, others, strict=True)
    ]
    if np.median(still) < ENOUGH:
        return keep
    # Where something stands still, what was hidden or missed in most photos does so as well.
    return [each == 0 for each in seen]


def _seen(
    features: Sequence[Features], one: int, others: Sequence[int]
) -> Int64[np.ndarray, " _feature"]:
    """In how many of some other photos a photo's features are seen at the same place."""
    seen = np.zeros(len(features[one]), np.int64)
    for other in others:
        seen += _again(features[one], features[other])
    return seen


def _again(own: Features, other: Features) -> Bool[np.ndarray, " _feature"]:
    """Features that look the same at the same place in another photo."""
    from scipy.spatial import KDTree

    found = np.zeros(len(own), bool)
    if not len(own) or not len(other):
        return found
    tree = KDTree(other.keypoints[:, :2])
    _, nearest = tree.query(own.keypoints[:, :2], k=3, distance_upper_bound=IN_PLACE)
    # Several features may be at one place, of different directions and sizes.
    for column in nearest.T:
        there = np.flatnonzero(column < len(other))
        found[there] |= _alike(own.descriptors[there], other.descriptors[column[there]])
    return found


def _alike(one: np.ndarray, two: np.ndarray) -> Bool[np.ndarray, " _feature"]:
    one, two = one.astype(np.float64), two.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return (one * two).sum(1) >= np.cos(WIDEST_ANGLE) * np.maximum(lengths, 1e-9)
