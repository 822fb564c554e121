"""From verified matches to cameras and points: COLMAP's incremental and global mappers."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fm3d_plugins.backends.pycolmap.models import (
    SparseModel,
    change_lens,
    model_from_reconstruction,
)
from fm3d_plugins.backends.pycolmap.running import Report, library, run_watched
from fm3d_plugins.io.colmap_files import CAMERA_MODELS, read_model, write_model

MAPPING_TOLERANCE = 1e-5
"""While photos join, and where only their zoom is asked for, an adjustment stops when a step
lowers the cost by less than this share."""

REFINING_TOLERANCE = 1e-6
"""The same for the last adjustment."""

SURE_TRACKS = {5: 50, 4: 50, 3: 20}
"""Views of a point, and how many such points every photo must see, for others to move no camera.
Two views can see any point on their epipolar lines, and wrong ones bend rings. Of ray-cast
ones all points made focal lengths of -6.2 (a bottle) and -4.8 % (a tin with a pattern that
repeats), those of 3 views -0.2 and -2.3 %, of 5 views 0.3 and -0.3 %."""


@dataclass(frozen=True)
class MapperSettings:
    """What the incremental mapper demands; the defaults are COLMAP's."""

    start_inliers: int = 100
    """Matches between the two photos that start a model."""
    start_angle_degrees: float = 16.0
    """Median angle under which these two see their points."""
    pose_inliers: int = 30
    """Points on which the pose of a further photo must agree."""
    pose_inlier_ratio: float = 0.25
    """Share of a photo's points that must agree on its pose."""
    point_angle_degrees: float = 1.5
    """Smallest angle between the rays of a point."""
    keeps_two_view_points: bool = False
    """Whether points that only two photos see are made."""
    refines_focal: bool = True
    """Whether focal lengths and lens distortion are estimated, or held where they are."""


def map_incrementally(
    database: Path,
    folder: Path,
    settings: MapperSettings,
    *,
    seed: int,
    start_from: SparseModel | None = None,
    report: Report | None = None,
) -> list[SparseModel]:
    """All models that photo after photo can be joined to, in no particular order.

    One thread: with more, Ceres adds its sums in a varying order, so that poses differ from run
    to run, and on a few dozen photos it took more time, not less.

    Args:
        database: With verified matches.
        folder: Where COLMAP writes its models; made here.
        settings: What is demanded of each photo.
        seed: For the random choices of robust estimation.
        start_from: A model to be continued.
        report: Gets the number of photos in the present model.
    """
    pycolmap = library()
    own_output = folder / "colmap"
    own_output.mkdir(parents=True)
    options = _incremental_options(settings, seed)
    photos_done = [len(start_from) if start_from is not None else 0]

    def model_begins() -> None:
        photos_done[0] = 2

    def photo_joins() -> None:
        photos_done[0] += 1

    found = run_watched(
        lambda token: pycolmap.incremental_mapping(
            database,
            own_output,
            own_output,
            options,
            input_path=start_from.folder if start_from is not None else "",
            initial_image_pair_callback=model_begins,
            next_image_callback=photo_joins,
            cancellation_token=token,
        ),
        steps_done=lambda: photos_done[0],
        report=report,
    )
    return _models(found, folder)


def map_globally(
    database: Path, folder: Path, *, seed: int, calibrates: bool = True
) -> list[SparseModel]:
    """All models, each solved at once: rotations first, then positions (GLOMAP, Pan et al. 2024).

    Args:
        database: With verified matches.
        folder: Where COLMAP writes its models; made here.
        seed: For the random choices of robust estimation.
        calibrates: Estimate focal lengths from pairs of photos first, because some are guesses.
    """
    pycolmap = library()
    own_output = folder / "colmap"
    own_output.mkdir(parents=True)
    calibrated = folder / "calibrated.db"
    shutil.copyfile(database, calibrated)
    options = pycolmap.GlobalPipelineOptions()
    options.num_threads = 1
    options.random_seed = seed
    options.mapper.num_threads = 1
    options.mapper.random_seed = seed
    options.mapper.rotation_averaging.random_seed = seed
    options.mapper.global_positioning.random_seed = seed
    options.mapper.retriangulation.random_seed = seed
    options.mapper.global_positioning.use_gpu = False
    options.mapper.bundle_adjustment.ceres.use_gpu = False

    def run(_token):
        if calibrates:
            calibration = pycolmap.ViewGraphCalibrationOptions()
            calibration.random_seed = seed
            pycolmap.calibrate_view_graph(calibrated, calibration)
        return pycolmap.global_mapping(calibrated, own_output, own_output, options)

    found = run_watched(run)
    return _models(found, folder)


