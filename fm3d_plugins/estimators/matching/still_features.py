"""What stays in place in the picture while the camera, or a thing on a turntable, moves.

A thing on a turntable before a background, a watermark, a speck on the lens: what stands still
agrees perfectly between all photos, more of it than of the thing, and says that no camera moved.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

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

FARTHEST = 6.0
"""Pixels by which a picture that stands still may lie elsewhere in a photo: a tripod trembles."""

AGREE = 0.2
"""Of what looks the same up to that far away, on one shift: by chance it is a thirtieth."""

COMPARED = 8
"""Photos, spread over all, that each photo is compared with."""

STILL_IN = 0.5
"""Of these photos, in which a still feature is seen again at its place. Of photos around a thing
with equal sides fewer look the same."""

NEIGHBOURS, FEW_NEIGHBOURS = 16, 8
"""Features around one, which tell whether it is in a part of the picture that stands still: in many
photos, and in one."""

HALF_AS_OFTEN = 0.5
"""Features around one are seen again, of how often those around still ones are, where it is in such
a part."""

SAME_PICTURE = 2 / 3
"""Of a photo's features, that another has at the same places if it may be a copy or from the same
place: what stays there tells nothing. Copies share 0.8 and more, photos of turntables 0.3 to 0.95,
but these have parts that move."""

MOVES = 0.25
"""Of the features around one, how many are seen again at their places in parts that move."""

ENOUGH = 15
"""Still features of a photo (median) below which all are kept: as many could make a match. And of
its features in parts that move, from which these count."""


@dataclass(frozen=True)
class StillPicture:
    """What stands still in photos."""

    moves: list[Bool[np.ndarray, " _feature"]]
    """Which features of each photo do not."""
    shifts: Float64[np.ndarray, "photo 2"]
    """Its place in each photo, from that in the first, pixels."""


def still_picture(features: Sequence[Features], num_threads: int = 1) -> StillPicture | None:
    """What stands still in most photos; None where nothing does.

    Args:
        features: SIFT, in pixels of equal size of all photos.
        num_threads: Photos that are compared at once.
    """
    count = len(features)
    if count < LEAST_PHOTOS:
        return None
    with ThreadPoolExecutor(num_threads) as pool:
        shifts = np.stack(list(pool.map(lambda each: _shift(features[0], each), features)))
    places = [each.keypoints[:, :2] - shift for each, shift in zip(features, shifts, strict=True)]
    step = max(1, count // COMPARED)

    def compared(one: int) -> list[Bool[np.ndarray, "place feature"]]:
        return [
            _again(features[one], places[one], features[other], places[other])
            for other in range(one % step, count, step)
            if other != one
        ]

    with ThreadPoolExecutor(num_threads) as pool:
        all_again = list(pool.map(compared, range(count)))
    moves, still = [], []
    for one, again in enumerate(all_again):
        parts = _Parts(places[one])
        moved = [each for each in again if parts.any_moves(each[0])]
        seen = sum(moved, np.zeros((1 + len(DISPLACED), len(features[one])), int))
        often = seen >= max(2, STILL_IN * len(moved))
        still.append(int(often[0].sum() - often[1:].sum(axis=1).max()))
        moves.append(~parts.still(seen, often[0] & (seen[0] > seen[1:].max(axis=0))))
    return StillPicture(moves, shifts) if np.median(still) >= ENOUGH else None


def stays(
    one: Float64[np.ndarray, "match 2"], two: Float64[np.ndarray, "match 2"]
) -> Bool[np.ndarray, " match"]:
    """Whether matches are at one place of two photos, whose shifts are subtracted."""
    return np.linalg.norm(two - one, axis=1) <= IN_PLACE


class _Parts:
    """The features of a photo by what is around each."""

    def __init__(self, places: Float64[np.ndarray, "feature 2"]) -> None:
        from scipy.spatial import KDTree

        most = min(NEIGHBOURS, len(places))
        around = KDTree(places).query(places, k=most)[1] if most else []
        self.around = np.array(around, dtype=int).reshape(len(places), most)

    def any_moves(self, again: Bool[np.ndarray, " feature"]) -> bool:
        """Whether parts of the photo moved in another, where it shows what is seen again."""
        if not len(again) or again.mean() <= SAME_PICTURE:
            return True
        share = again[self.around[:, :FEW_NEIGHBOURS]].mean(axis=1)
        return int((share < MOVES).sum()) >= ENOUGH

    def still(
        self, seen: np.ndarray, surely: Bool[np.ndarray, " feature"]
    ) -> Bool[np.ndarray, " feature"]:
        """Features that stand still.

        Args:
            seen: In how many photos there is the like of each at its place, and beside it.
            surely: Those that do so by themselves.
        """
        if not surely.any():
            return surely
        more = seen[0] - seen[1:].mean(axis=0)
        around = more[self.around].mean(axis=1)
        # Beside what stands still, what was hidden or missed in most photos does so as well.
        is_there = around >= HALF_AS_OFTEN * np.median(around[surely])
        return surely | (is_there & (more > 0))


def _shift(first: Features, other: Features) -> Float64[np.ndarray, "2"]:
    """How far most of what looks the same, nearly at its place in two photos, lies elsewhere."""
    from scipy.spatial import KDTree

    if not len(first) or not len(other):
        return np.zeros(2)
    pairs = KDTree(first.keypoints[:, :2]).sparse_distance_matrix(
        KDTree(other.keypoints[:, :2]), FARTHEST, output_type="coo_matrix"
    )
    alike = _alike(first.descriptors[pairs.row], other.descriptors[pairs.col])
    one, two = pairs.row[alike], pairs.col[alike]
    moved = (other.keypoints[two, :2] - first.keypoints[one, :2]).astype(np.float64)
    if not len(moved):
        return np.zeros(2)
    near = KDTree(moved)
    numbers = near.query_ball_point(moved, IN_PLACE / 2, return_length=True)
    most = moved[int(np.argmax(numbers))]
    if numbers.max() < max(ENOUGH, AGREE * len(moved)):
        return np.zeros(2)
    return moved[near.query_ball_point(most, IN_PLACE / 2)].mean(axis=0)


def _again(
    own: Features,
    places: Float64[np.ndarray, "feature 2"],
    other: Features,
    other_places: Float64[np.ndarray, "other 2"],
) -> Bool[np.ndarray, "place feature"]:
    """Features that look the same in another photo at their place; and at places beside it."""
    from scipy.spatial import KDTree

    shifts = np.array([(0.0, 0.0), *DISPLACED])
    found = np.zeros((len(shifts), len(own)), bool)
    if not len(own) or not len(other):
        return found
    tree = KDTree(other_places)
    for row, shift in zip(found, shifts, strict=True):
        _, nearest = tree.query(places + shift, k=3, distance_upper_bound=IN_PLACE)
        # Several features may be at one place, of different directions and sizes.
        for column in np.asarray(nearest).T:
            there = np.flatnonzero(column < len(other))
            row[there] |= _alike(own.descriptors[there], other.descriptors[column[there]])
    return found


def _alike(one: np.ndarray, two: np.ndarray) -> Bool[np.ndarray, " _feature"]:
    one, two = one.astype(np.float64), two.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return (one * two).sum(1) >= np.cos(WIDEST_ANGLE) * np.maximum(lengths, 1e-9)
