"""Verified matches between photos."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from fm3d_plugins.backends.kornia import LearnedFeatures, learned_matcher
from fm3d_plugins.backends.pycolmap.running import Report
from fm3d_plugins.backends.pycolmap.verification import (
    CameraGuess,
    VerifiedMatches,
    verified_matches,
)
from fm3d_plugins.estimators.matching.found_once import found_before
from fm3d_plugins.estimators.matching.still_features import stays
from fm3d_plugins.estimators.matching.working_photos import WorkingPhoto
from fm3d_plugins.kernels.descriptor_matching import guided_matches, mutual_matches

DEFAULT_FOCAL = 1.2
"""Focal length in units of the longer image side where EXIF tells none (COLMAP's guess)."""

RATIO = 0.8
"""Most of the angle between a descriptor and the second nearest that the nearest may have."""

WIDEST_ANGLE = 0.7
"""Between descriptors that match, radians."""

BAND, BAND_RATIO = 3.0, 0.9
"""Pixels about an epipolar line in which more matches are looked for, and most of the angle of the
second nearest there."""

SURE, PLENTY = 30, 200
"""Matches of a pair whose lines are no chance, and of one that needs no more."""

MANY_FEATURES = 1000
"""Of a photo, from which on enough of them lie near a line for the ratio to tell right from wrong:
of things with 300 half of what was found so was wrong, and cameras got worse."""

PAIRS_AT_ONCE = 32
"""Between two reports."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Demands:
    """What is asked of the SIFT matches of a pair."""

    ratio: float = RATIO
    """Most of the angle between a descriptor and the second nearest that the nearest may have."""
    least: int = 15
    """Matches that must agree on a two-view geometry."""
    least_share: float = 0.0
    """Of those that look alike, that must agree on it."""
    is_guided: bool = False
    """Whether more are looked for near epipolar lines, where few are found of many features."""


USUAL = Demands()

THOROUGH = Demands(is_guided=True)

NEAR = Demands(ratio=0.85, least=20, least_share=0.5, is_guided=True)
"""Of photos that should see the same. Of photos that do not, 15 to 25 of 30 to 60 matches agree by
chance, mostly fewer than half; of photos a step of a ring apart two thirds and more."""


def camera_guess(one: WorkingPhoto, lens: str) -> CameraGuess:
    """What is known beforehand of a camera, by one of the photos that it took.

    Args:
        lens: One of COLMAP's models.
    """
    prior = one.photo.focal_prior
    focal = prior * one.scale if prior else DEFAULT_FOCAL * max(one.width, one.height)
    return CameraGuess(one.width, one.height, one.center, focal, prior is not None, lens)


def match_photos(
    working: Sequence[WorkingPhoto],
    pairs: Sequence[Pair],
    *,
    seed: int,
    num_threads: int,
    report: Report | None = None,
    demands: Mapping[Pair, Demands] | None = None,
) -> dict[Pair, VerifiedMatches]:
    """Verified matches of those of some pairs of photos that have any, in order.

    SIFT features match that are each other's nearest, clearly nearer than the second nearest
    (ratio 0.8, Lowe 2004), a network's as LightGlue says. Either way they agree with 14 others on
    a two-view geometry. The same for any number of threads: every pair has its own generator of
    random numbers.

    Args:
        pairs: Rows of the photos, the smaller first.
        report: Gets the number of pairs done.
        demands: Of pairs of which others are made first, and the usual ones where they do not meet
            these.
    """
    known = found_before()
    asked = demands or {}
    keys = {
        pair: _key(working[pair[0]], working[pair[1]], seed, asked.get(pair, USUAL))
        for pair in pairs
    }
    new = [pair for pair in pairs if keys[pair] not in known]
    done = len(pairs) - len(new)
    if report is not None and done:
        report(done)
    # Networks have threads of their own.
    is_sift = all(one.kind == "sift" for one in working)
    with ThreadPoolExecutor(num_threads if is_sift else 1) as pool:
        for start in range(0, len(new), PAIRS_AT_ONCE):
            part = [keys[pair] for pair in new[start : start + PAIRS_AT_ONCE]]
            known.update(zip(part, pool.map(lambda key: _matched(*key), part), strict=True))
            if report is not None:
                report(done + start + len(part))
    found = {}
    for pair, key in keys.items():
        matches = known[key]
        if matches is not None:
            found[pair] = matches if key[0] is working[pair[0]] else matches.turned_round()
    return dict(sorted(found.items()))


def rows_of(matches: Mapping[Pair, VerifiedMatches]) -> dict[Pair, np.ndarray]:
    """Of the keypoints, for each pair."""
    return {pair: each.rows for pair, each in matches.items()}


def _key(
    one: WorkingPhoto, other: WorkingPhoto, seed: int, demands: Demands
) -> tuple[WorkingPhoto, WorkingPhoto, int, Demands]:
    """What the matches of two photos depend on, whichever comes first."""
    first, second = sorted((one, other), key=lambda each: each.photo.name)
    return first, second, seed, demands


def _matched(
    first: WorkingPhoto, second: WorkingPhoto, seed: int, demands: Demands
) -> VerifiedMatches | None:
    rows = _without_still(_candidates(first, second, demands.ratio), first, second)
    found = _verified(first, second, rows, seed)
    if found is None or len(found.rows) < max(demands.least, demands.least_share * len(rows)):
        usual = replace(USUAL, is_guided=demands.is_guided)
        return None if demands == usual else _matched(first, second, seed, usual)
    features = min(len(first.features), len(second.features))
    if demands.is_guided and SURE <= len(found.rows) < PLENTY and features >= MANY_FEATURES:
        return _with_more(first, second, found, seed)
    return found


def _verified(
    first: WorkingPhoto, second: WorkingPhoto, rows: Int64[np.ndarray, "_match 2"], seed: int
) -> VerifiedMatches | None:
    one, other = ((camera_guess(each, "SIMPLE_PINHOLE"), _pixels(each)) for each in (first, second))
    return verified_matches(one, other, rows, seed=seed)


def _with_more(
    first: WorkingPhoto, second: WorkingPhoto, found: VerifiedMatches, seed: int
) -> VerifiedMatches:
    """What looks alike near epipolar lines, where that is more than was found without them."""
    if found.fundamental is None or first.kind != "sift":
        return found
    one, other = ((_pixels(each), each.features.descriptors) for each in (first, second))
    rows = guided_matches(one, other, found.fundamental, band=BAND, ratio=BAND_RATIO)
    more = _verified(first, second, _without_still(rows, first, second), seed)
    return found if more is None or len(more.rows) <= len(found.rows) else more


def _pixels(one: WorkingPhoto) -> Float64[np.ndarray, "_feature 2"]:
    return one.features.keypoints[:, :2].astype(np.float64)


def _candidates(
    first: WorkingPhoto, second: WorkingPhoto, ratio: float
) -> Int64[np.ndarray, "_match 2"]:
    """Rows of features that look alike, to be verified."""
    if first.kind == "sift":
        return mutual_matches(
            first.features.descriptors,
            second.features.descriptors,
            ratio=ratio,
            widest_angle=WIDEST_ANGLE,
        )
    seen, other = (
        LearnedFeatures(each.features.keypoints[:, :2], each.features.descriptors)
        for each in (first, second)
    )
    return learned_matcher(first.kind).matches(
        seen, (first.width, first.height), other, (second.width, second.height)
    )


def _without_still(
    rows: Int64[np.ndarray, "_match 2"], first: WorkingPhoto, second: WorkingPhoto
) -> Int64[np.ndarray, "_match 2"]:
    """Matches without those that stay in place, where something stands still in all photos.

    What few photos show of it is not known by its features, and says that no camera moved.
    """
    if first.still_shift is None or second.still_shift is None:
        return rows
    one, two = (
        each.features.keypoints[rows[:, column], :2] - np.array(each.still_shift)
        for column, each in enumerate((first, second))
    )
    return rows[~stays(one, two)]