def refine_model(
    model: SparseModel, folder: Path, lenses: Mapping[int, str], *, holds_focal: bool = False
) -> SparseModel:
    """Adjust all cameras and points once more, less swayed by wrong matches (soft L1 loss).

    Points that only two views see are fitted to the cameras afterwards, if there are enough others.

    Args:
        model: One that a mapper returned.
        folder: Where the result is written; made here.
        lenses: Which of `CAMERA_MODELS` each camera gets, by its row in the database; the others
            keep theirs.
        holds_focal: Leave the focal lengths of all cameras as they are.
    """
    reconstruction = _with_lenses(model, lenses)
    _adjust(reconstruction, _least_track(model), holds_focal=holds_focal)
    return _models({0: reconstruction}, folder)[0]


@dataclass(frozen=True)
class LensDeviations:
    """Standard deviations of a camera's numbers, poses and points being unknown as well."""

    focal: float
    """Of the logarithm of fy."""
    aspect: float
    """Of the logarithm of fy / fx; 0 in a lens with one focal length."""
    distortion: Mapping[str, float]
    """Of those of k1, k2, p1, p2 that the lens has."""


def lens_deviations(model: SparseModel, lenses: Mapping[int, str]) -> dict[int, LensDeviations]:
    """How surely the photos would tell the numbers of a lens, at the values they have now.

    The covariance is that of the normal equations (Triggs et al. 2000, section 6), times the
    variance of the reprojection errors. To be asked before a richer lens is adjusted: where photos
    do not tell its numbers, an adjustment takes them anywhere, and there they can look sure.

    Args:
        model: One whose cameras are adjusted.
        lenses: The lens of each camera that is asked for, by its row in the database.

    Returns:
        Of each of these cameras; infinite where the equations cannot be solved.
    """
    pycolmap = library()
    reconstruction = _with_lenses(model, lenses)
    least = _least_track(model)
    adjuster = _adjuster(reconstruction, least)
    options = pycolmap.BACovarianceOptions()
    options.params = pycolmap.BACovarianceOptionsParams.ALL
    found = run_watched(
        lambda _token: pycolmap.estimate_ba_covariance(options, reconstruction, adjuster)
    )
    lengths = np.bincount(model.track_point, minlength=len(model.points))
    seen = lengths[model.track_point] >= least
    unknowns = 6 * len(model) + 3 * int((lengths >= least).sum())
    freedom = max(2 * int(seen.sum()) - unknowns, 1)
    squares = model.point_errors[model.track_point[seen]] ** 2
    # Of the mean error of each point: its mean square is larger by 4 / pi where errors are normal.
    variance = 4 / math.pi * float(squares.sum()) / freedom
    deviations = {}
    for row in lenses:
        camera = reconstruction.cameras[row + 1]
        matrix = found.get_other_params_cov(camera.params) if found is not None else None
        deviations[row] = _deviations(camera, matrix, variance)
    return deviations


def _deviations(camera, matrix: np.ndarray | None, variance: float) -> LensDeviations:
    """From the covariance of a pycolmap camera's numbers without the principal point."""
    values = dict(zip(CAMERA_MODELS[camera.model_name][1], camera.params, strict=True))
    free = [name for name in values if name not in ("cx", "cy")]
    bent = [name for name in free if not name.startswith("f")]
    if matrix is None or not np.isfinite(matrix).all() or matrix.shape != (len(free),) * 2:
        return LensDeviations(math.inf, math.inf, dict.fromkeys(bent, math.inf))
    logarithm = np.diag([1 / values[name] if name.startswith("f") else 1.0 for name in free])
    covariance = variance * logarithm @ matrix @ logarithm
    spread = dict(zip(free, np.sqrt(np.diag(covariance)), strict=True))
    aspect = 0.0
    if "fx" in free:
        ratio = np.array([{"fx": -1.0, "fy": 1.0}.get(name, 0.0) for name in free])
        aspect = math.sqrt(max(ratio @ covariance @ ratio, 0.0))
    focal = float(spread["fy" if "fy" in free else "f"])
    return LensDeviations(focal, aspect, {name: float(spread[name]) for name in bent})


def refine_apart(model: SparseModel, folder: Path) -> SparseModel:
    """As `refine_model`, with a camera of its own for every photo, of the lens that it has.

    It stops when focal lengths are told to a thousandth, which takes half of the steps.

    Args:
        model: One that a mapper returned.
        folder: Where the result is written; made here.
    """
    assert model.folder is not None
    files = read_model(model.folder)
    shared = files.cameras
    apart = replace(
        files,
        cameras={key: shared[image.camera_id] for key, image in files.images.items()},
        images={key: replace(image, camera_id=key) for key, image in files.images.items()},
    )
    start = folder / "apart"
    start.mkdir(parents=True)
    write_model(apart, start)
    reconstruction = library().Reconstruction(start)
    _adjust(reconstruction, _least_track(model), tolerance=MAPPING_TOLERANCE)
    return _models({0: reconstruction}, folder)[0]


