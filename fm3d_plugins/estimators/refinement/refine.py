"""Cameras of any origin, refined by matches between the photos, and judged.

A feed-forward network's cameras are a degree off. Matches between the full photos make them exact
where there are enough, and show whether they may be believed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64

from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.backends.pycolmap.triangulation import Matches
from fm3d_plugins.estimators.matching.feature_kinds import FeatureKind
from fm3d_plugins.estimators.matching.photo_matches import camera_guess, match_photos, rows_of
from fm3d_plugins.estimators.matching.sparse_points import sparse_points
from fm3d_plugins.estimators.matching.working_photos import WorkingPhoto, all_cores, find_features
from fm3d_plugins.estimators.refinement.belief import DRIFT, cameras_of
from fm3d_plugins.estimators.refinement.confidence import camera_confidence
from fm3d_plugins.estimators.refinement.covisibility import covisible_pairs
from fm3d_plugins.estimators.refinement.epipolar import (
    Pair,
    pinholes,
)
from fm3d_plugins.estimators.refinement.gate import LEAST_OBSERVATIONS
from fm3d_plugins.estimators.refinement.judged_cameras import (
    Judged,
    Mode,
    Searchable,
    refine_cameras,
)
from fm3d_plugins.estimators.refinement.own_matches import own_matches
from fm3d_plugins.estimators.refinement.registration import (
    Wanted,
    joined_lens,
    lost_pairs,
    placed,
    some_views,
)
from fm3d_plugins.estimators.refinement.rounds import (
    Evidence,
    Solution,
    world_from_camera,
)
from fm3d_plugins.estimators.stages import Stages
from fm3d_plugins.geometry.cameras import equal_cameras, resize_confidence, resize_intrinsics
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.kernels.bundle_adjustment import Cameras
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.scene import SceneGeometry
from fm3d_plugins.view_depth import ViewDepth

VERSION = 2
"""Of what refinement computes: kept results of another one are made anew."""

REPORT = "refinement"
"""Key of a scene's provenance that holds the report."""

DEPTH_FACTORS = "depth_factors"
"""Key of the report that holds what each view's depth was multiplied by."""

DEPTH_ERROR = "depth_error"
"""Key of the report that holds the median relative error of the depth maps so multiplied."""

MAX_IMAGE_SIZE, MAX_FEATURES = 1600, 8192


def refine(
    scene: SceneGeometry,
    photos: PhotoSet,
    mode: Mode = "map",
    *,
    num_threads: int | None = None,
    features: FeatureKind = "sift",
    uses_tracks: bool = False,
) -> SceneGeometry:
    """The scene with cameras that explain matches between its photos, or as it was.

    The report is `provenance["refinement"]`. Accepted cameras come with the points that they were
    found by, and their tracks; depth maps are scaled to them view by view. Photos without a camera,
    and views that no match verifies, are placed by the points that others see, where that is
    possible; otherwise a view keeps its camera, and is named. The same for any number of threads.

    Args:
        scene: Cameras, at best with depth or points, of any estimator.
        photos: All photos of the scene, and maybe more.
        mode: map: what was believed of the cameras counts; free: it does not where photos are many.
        num_threads: For features and matches; all cores if not given.
        features: By which photos are matched. Near lines (`Searchable`) only SIFT is sought.
        uses_tracks: Let the scene's own tracks connect photos that features do not (`own_matches`).

    Raises:
        ImportError, FileNotFoundError, ValueError: As `LearnedMatcher`.
    """
    of_name = {photo.name: photo for photo in photos}
    # Depth is of all views or of none: no further one can be added.
    lost = [name for name in scene.unregistered if name in of_name and scene.depth is None]
    stages, threads = Stages(), num_threads or all_cores()
    chosen = [of_name[name] for name in (*scene.names, *lost)]
    with stages.stage("Finding features", total=len(chosen)) as report:
        working = find_features(
            chosen,
            max_features=MAX_FEATURES,
            max_image_size=MAX_IMAGE_SIZE,
            num_threads=threads,
            report=report,
            kind=features,
        )
    drift = scene.provenance.get(DRIFT, 1.0)
    work = _Work(working, len(scene), mode, threads, stages, drift)
    pairs = covisible_pairs(scene)
    matches = work.matches(pairs)
    if uses_tracks and scene.tracks is not None:
        own = own_matches(scene.tracks, working, set(pairs) - set(matches))
        work = replace(work, longer=own.working)
        matches = dict(sorted({**matches, **own.matches}.items()))
    prior = cameras_of(scene, [one.scale for one in working[: len(scene)]])
    judged = work.judged(range(len(scene)), prior, matches, pairs)
    rows: Sequence[int] = range(len(scene))
    if judged.report.is_accepted:
        rows, judged = _with_placed(work, prior, judged, matches, pairs)
    told = judged.report.values() | {
        "mode": mode, "features": features, "uses_tracks": uses_tracks,
        "pairs": len(matches), "matches": sum(map(len, matches.values())),
        "placed": [working[row].photo.name for row in rows if row >= len(scene)],
        "seconds": stages.seconds, "version": VERSION,
    }  # fmt: skip
    provenance = {**scene.provenance, REPORT: told}
    if not judged.report.is_accepted:
        return replace(scene, provenance=provenance)
    found = _assembled(scene, [work.evident[row] for row in rows], judged)
    told |= _depth_evidence(scene, found, judged.solution.observations)
    return with_depth(replace(found, provenance=provenance), scene.depth)


