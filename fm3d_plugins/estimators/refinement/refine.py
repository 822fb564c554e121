"""Cameras of any origin, refined by matches between the photos, and judged.

A feed-forward network's cameras are a degree off. Matches between the full photos make them exact
where there are enough, and show whether they may be believed.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fm3d_plugins.backends.pycolmap.database import read_matches
from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.backends.pycolmap.triangulation import Matches
from fm3d_plugins.disk_space import temporary_folder
from fm3d_plugins.estimators.matching.photo_matches import match_photos
from fm3d_plugins.estimators.matching.sparse_points import sparse_points
from fm3d_plugins.estimators.matching.working_photos import WorkingPhoto, all_cores, find_features
from fm3d_plugins.estimators.refinement.belief import cameras_of
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
from fm3d_plugins.estimators.refinement.rounds import (
    Evidence,
    Solution,
    world_from_camera,
)
from fm3d_plugins.estimators.stages import Stages
from fm3d_plugins.geometry.cameras import equal_cameras, resize_intrinsics
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.scene import SceneGeometry, ViewDepth

VERSION = 1
"""Of what refinement computes: kept results of another one are made anew."""

REPORT = "refinement"
"""Key of a scene's provenance that holds the report."""

DEPTH_FACTORS = "depth_factors"
"""Key of the report that holds what each view's depth was multiplied by."""

MAX_IMAGE_SIZE, MAX_FEATURES = 1600, 8192


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
    pairs = covisible_pairs(scene)
    matches = _matches(pairs, working, threads, stages)
    evidence = Evidence(
        [(one.width, one.height) for one in working],
        [one.features.keypoints[:, :2].astype(np.float64) for one in working],
        matches,
    )
    prior = cameras_of(scene, [one.scale for one in working])
    with stages.stage("Adjusting cameras", total=1) as report:
        judged = refine_cameras(
            scene.names,
            prior,
            evidence,
            mode,
            Searchable([one.features.descriptors for one in working], pairs),
        )
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


def _matches(
    pairs: Sequence[Pair], working: Sequence[WorkingPhoto], threads: int, stages: Stages
) -> Matches:
    with (
        temporary_folder("refinement") as folder,
        stages.stage("Matching photos", total=len(pairs)) as report,
    ):
        if not pairs:
            return {}
        database = folder / "matches.db"
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