def _with_lenses(model: SparseModel, lenses: Mapping[int, str]):
    """pycolmap's reconstruction of a model, some cameras described by another lens."""
    reconstruction = library().Reconstruction(model.folder)
    for row, lens in lenses.items():
        change_lens(reconstruction.cameras[row + 1], lens)
    return reconstruction


def _least_track(model: SparseModel) -> int:
    """Views that a point needs to move cameras."""
    lengths = np.bincount(model.track_point, minlength=len(model.points))[model.track_point]
    for least, enough in SURE_TRACKS.items():
        seen = np.bincount(model.track_view[lengths >= least], minlength=len(model))
        if (seen >= enough).all():
            return least
    return 2


def _adjust(reconstruction, least_track: int, **options) -> None:
    """Cameras and points of a pycolmap reconstruction by those that enough views see, in place;
    then the others by the cameras."""
    adjuster = _adjuster(reconstruction, least_track, **options)
    run_watched(lambda _token: adjuster.solve())
    if least_track > 2:  # noqa: PLR2004
        # Not made before: it copies the cameras that it holds.
        points_only = _adjuster(reconstruction, 2, holds_cameras=True)
        run_watched(lambda _token: points_only.solve())
    reconstruction.update_point_3d_errors()


def _adjuster(
    reconstruction,
    least_track: int,
    *,
    holds_focal: bool = False,
    holds_cameras: bool = False,
    tolerance: float = REFINING_TOLERANCE,
):
    """What adjusts cameras and points of a pycolmap reconstruction, in place.

    Args:
        least_track: Views of a point that takes part.
        holds_cameras: Leave all of the cameras as they are.
    """
    pycolmap = library()
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.min_track_length = least_track
    options.refine_focal_length = not (holds_focal or holds_cameras)
    options.refine_extra_params = options.refine_rig_from_world = not holds_cameras
    options.ceres.use_gpu = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.loss_function_scale = 1.0
    options.ceres.solver_options.num_threads = 1
    options.ceres.solver_options.function_tolerance = tolerance
    config = pycolmap.BundleAdjustmentConfig()
    for image in reconstruction.images.values():
        if image.has_pose:
            config.add_image(image.image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    return pycolmap.create_default_ceres_bundle_adjuster(options, config, reconstruction)


def drop_views(model: SparseModel, views: Sequence[int], folder: Path) -> SparseModel:
    """The model without some of its views, and without points that fewer than two others see.

    Args:
        model: One that a mapper returned.
        views: Rows of `model.image_index`.
        folder: Where the result is written; made here.
    """
    reconstruction = library().Reconstruction(model.folder)
    for view in views:
        image = reconstruction.images[int(model.image_index[view]) + 1]
        reconstruction.deregister_frame(image.frame_id)
    return _models({0: reconstruction}, folder)[0]


def _models(reconstructions: dict, folder: Path) -> list[SparseModel]:
    """Arrays of all models; each is also written, because COLMAP numbers its own folders anew."""
    models = []
    for number, reconstruction in sorted(reconstructions.items()):
        place = folder / f"model-{number}"
        place.mkdir(parents=True)
        reconstruction.write_binary(place)
        models.append(model_from_reconstruction(reconstruction, place))
    return models


def _incremental_options(settings: MapperSettings, seed: int):
    options = library().IncrementalPipelineOptions()
    options.num_threads = 1
    options.random_seed = seed
    options.extract_colors = False
    options.min_model_size = 3
    # Departure: joining photos by matches alone, without points, brought no photo on any scene we
    # tried and once took 31 s for five photos.
    options.structure_less_registration_fallback = False
    # Departure from COLMAP's defaults: adjust everything when the model has grown by 40 % instead
    # of 10 %, and repeat less often. A third less time; after `refine_model` the same poses.
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.4
    options.ba_global_max_refinements = 2
    options.ba_local_max_refinements = 1
    options.ba_local_function_tolerance = MAPPING_TOLERANCE
    options.ba_global_function_tolerance = MAPPING_TOLERANCE
    options.ba_refine_focal_length = options.ba_refine_extra_params = settings.refines_focal
    options.triangulation.ignore_two_view_tracks = not settings.keeps_two_view_points
    options.triangulation.min_angle = settings.point_angle_degrees
    options.triangulation.random_seed = seed
    mapper = options.mapper
    mapper.num_threads = 1
    mapper.random_seed = seed
    mapper.init_min_num_inliers = settings.start_inliers
    mapper.init_min_tri_angle = settings.start_angle_degrees
    mapper.abs_pose_min_num_inliers = settings.pose_inliers
    mapper.abs_pose_min_inlier_ratio = settings.pose_inlier_ratio
    mapper.abs_pose_refine_focal_length = settings.refines_focal
    mapper.abs_pose_refine_extra_params = settings.refines_focal
    mapper.filter_min_tri_angle = settings.point_angle_degrees
    return options
