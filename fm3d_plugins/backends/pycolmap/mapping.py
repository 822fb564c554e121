"""From verified matches to cameras and points: COLMAP's incremental and global mappers."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fm3d_plugins.backends.pycolmap.models import (
    SparseModel,
    change_lens,
    model_from_reconstruction,
)
from fm3d_plugins.backends.pycolmap.running import Report, library, run_watched
from fm3d_plugins.io.colmap_files import read_model, write_model

MAPPING_TOLERANCE = 1e-5
"""While photos join, an adjustment stops when a step lowers the cost by less than this share."""

REFINING_TOLERANCE = 1e-6
"""The same for the last adjustment."""


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


@dataclass(frozen=True)
class LensSettings:
    """The lens models of the last adjustment, of those in `CAMERA_MODELS`."""

    few_views: str
    """Of cameras that took fewer photos than `min_views`."""
    many_views: str
    """Of the others."""
    min_views: int


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


def refine_model(model: SparseModel, folder: Path, lens: LensSettings) -> SparseModel:
    """Adjust all cameras and points once more, less swayed by wrong matches (soft L1 loss).

    Args:
        model: One that a mapper returned.
        folder: Where the result is written; made here.
        lens: Which lens model each camera gets.
    """
    pycolmap = library()
    reconstruction = pycolmap.Reconstruction(model.folder)
    views = Counter(image.camera_id for image in reconstruction.images.values() if image.has_pose)
    for camera_id, camera in reconstruction.cameras.items():
        is_well_seen = views[camera_id] >= lens.min_views
        change_lens(camera, lens.many_views if is_well_seen else lens.few_views)
    _adjust(reconstruction)
    return _models({0: reconstruction}, folder)[0]


def refine_apart(model: SparseModel, folder: Path) -> SparseModel:
    """As `refine_model`, with a camera of its own for every photo, of the lens that it has.

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
    _adjust(reconstruction)
    return _models({0: reconstruction}, folder)[0]


def _adjust(reconstruction) -> None:
    """Adjust cameras and points of a pycolmap reconstruction, in place."""
    pycolmap = library()
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.min_track_length = 2
    options.ceres.use_gpu = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.loss_function_scale = 1.0
    options.ceres.solver_options.num_threads = 1
    options.ceres.solver_options.function_tolerance = REFINING_TOLERANCE
    config = pycolmap.BundleAdjustmentConfig()
    for image in reconstruction.images.values():
        if image.has_pose:
            config.add_image(image.image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    adjuster = pycolmap.create_default_bundle_adjuster(options, config, reconstruction)
    run_watched(lambda _token: adjuster.solve())
    reconstruction.update_point_3d_errors()


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
