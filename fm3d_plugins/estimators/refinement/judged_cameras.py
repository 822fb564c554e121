"""From cameras and matches to better cameras, with a verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, UInt8

from fm3d_plugins.backends.pycolmap.triangulation import Matches
from fm3d_plugins.estimators.refinement.adjustment import Spread
from fm3d_plugins.estimators.refinement.belief import spread_at
from fm3d_plugins.estimators.refinement.epipolar import (
    Pair,
    noise_degrees,
    sampson_errors,
    straightened,
)
from fm3d_plugins.estimators.refinement.gate import LARGEST_Z, LEAST_OBSERVATIONS, Report, judge
from fm3d_plugins.estimators.refinement.guided import with_guided_matches
from fm3d_plugins.estimators.refinement.rounds import Evidence, Solution, solve
from fm3d_plugins.geometry.neighbours import connected_parts
from fm3d_plugins.geometry.poses import rotation_angle_degrees
from fm3d_plugins.kernels.bundle_adjustment import Cameras
from fm3d_plugins.kernels.bundle_adjustment.layout import LENS, POSE

HELD_OUT_SHARE = 0.15
"""Of the connected parts of the matches, that take no part and judge."""

LARGEST_FOCAL_CHANGE = 0.20
"""Of the logarithm: a focal length that goes further has run away."""

LOOSE = 100.0
"""Times the standard deviations of the prior: nothing but the photos counts."""

SUSPICIOUS_RMS = 0.5 / 640
"""Of shared cameras, in units of the longer side: beyond, photos may have zooms of their own."""

MUCH_BETTER = 0.6
"""Error with cameras of their own over that with shared ones, at which zooms are believed."""

HOPEFUL = 0.8
"""The same after two of three rounds, at which it is worth to go on."""

SMALL_SHARE = 0.5
"""Of the views of the largest group: smaller ones without a match to it are strays."""

MOST_REMOVALS, LARGEST_ODD_SHARE = 3, 1 / 3
"""How often, and of which share of the views at most, matches are left out because they contradict
what was believed of these views alone."""

Mode = Literal["map", "free"]


FEW = 10
"""Photos up to which each match counts."""

GUIDED_ROUNDS = 2
"""Most searches for more matches by cameras that are nearly known."""


@dataclass(frozen=True)
class Searchable:
    """In which more matches may be found."""

    descriptors: Sequence[UInt8[np.ndarray, "_feature 128"]]
    """Of each photo's keypoints."""
    pairs: Sequence[Pair]
    """Of photos that probably show the same."""


@dataclass(frozen=True)
class Judged:
    """A solution and what is said of it."""

    solution: Solution
    report: Report
    z: Float64[np.ndarray, " view"]
    """By how many of its prior's standard deviations about one axis each view turned."""


def refine_cameras(
    names: tuple[str, ...],
    prior: Cameras,
    evidence: Evidence,
    mode: Mode = "map",
    more: Searchable | None = None,
    drift: float = 1.0,
) -> Judged:
    """Cameras that explain matches, and what is to be thought of them.

    Small groups of views that nothing ties to the others, and single views that would have to turn
    far from their priors, are left as they are, without matches.

    Args:
        names: Of the views' photos, for the report.
        prior: What is believed of the cameras.
        evidence: Of the same views, all of it.
        mode: As of `refine.refine`.
        more: Where photos are few, matches are sought in this as well, now that cameras are nearly
            known, and kept if the gate accepts what comes of them.
        drift: As of `belief.spread_at`.
    """
    evidence = _without_strays(evidence)
    found = _refined(names, prior, evidence, mode, more, drift)
    for _ in range(MOST_REMOVALS):
        # A view that was believed to be elsewhere bends all others.
        odd = (found.z > LARGEST_Z) & (found.solution.observations > 0)
        if found.report.is_accepted or not 0 < odd.sum() <= LARGEST_ODD_SHARE * len(odd):
            break
        evidence = _without_strays(_without(evidence, odd))
        found = _refined(names, prior, evidence, mode, more, drift)
    return found


