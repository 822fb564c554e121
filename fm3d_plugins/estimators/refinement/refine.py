"""Cameras of any origin, refined by matches between the photos, and judged.

A feed-forward network's cameras are a degree off. Matches between the full photos make them exact
where there are enough, and show whether they may be believed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from fm3d_plugins.backends.pycolmap.database import read_matches
from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.backends.pycolmap.triangulation import Matches
from fm3d_plugins.disk_space import temporary_folder
from fm3d_plugins.estimators.matching.photo_matches import match_photos
from fm3d_plugins.estimators.matching.sparse_points import sparse_points
from fm3d_plugins.estimators.matching.working_photos import WorkingPhoto, all_cores, find_features
from fm3d_plugins.estimators.refinement.adjustment import Spread
from fm3d_plugins.estimators.refinement.belief import cameras_of, spread_at
from fm3d_plugins.estimators.refinement.confidence import camera_confidence
from fm3d_plugins.estimators.refinement.covisibility import covisible_pairs
from fm3d_plugins.estimators.refinement.epipolar import (
    noise_degrees,
    pinholes,
    sampson_errors,
    straightened,
)
from fm3d_plugins.estimators.refinement.gate import LEAST_OBSERVATIONS, Report, judge
from fm3d_plugins.estimators.refinement.rounds import (
    Evidence,
    Solution,
    solve,
    world_from_camera,
)
from fm3d_plugins.estimators.stages import Stages
from fm3d_plugins.geometry.cameras import equal_cameras, resize_intrinsics
from fm3d_plugins.geometry.poses import invert, rotation_angle_degrees, transform_points
from fm3d_plugins.kernels.bundle_adjustment import Cameras
from fm3d_plugins.kernels.bundle_adjustment.layout import LENS, POSE
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.scene import SceneGeometry, ViewDepth

VERSION = 1
"""Of what refinement computes: kept results of another one are made anew."""

REPORT = "refinement"
"""Key of a scene's provenance that holds the report."""

DEPTH_FACTORS = "depth_factors"
"""Key of the report that holds what each view's depth was multiplied by."""

MAX_IMAGE_SIZE, MAX_FEATURES = 1600, 8192

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

Mode = Literal["map", "free"]


@dataclass(frozen=True)
class Judged:
    """A solution and what is said of it."""

    solution: Solution
    report: Report


def refine(
    scene: SceneGeometry, photos: PhotoSet, mode: Mode = "map", *, num_threads: int | None = None
) -> SceneGeometry:
    """The scene with cameras that explain matches between its photos, or as it was.

    The report is `provenance["refinement"]`. Accepted cameras come with the points that they were
    found by, and their tracks; depth maps are scaled to them view by view. A view with hardly any
    matches keeps its camera, and is named. The same for any number of threads.

    Args:
        scene: Cameras, at best with depth or points, of any estimator.
        photos: All photos of the scene, and maybe more.
        mode: map: what was believed of the cameras counts; free: it does not where photos are many.
        num_threads: For features and matches; all cores if not given.
    """
    of_name = {photo.name: photo for photo in photos}
    stages, threads = Stages(), num_threads or all_cores()
    with stages.stage("Finding features", total=len(scene)) as report:
        working = find_features(
            [of_name[name] for name in scene.names],
            max_features=MAX_FEATURES, max_image_size=MAX_IMAGE_SIZE, num_threads=threads,
            report=report,
        )  # fmt: skip
    matches = _matches(scene, working, threads, stages)
    evidence = Evidence(
        [(one.width, one.height) for one in working],
        [one.features.keypoints[:, :2].astype(np.float64) for one in working],
        matches,
    )
    prior = cameras_of(scene, [one.scale for one in working])
    with stages.stage("Adjusting cameras", total=1) as report:
        judged = refine_cameras(scene.names, prior, evidence, mode)
        report(1)
    told = judged.report.values() | {
        "mode": mode, "pairs": len(matches), "matches": sum(map(len, matches.values())),
        "seconds": stages.seconds, "version": VERSION,
    }  # fmt: skip
    provenance = {**scene.provenance, REPORT: told}
    if not judged.report.is_accepted:
        return replace(scene, provenance=provenance)
    found = _assembled(scene, working, judged)
    told[DEPTH_FACTORS] = _depth_factors(scene, found, judged.solution.observations)
    return with_depth(replace(found, provenance=provenance), scene.depth)