@dataclass(frozen=True)
class _Work:
    """Photos with their features, those of the scene first, and how they are worked on."""

    working: Sequence[WorkingPhoto]
    views: int
    """How many are the scene's; the others have no camera yet."""
    mode: Mode
    threads: int
    stages: Stages
    drift: float
    """As of `belief.spread_at`."""
    longer: Sequence[WorkingPhoto] | None = None
    """Photos whose keypoints end with some that only help to find cameras."""

    @property
    def evident(self) -> Sequence[WorkingPhoto]:
        """With all keypoints."""
        return self.working if self.longer is None else self.longer

    def matches(self, pairs: Sequence[Pair]) -> dict[Pair, Int64[np.ndarray, "_match 2"]]:
        """Verified ones."""
        if not pairs:
            return {}
        with self.stages.stage("Matching photos", total=len(pairs)) as report:
            return rows_of(
                match_photos(self.working, pairs, seed=0, num_threads=self.threads, report=report)
            )

    def evidence(self, rows: Sequence[int], matches: Matches) -> Evidence:
        """Of some photos."""
        place = {row: number for number, row in enumerate(rows)}
        some = [self.evident[row] for row in rows]
        return Evidence(
            [(one.width, one.height) for one in some],
            [one.features.keypoints[:, :2].astype(np.float64) for one in some],
            {
                (place[first], place[second]): ends
                for (first, second), ends in matches.items()
                if first in place and second in place
            },
            None if self.longer is None else [len(self.working[row].features) for row in rows],
        )

    def judged(
        self, rows: Sequence[int], prior: Cameras, matches: Matches, pairs: Sequence[Pair]
    ) -> Judged:
        """Cameras of some photos, refined."""
        place = {row: number for number, row in enumerate(rows)}
        some = [self.evident[row] for row in rows]
        inside = [(place[a], place[b]) for a, b in pairs if a in place and b in place]
        with self.stages.stage("Adjusting cameras", total=1) as report:
            found = refine_cameras(
                tuple(one.photo.name for one in some),
                prior,
                self.evidence(rows, matches),
                self.mode,
                self._searchable(some, inside),
                self.drift,
            )
            report(1)
        return found

    def _searchable(self, some: Sequence[WorkingPhoto], pairs: Sequence[Pair]) -> Searchable | None:
        if any(one.kind != "sift" for one in some):
            return None
        return Searchable([one.features.descriptors for one in some], pairs)