def _without_strays(evidence: Evidence) -> Evidence:
    """The evidence without small groups of views that no match ties to the largest one.

    Photos of another place match each other; nothing says that they belong to this scene.
    """
    pairs = np.array([*evidence.matches], dtype=np.int64).reshape(-1, 2)
    part = connected_parts(pairs, len(evidence.keypoints))
    size = np.bincount(part)
    return _without(evidence, (size <= SMALL_SHARE * size.max())[part])


def _without(evidence: Evidence, rows: Bool[np.ndarray, " view"]) -> Evidence:
    """The evidence without any match of some views."""
    kept = {pair: m for pair, m in evidence.matches.items() if not rows[list(pair)].any()}
    return replace(evidence, matches=kept)


def _refined(
    names: tuple[str, ...],
    prior: Cameras,
    evidence: Evidence,
    mode: Mode,
    more: Searchable | None,
    drift: float,
) -> Judged:
    judging = {pair: rows[evidence.may_judge(pair)] for pair, rows in evidence.matches.items()}
    told = {pair: rows for pair, rows in judging.items() if len(rows)}
    noise = noise_degrees(prior, evidence.keypoints, told)
    taking_part, held_out = held_out_parts(evidence)
    spread = spread_at(prior, noise if np.isfinite(noise) else 0.0, drift)
    judge_of = _Judge(names, prior, spread, noise, held_out, evidence)
    part = replace(evidence, matches=taking_part)
    found = judge_of(_guarded(prior, spread, part, noise, mode))
    if more is None or len(names) > FEW:
        return found
    for _ in range(GUIDED_ROUNDS):
        if not found.report.is_accepted:
            break
        wider = with_guided_matches(part, more.descriptors, more.pairs, found.solution, held_out)
        again = judge_of(_guarded(prior, spread, wider, noise, mode))
        is_better = again.report.is_accepted and again.report.verified >= found.report.verified
        if not is_better:
            break
        found = again
    return found


@dataclass(frozen=True)
class _Judge:
    """Judges solutions of one prior."""

    names: tuple[str, ...]
    prior: Cameras
    spread: Spread
    noise: float
    held_out: Matches
    evidence: Evidence

    def __call__(self, solution: Solution) -> Judged:
        prior, cameras = self.prior, solution.cameras
        straight = straightened(cameras, self.evidence.keypoints)
        good = solution.verifying >= LEAST_OBSERVATIONS
        # Of views that are not verified nothing is claimed.
        judges = {pair: rows for pair, rows in self.held_out.items() if good[list(pair)].all()}
        errors = sampson_errors(cameras, straight, judges)
        # Lenses may have been parted, but views were not.
        before, after = (each.focal[each.group, 0] for each in (prior, cameras))
        turns = rotation_angle_degrees(
            torch.from_numpy(prior.camera_from_world), torch.from_numpy(cameras.camera_from_world)
        ).numpy()
        numbers = {
            "noise_degrees": self.noise,
            "rms": solution.rms,
            "focal_change": float(np.expm1(np.abs(np.log(after / before)).max())),
        }
        report = judge(
            self.names,
            solution.verifying,
            turns,
            float(np.degrees(self.spread.turn[0])),
            numbers,
            np.concatenate([np.zeros(0), *errors.values()]),
        )
        return Judged(solution, report, turns / np.degrees(self.spread.turn[0]))