def refine_cameras(
    names: tuple[str, ...], prior: Cameras, evidence: Evidence, mode: Mode = "map"
) -> Judged:
    """The same for cameras and matches, without photos.

    Args:
        names: Of the views' photos, for the report.
        prior: What is believed of the cameras.
        evidence: Of the same views, all of it.
        mode: As of `refine`.
    """
    noise = noise_degrees(prior, evidence.keypoints, evidence.matches)
    taking_part, held_out = held_out_parts(evidence)
    spread = spread_at(prior, noise if np.isfinite(noise) else 0.0)
    solution = _guarded(prior, spread, replace(evidence, matches=taking_part), noise, mode)
    cameras = solution.cameras
    errors = sampson_errors(cameras, straightened(cameras, evidence.keypoints), held_out)
    change = np.abs(np.log(cameras.focal[:, 0] / prior.focal[:, 0])).max()
    turns = rotation_angle_degrees(
        torch.from_numpy(prior.camera_from_world), torch.from_numpy(cameras.camera_from_world)
    ).numpy()
    report = judge(
        names,
        solution.observations,
        turns,
        float(np.degrees(spread.turn[0])),
        {"noise_degrees": noise, "rms": solution.rms, "focal_change": float(np.expm1(change))},
        np.concatenate([np.zeros(0), *errors.values()]),
    )
    return Judged(solution, report)


def held_out_parts(evidence: Evidence) -> tuple[Matches, Matches]:
    """Matches that take part, and those that do not: whole connected parts, else tracks would leak.

    The same ones at every call.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not evidence.matches:
        return {}, {}
    offsets = np.cumsum([0, *map(len, evidence.keypoints)])
    ends = np.concatenate([rows + offsets[list(pair)] for pair, rows in evidence.matches.items()])
    graph = coo_matrix((np.ones(len(ends)), ends.T), shape=(offsets[-1],) * 2)
    part = connected_components(graph, directed=False)[1]
    numbers = np.unique(part[ends[:, 0]])
    count = int(HELD_OUT_SHARE * len(numbers))
    chosen = np.random.default_rng(0).choice(numbers, count, replace=False)
    is_out = np.zeros(part.max() + 1, bool)
    is_out[chosen] = True
    kept, left = {}, {}
    for pair, rows in evidence.matches.items():
        out = is_out[part[rows[:, 0] + offsets[pair[0]]]]
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
    own = _with_determined_focals(_apart(prior), _spread_apart(prior, spread), evidence, noise)
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
    prior: Cameras, spread: Spread, evidence: Evidence, noise: float
) -> Solution:
    """Solve; and again, with focal lengths held as they were that the photos do not tell."""
    solution = solve(prior, spread, evidence, noise)
    if not len(solution.points):
        return solution
    held = _undetermined(solution, prior, spread)
    if not held.any():
        return solution
    return solve(
        prior, replace(spread, log_focal=np.where(held, 0.0, spread.log_focal)), evidence, noise
    )


def _undetermined(solution: Solution, prior: Cameras, spread: Spread) -> np.ndarray:
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
    return views > 10 and float(np.median(degree)) >= 4 and degree.min() > 0


def _matches(
    scene: SceneGeometry, working: Sequence[WorkingPhoto], threads: int, stages: Stages
) -> Matches:
    pairs = covisible_pairs(scene)
    with temporary_folder("refinement") as folder:
        database = folder / "matches.db"
        with stages.stage("Matching photos", total=len(pairs)) as report:
            if not pairs:
                return {}
            match_photos(working, pairs, database, seed=0, num_threads=threads, report=report)
        return read_matches(database)


def _assembled(
    scene: SceneGeometry, working: Sequence[WorkingPhoto], judged: Judged
) -> SceneGeometry:
    """The scene with refined cameras and their points, in pixels of the photos."""
    solution = judged.solution
    cameras = solution.cameras
    verified = solution.observations >= LEAST_OBSERVATIONS
    scale = torch.tensor([[1 / one.scale] * 2 for one in working], dtype=torch.float64)
    intrinsics = resize_intrinsics(torch.from_numpy(pinholes(cameras)), scale)
    distortion = torch.from_numpy(cameras.distortion[cameras.group])
    poses = torch.from_numpy(world_from_camera(cameras))
    kept = torch.from_numpy(~verified)
    poses[kept] = scene.world_from_camera.double()[kept]
    model = _model(solution)
    sparse = sparse_points(model, working)
    return replace(
        scene,
        world_from_camera=poses,
        intrinsics=intrinsics,
        distortion=distortion,
        camera_index=equal_cameras(torch.from_numpy(cameras.group)),
        points=torch.from_numpy(solution.points),
        point_colors=sparse.colors,
        point_confidence=sparse.confidence,
        tracks=sparse.tracks,
        camera_confidence=torch.from_numpy(camera_confidence(solution)),
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


def _depth_factors(
    scene: SceneGeometry, refined: SceneGeometry, observations: np.ndarray
) -> list[float] | None:
    """What each view's depth map is to be multiplied by: the median ratio to the refined points.

    Views with too few points get the median of the others.
    """
    depth, tracks = scene.depth, refined.tracks
    if depth is None or tracks is None:
        return None
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
            factors[view] = (here / told)[told > 0].median()
    usual = factors.nanmedian().nan_to_num(nan=1.0)
    return torch.where(factors.isnan(), usual, factors).tolist()


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
    state = report["state"]
    if state == "partly verified":
        state = f"partly verified {report['verified']}/{report['views']}"
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
    return f"Refinement: {state} ({report['reason']}). {numbers}."