def _with_placed(
    work: _Work, prior: Cameras, judged: Judged, matches: Matches, pairs: Sequence[Pair]
) -> tuple[Sequence[int], Judged]:
    """Rows of the photos that have a camera now, and all of it refined once more.

    Photos without a camera, and views that no match verified, are compared with all others and
    placed by the points that these see.
    """
    every = range(len(work.working))
    good = judged.solution.observations >= LEAST_OBSERVATIONS
    lost = [row for row in every if row >= work.views or not good[row]]
    if not lost:
        return range(work.views), judged
    others = [row for row in range(work.views) if good[row]]
    new = lost_pairs([one.features.descriptors for one in work.working], lost, others)
    added = sorted(set(new) - set(pairs))
    joined = {**matches, **work.matches(added)}
    lenses = [_lens_of(work, row) for row in every[work.views :]]
    wanted = [Wanted(row, row < work.views or lenses[row - work.views] is not None) for row in lost]
    seen = _extended(judged.solution.cameras, work, lenses)
    cameras, found = placed(seen, wanted, work.evidence(every, joined), judged.solution)
    if not found:
        return range(work.views), judged
    rows = [*range(work.views), *(row for row in found if row >= work.views)]
    believed = _extended(prior, work, lenses)
    for row in found:
        believed.camera_from_world[row] = cameras.camera_from_world[row]
        believed.centers[row] = cameras.centers[row]
        if row >= work.views and lenses[row - work.views] is None:
            believed.focal[believed.group[row]] = cameras.focal[cameras.group[row]]
    again = work.judged(rows, some_views(believed, rows), joined, [*pairs, *added])
    is_better = again.report.is_accepted and again.report.verified > judged.report.verified
    return (rows, again) if is_better else (range(work.views), judged)


def _lens_of(work: _Work, row: int) -> int | None:
    """A view of the scene whose photo agrees with one in size and EXIF, if there is one."""
    photo = work.working[row].photo
    for view in range(work.views):
        other = work.working[view].photo
        same_size = (photo.width, photo.height) == (other.width, other.height)
        if same_size and photo.camera_key == other.camera_key:
            return view
    return None


def _extended(cameras: Cameras, work: _Work, lenses: Sequence[int | None]) -> Cameras:
    """With the photos that have no camera yet, by the lenses of the views that are named."""
    for view, one in zip(lenses, work.working[work.views :], strict=True):
        guess = camera_guess(one, "SIMPLE_PINHOLE")
        lens = None if view is None else int(cameras.group[view])
        cameras = joined_lens(cameras, lens, guess.focal, np.array(one.center))
    return replace(
        cameras,
        camera_from_world=cameras.camera_from_world.copy(),
        centers=cameras.centers.copy(),
        focal=cameras.focal.copy(),
    )


def _assembled(
    scene: SceneGeometry, working: Sequence[WorkingPhoto], judged: Judged
) -> SceneGeometry:
    """The scene of these photos with refined cameras and their points, in pixels of the photos."""
    solution = judged.solution
    cameras = solution.cameras
    scale = torch.tensor([[1 / one.scale] * 2 for one in working], dtype=torch.float64)
    poses = torch.from_numpy(world_from_camera(cameras))
    unverified = torch.from_numpy(solution.observations < LEAST_OBSERVATIONS)
    poses[unverified] = torch.from_numpy(world_from_camera(solution.prior))[unverified]
    sparse = sparse_points(_model(solution), working)
    names = tuple(one.photo.name for one in working)
    return replace(
        scene,
        names=names,
        image_sizes=torch.tensor([(one.photo.width, one.photo.height) for one in working]),
        world_from_camera=poses,
        intrinsics=resize_intrinsics(torch.from_numpy(pinholes(cameras)), scale),
        distortion=torch.from_numpy(cameras.distortion[cameras.group]),
        camera_index=equal_cameras(torch.from_numpy(cameras.group)),
        points=torch.from_numpy(solution.points),
        point_colors=sparse.colors,
        point_confidence=sparse.confidence,
        tracks=sparse.tracks,
        camera_confidence=resize_confidence(
            torch.from_numpy(camera_confidence(solution)), scale[:, 0]
        ),
        unregistered=tuple(name for name in scene.unregistered if name not in names),
    )