def held_out_parts(evidence: Evidence) -> tuple[Matches, Matches]:
    """Matches that take part, and those that do not: whole connected parts, else tracks would leak.

    The same ones at every call. Those that may not judge all take part.
    """
    if not evidence.matches:
        return {}, {}
    offsets = np.cumsum([0, *map(len, evidence.keypoints)])
    ends = np.concatenate([rows + offsets[list(pair)] for pair, rows in evidence.matches.items()])
    part = connected_parts(ends, int(offsets[-1]))
    numbers = np.unique(part[ends[:, 0]])
    count = int(HELD_OUT_SHARE * len(numbers))
    chosen = np.random.default_rng(0).choice(numbers, count, replace=False)
    is_out = np.zeros(part.max() + 1, bool)
    is_out[chosen] = True
    kept, left = {}, {}
    for pair, rows in evidence.matches.items():
        out = is_out[part[rows[:, 0] + offsets[pair[0]]]] & evidence.may_judge(pair)
        for target, some in ((kept, rows[~out]), (left, rows[out])):
            if len(some):
                target[pair] = some
    return kept, left


def _guarded(
    prior: Cameras, spread: Spread, evidence: Evidence, noise: float, mode: Mode
) -> Solution:
    """A solution whose focal lengths are told by the photos, and shared only where they agree."""
    if mode == "free" and _is_strong(evidence):
        lenses = np.ones(len(prior.focal))
        spread = Spread(LOOSE * spread.turn, LOOSE * spread.center, lenses, lenses)
    solution = _with_determined_focals(prior, spread, evidence, noise)
    longest = max(max(size) for size in evidence.image_sizes)
    views = len(prior.group)
    is_shared = len(prior.focal) < views
    if not is_shared or not solution.rms > SUSPICIOUS_RMS * longest:
        return solution
    own = _with_determined_focals(
        _apart(prior), _spread_apart(prior, spread), evidence, noise,
        lambda rms: rms < HOPEFUL * solution.rough_rms,
    )  # fmt: skip
    return own if own.rms < MUCH_BETTER * solution.rms else solution


def _apart(cameras: Cameras) -> Cameras:
    """Every view with a lens of its own."""
    rows = cameras.group
    return replace(
        cameras,
        group=np.arange(len(rows)),
        focal=cameras.focal[rows],
        principal_point=cameras.principal_point[rows],
        distortion=cameras.distortion[rows],
    )


def _spread_apart(cameras: Cameras, spread: Spread) -> Spread:
    rows = cameras.group
    return replace(spread, log_focal=spread.log_focal[rows], k1=spread.k1[rows])


def _with_determined_focals(
    prior: Cameras,
    spread: Spread,
    evidence: Evidence,
    noise: float,
    is_hopeful: Callable[[float], bool] = lambda _: True,
) -> Solution:
    """Solve; and again, with focal lengths held as they were that the photos do not tell.

    Args:
        is_hopeful: As of `solve`; a solution that is not is left at that.
    """
    solution = solve(prior, spread, evidence, noise, is_hopeful)
    if not len(solution.points) or not is_hopeful(solution.rough_rms):
        return solution
    held = _undetermined(solution, prior, spread)
    if not held.any():
        return solution
    return solve(
        prior, replace(spread, log_focal=np.where(held, 0.0, spread.log_focal)), evidence, noise
    )


def _undetermined(solution: Solution, prior: Cameras, spread: Spread) -> Bool[np.ndarray, " lens"]:
    """Lenses whose focal length ran away, or is hardly surer than before, or has no third view."""
    covariance = solution.covariance()
    lenses = POSE * len(prior.group) + LENS * np.arange(len(prior.focal))
    deviation = np.sqrt(covariance[lenses, lenses])
    change = np.abs(np.log(solution.cameras.focal[:, 0] / prior.focal[:, 0]))
    tracks = np.bincount(solution.seen.point)
    only_pairs = not (tracks >= 3).any()
    return only_pairs | (deviation > spread.log_focal / 2) | (change > LARGEST_FOCAL_CHANGE)


def _is_strong(evidence: Evidence) -> bool:
    """Whether photos are so many and so well connected that no prior is needed."""
    views = len(evidence.keypoints)
    degree = np.bincount(np.array([*evidence.matches], dtype=np.int64).ravel(), minlength=views)
    return views > FEW and float(np.median(degree)) >= 4 and bool(degree.min() > 0)
