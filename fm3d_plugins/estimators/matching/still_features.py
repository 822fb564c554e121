"""Features that stay in place in the picture while the camera, or a turntable, moves.

A thing on a turntable before a background, a watermark, a speck on the lens: what stands still
agrees perfectly between all photos, more of it than of the thing, and says that no camera moved.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Int

from fm3d_plugins.backends.pycolmap.features import Features

IN_PLACE = 2.0
"""Pixels between features of two photos that are at one place."""

WIDEST_ANGLE = 0.5
"""Between descriptors of two features that look the same, radians."""

LEAST_PHOTOS = 4
"""Of fewer, none can be said to stand still."""

DISPLACED = ((23.0, 11.0), (-17.0, 29.0), (13.0, -31.0))
"""Pixels from a feature's place to others, where what looks the same does so by chance: faint
features of fine textures all look somewhat alike."""

COMPARED = 8
"""Photos, spread over all, that each photo is compared with."""

STILL_IN = 0.5
"""Of these photos, in which a still feature is seen again at its place. Of photos around a thing
with equal sides fewer look the same."""

SAME_PICTURE = 2 / 3
"""Of a photo's features, that another has at the same places if it is a copy or from the same
place: what stays there tells nothing. Copies share 0.8 and more, photos of turntables 0.5."""

ENOUGH = 15
"""Still features of a photo (median) below which all are kept: as many could make a match."""


def moving_features(
    features: Sequence[Features], num_threads: int = 1
) -> list[Bool[np.ndarray, " _feature"]]:
    """Which features of each photo are to be used: all but those that stand still.

    Args:
        features: SIFT, in pixels of equal size of all photos.
        num_threads: Photos that are compared at once.
    """
    count = len(features)
    keep = [np.ones(len(each), bool) for each in features]
    if count < LEAST_PHOTOS:
        return keep
    step = max(1, count // COMPARED)
    others = [
        [other for other in range(one % step, count, step) if other != one] for one in range(count)
    ]

    def compared(one: int) -> list[Bool[np.ndarray, "place feature"]]:
        return [_again(features[one], features[other]) for other in others[one]]

    with ThreadPoolExecutor(num_threads) as pool:
        all_again = list(pool.map(compared, range(count)))
    seen, still = [], []
    for one, again in enumerate(all_again):
        moved = [each for each in again if each[0].mean() <= SAME_PICTURE] if keep[one].size else []
        seen.append(_times(moved, len(keep[one])))
        often = (seen[-1] >= max(2, STILL_IN * len(moved))).sum(axis=1)
        still.append(int(often[0] - often[1:].max()))
    if np.median(still) < ENOUGH:
        return keep
    # Where something stands still, what was hidden or missed in most photos does so as well.
    return [each[0] <= each[1:].mean() for each in seen]


def _times(
    again: Sequence[Bool[np.ndarray, "place feature"]], count: int
) -> Int[np.ndarray, "place feature"]:
    """How many photos show the like of each of `count` features at its place, and beside it."""
    return sum(again, np.zeros((1 + len(DISPLACED), count), int))


def _again(own: Features, other: Features) -> Bool[np.ndarray, "place feature"]:
    """Features that look the same in another photo at their place; and at places beside it."""
    from scipy.spatial import KDTree

    shifts = np.array([(0.0, 0.0), *DISPLACED])
    found = np.zeros((len(shifts), len(own)), bool)
    if not len(own) or not len(other):
        return found
    tree = KDTree(other.keypoints[:, :2])
    for row, shift in zip(found, shifts, strict=True):
        places = own.keypoints[:, :2] + shift
        _, nearest = tree.query(places, k=3, distance_upper_bound=IN_PLACE)
        # Several features may be at one place, of different directions and sizes.
        for column in np.asarray(nearest).T:
            there = np.flatnonzero(column < len(other))
            row[there] |= _alike(own.descriptors[there], other.descriptors[column[there]])
    return found


def _alike(one: np.ndarray, two: np.ndarray) -> Bool[np.ndarray, " _feature"]:
    one, two = one.astype(np.float64), two.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return (one * two).sum(1) >= np.cos(WIDEST_ANGLE) * np.maximum(lengths, 1e-9)
