"""Try to join photos with falling demands, and never keep a model that cannot be right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from fm3d_plugins.backends.pycolmap.mapping import (
    MapperSettings,
    drop_views,
    map_globally,
    map_incrementally,
)
from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.backends.pycolmap.running import Report
from fm3d_plugins.geometry.poses import nearest_rotation, rotation_angle_degrees
from fm3d_plugins.io.colmap_files import DISTORTION

GOOD_SHARE = 0.9
"""Of the photos that have any matches: with as many in the model, no further attempt is made."""

MAX_MEAN_ERROR = 2.0
"""Mean reprojection error in working pixels above which a model is discarded."""

FOCAL_RANGE = (0.3, 4.0)
"""Believable focal lengths, in units of the longer image side: 118 to 14 degrees of view."""

MAX_DISTORTION = 1.0
"""Believable size of the radial distortion's first number."""

MAX_ASPECT = 1.5
"""Believable ratio of the focal lengths on the two axes: photos may have been squeezed."""

MAX_TANGENTIAL = 0.03
"""Believable size of the tangential distortion's numbers."""

MAX_CORNER_SHIFT = 0.5
"""How far k2 may move an image's corner, in units of its distance from the centre."""

MIN_POINTS = 20
"""Points below which a model is discarded."""

MIN_IN_FRONT = 0.999
"""Share of observations whose point must lie in front of the camera."""

MAX_DISAGREEMENT_DEGREES = 5.0
"""Median rotation by which a model may differ from one that was made with stricter demands."""


@dataclass(frozen=True)
class Attempt:
    """One way to run the incremental mapper."""

    label: str
    settings: MapperSettings
    continues: bool = False
    """Whether it adds to the best model so far instead of starting anew."""
    needs_known_focal: bool = False
    """Whether it only makes sense if EXIF told every focal length."""


_PATIENT = MapperSettings(pose_inliers=15, pose_inlier_ratio=0.1)
_WEAK_START = replace(
    _PATIENT, start_inliers=30, start_angle_degrees=4.0, keeps_two_view_points=True
)
_HELD_FOCAL = replace(_WEAK_START, refines_focal=False)
_SMALL_ANGLES = replace(_HELD_FOCAL, start_angle_degrees=2.0, point_angle_degrees=0.5)

LADDER = (
    Attempt("as COLMAP", MapperSettings()),
    Attempt("with 15 inliers per photo", _PATIENT, continues=True),
    Attempt("from a weaker start", _WEAK_START),
    Attempt("with EXIF's focal length held", _HELD_FOCAL, needs_known_focal=True),
    Attempt("with small angles", _SMALL_ANGLES, continues=True, needs_known_focal=True),
)
"""From COLMAP's demands downwards; measured on the scenes of `tests/benchmarks/bench_sfm.py`."""

LADDER_OF_TWO = (
    Attempt("two photos, focal length held", _HELD_FOCAL),
    Attempt("with small angles", _SMALL_ANGLES),
)
"""For two photos: they cannot tell a longer lens from a larger distance."""


@dataclass
class Search:
    """The best model so far, and what was tried."""

    database: Path
    folder: Path
    image_sizes: Sequence[tuple[int, int]]
    """Width and height of each image, pixels."""
    num_reachable: int
    """Images with verified matches: no other can get a camera."""
    seed: int
    is_bendable: bool = True
    """Whether some lens may be found to have distortion while photos join."""
    best: SparseModel | None = None
    holds_focal: bool = False
    """Whether the best model's lenses were held where they were."""
    num_models: int = 0
    """Models found, believable or not."""
    tried: list[str] = field(default_factory=list)
    """One phrase for each attempt, with the number of photos it joined."""
    faults: list[str] = field(default_factory=list)
    """What was wrong with discarded models."""

    @property
    def num_joined(self) -> int:
        """Photos with a camera."""
        return len(self.best) if self.best is not None else 0

    @property
    def is_done(self) -> bool:
        """Whether a further attempt could gain little."""
        return self.best is not None and len(self.best) >= GOOD_SHARE * self.num_reachable

    def climb(self, *, with_retries: bool, knows_focal: bool, report: Report) -> None:
        """Run the ladder's attempts until one joins nearly all photos."""
        for attempt in self._ladder(with_retries):
            cannot_start = attempt.continues and self.best is None
            if cannot_start or (attempt.needs_known_focal and not knows_focal):
                continue
            start = self.best if attempt.continues else None
            self._consider(
                attempt.label,
                lambda folder, attempt=attempt, start=start: map_incrementally(
                    self.database,
                    folder,
                    attempt.settings,
                    seed=self.seed,
                    start_from=start,
                    report=report,
                ),
                holds_focal=not attempt.settings.refines_focal,
            )
            if self.is_done:
                return

    def _ladder(self, with_retries: bool) -> Sequence[Attempt]:
        attempts = LADDER if len(self.image_sizes) > 2 else LADDER_OF_TWO
        return attempts if with_retries else attempts[:1]

    def solve_globally(self, *, knows_focal: bool) -> None:
        """Run the global mapper once."""
        self._consider(
            "all at once",
            lambda folder: map_globally(
                self.database, folder, seed=self.seed, calibrates=not knows_focal
            ),
            holds_focal=False,
        )

    def _consider(
        self, label: str, run: Callable[[Path], list[SparseModel]], *, holds_focal: bool
    ) -> None:
        """Keep the largest believable model of a run if it holds more photos than the best."""
        folder = self.folder / f"attempt-{len(self.tried)}"
        models = run(folder)
        self.num_models += len(models)
        believable = []
        for number, found in enumerate(models):
            model = self._without_odd_cameras(found, folder / f"trimmed-{number}")
            fault = implausibility(model, self.image_sizes)
            if fault is None and self.best is not None and disagrees(model, self.best):
                fault = f"{len(model)} photos whose cameras contradict an earlier model"
            if fault is None:
                believable.append(model)
            else:
                self.faults.append(fault)
        largest = max(believable, key=size_of, default=None)
        self.tried.append(f"{label}: {len(largest) if largest is not None else 0}")
        if largest is not None and (self.best is None or len(largest) > len(self.best)):
            self.best, self.holds_focal = largest, holds_focal

    def _without_odd_cameras(self, model: SparseModel, folder: Path) -> SparseModel:
        """The model without views whose lens nobody would build, if others remain."""
        odd = odd_cameras(model, self.image_sizes)
        if not odd.any() or len(model) - odd.sum() < 2:
            return model
        return drop_views(model, np.flatnonzero(odd).tolist(), folder)