def _model(solution: Solution) -> SparseModel:
    seen, count = solution.seen, len(solution.points)
    total = np.bincount(seen.point, solution.errors, minlength=count)
    cameras = solution.cameras
    return SparseModel(
        image_index=np.arange(len(cameras.group)),
        world_from_camera=world_from_camera(cameras),
        intrinsics=pinholes(cameras),
        distortion=cameras.distortion[cameras.group],
        points=solution.points,
        point_errors=total / np.maximum(np.bincount(seen.point, minlength=count), 1),
        track_point=seen.point,
        track_view=seen.view,
        track_keypoint=solution.keypoint,
    )


def _depth_evidence(
    scene: SceneGeometry, refined: SceneGeometry, observations: np.ndarray
) -> dict[str, list[float] | float | None]:
    """What each view's depth map is to be multiplied by, and how far off it then is.

    A view's factor is the median ratio of the refined points' depth to its own; views with too few
    points get the median of the others. The error is the median relative one, in the median view.
    """
    depth, tracks = scene.depth, refined.tracks
    if depth is None or tracks is None:
        return {DEPTH_FACTORS: None, DEPTH_ERROR: None}
    errors = []
    camera_from_world = invert(refined.world_from_camera)
    factors = torch.full((len(depth),), float("nan"), dtype=torch.float64)
    for view in np.flatnonzero(observations >= LEAST_OBSERVATIONS).tolist():
        rows = tracks.view_index == view
        points = refined.points[tracks.point_index[rows]]
        here = transform_points(camera_from_world[view], points)[:, 2]
        width, height = (int(side) for side in scene.image_sizes[view])
        shape = depth.frame_shape(view, (width, height))
        values, _ = depth.in_photo_frame(view, (width, height), shape)
        pixels = tracks.pixels[rows]
        row = (pixels[:, 1] * shape[0] / height).long().clamp(0, shape[0] - 1)
        column = (pixels[:, 0] * shape[1] / width).long().clamp(0, shape[1] - 1)
        told = values[row, column].double()
        if int((told > 0).sum()) >= LEAST_OBSERVATIONS:
            ratios = (here / told)[told > 0]
            factors[view] = ratios.median()
            errors.append(float((ratios / factors[view]).log().abs().median()))
    usual = factors.nanmedian().nan_to_num(nan=1.0)
    return {
        DEPTH_FACTORS: torch.where(factors.isnan(), usual, factors).tolist(),
        DEPTH_ERROR: float(np.median(errors)) if errors else None,
    }


def with_depth(scene: SceneGeometry, depth: ViewDepth | None) -> SceneGeometry:
    """A refined scene with the depth that it had before, scaled to its cameras; none of `sfm`'s."""
    report = scene.provenance[REPORT]
    if depth is None or report.get("used") == "sfm":
        return replace(scene, depth=None)
    factors = report.get(DEPTH_FACTORS)
    if factors is None:
        return replace(scene, depth=depth)
    scale = torch.tensor(factors, dtype=torch.float64).to(depth.depth)
    return replace(scene, depth=replace(depth, depth=depth.depth * scale[:, None, None]))


def is_rejected(scene: SceneGeometry) -> bool:
    """Whether refinement could not verify the cameras that a scene had."""
    return scene.provenance[REPORT]["state"] == "rejected"


def said(scene: SceneGeometry) -> str:
    """A line for the user about what `refine` did."""
    report = scene.provenance[REPORT]
    numbers = ", ".join(
        f"{name} {report[key]:{form}}"
        for name, key, form in (
            ("cameras were off by (degrees)", "noise_degrees", ".2f"),
            ("held-out matches that fit", "held_out_share", ".0%"),
            ("views turned by (deviations)", "mean_z", ".1f"),
            ("reprojection error (px)", "rms", ".2f"),
        )
        if report[key] is not None
    )
    return f"Refinement: {report['headline']} ({report['reason']}). {numbers}."