def size_of(model: SparseModel) -> tuple[int, int]:
    """Photos, then points: how models are ranked."""
    return len(model), len(model.points)


def implausibility(model: SparseModel, image_sizes: Sequence[tuple[int, int]]) -> str | None:
    """What shows that a model cannot be right, or None."""
    what = f"a model of {len(model)} photos"
    arrays = (model.world_from_camera, model.intrinsics, model.distortion, model.points)
    if not all(np.isfinite(array).all() for array in arrays):
        return f"{what} with numbers that are not finite"
    if len(model.points) < MIN_POINTS:
        return f"{what} with {len(model.points)} points"
    odd = odd_cameras(model, image_sizes)
    if odd.any():
        view = int(np.flatnonzero(odd)[0])
        return f"{what} with an odd camera ({told_lens(model, view)})"
    if not model.mean_error <= MAX_MEAN_ERROR:
        return f"{what} with a reprojection error of {model.mean_error:.1f} pixels"
    if share_in_front(model) < MIN_IN_FRONT:
        return f"{what} with points behind its cameras"
    return None


def odd_cameras(
    model: SparseModel, image_sizes: Sequence[tuple[int, int]]
) -> Bool[np.ndarray, " view"]:
    """Views whose focal lengths or lens distortion are not believable."""
    sizes = np.array([image_sizes[row] for row in model.image_index], dtype=np.float64)
    focal = model.intrinsics[:, (0, 1), (0, 1)]
    share = focal / sizes.max(axis=1, keepdims=True)
    low, high = FOCAL_RANGE
    believable = ((share >= low) & (share <= high)).all(axis=1)
    believable &= focal.max(axis=1) <= MAX_ASPECT * focal.min(axis=1)
    radial, tangential = model.distortion[:, :2], model.distortion[:, 4:]
    corner = ((sizes / 2 / focal) ** 2).sum(axis=1)
    believable &= np.abs(radial[:, 0]) <= MAX_DISTORTION
    believable &= np.abs(radial[:, 1]) * corner**2 <= MAX_CORNER_SHIFT
    return ~(believable & (np.abs(tangential) <= MAX_TANGENTIAL).all(axis=1))


def told_lens(model: SparseModel, view: int) -> str:
    """A view's focal lengths and those numbers of its distortion that are not zero."""
    fx, fy = model.intrinsics[view, (0, 1), (0, 1)]
    focal = f"{fx:.3g}" if fx == fy else f"{fx:.3g} and {fy:.3g}"
    named = zip(DISTORTION, model.distortion[view], strict=True)
    bent = [f", {name} {value:.2g}" for name, value in named if value]
    return f"focal length {focal} pixels{''.join(bent)}"


def share_in_front(model: SparseModel) -> float:
    """Share of observations whose point lies in front of the camera that observes it."""
    poses = model.world_from_camera[model.track_view]
    offset = model.points[model.track_point] - poses[:, :3, 3]
    return float(((offset * poses[:, :3, 2]).sum(1) > 0).mean())


def disagrees(model: SparseModel, trusted: SparseModel) -> bool:
    """Whether the rotations that two models have in common differ by more than a global turn."""
    _, row, trusted_row = np.intersect1d(
        model.image_index, trusted.image_index, return_indices=True
    )
    if len(row) < 3:
        return False
    rotations = torch.from_numpy(model.world_from_camera[row, :3, :3])
    expected = torch.from_numpy(trusted.world_from_camera[trusted_row, :3, :3])
    turn = nearest_rotation((rotations @ expected.mT).mean(0))
    angles = rotation_angle_degrees(turn @ expected, rotations)
    return float(angles.median()) > MAX_DISAGREEMENT_DEGREES
