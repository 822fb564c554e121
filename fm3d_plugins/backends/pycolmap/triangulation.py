"""Points of verified matches, seen by cameras that stay where they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from fm3d_plugins.backends.pycolmap.models import SparseModel, model_from_reconstruction
from fm3d_plugins.backends.pycolmap.running import library, run_watched

Matches = Mapping[tuple[int, int], Int64[np.ndarray, "_match 2"]]
"""For pairs of images, first row below the second: rows of the keypoints that belong together."""


@dataclass(frozen=True)
class TriangulationSettings:
    """What is demanded of a point."""

    angle_error_degrees: float
    """By which a ray may miss the point that it makes or joins."""
    completes: bool
    """Whether tracks are also extended and merged through matches of matches."""
    completing_error: float = 4.0
    """By which a keypoint may then miss its point, pixels."""
    point_angle_degrees: float = 1.5
    """Smallest angle between the rays of a point."""


def triangulate(
    world_from_camera: Float64[np.ndarray, "view 4 4"],
    intrinsics: Float64[np.ndarray, "view 3 3"],
    image_sizes: Sequence[tuple[int, int]],
    keypoints: Sequence[Float64[np.ndarray, "_feature 2"]],
    matches: Matches,
    settings: TriangulationSettings,
) -> SparseModel:
    """Points of two or more views, by COLMAP's triangulator.

    Args:
        world_from_camera: Poses, OpenCV axes.
        intrinsics: Pinhole matrices without skew, pixels.
        image_sizes: Width and height, pixels.
        keypoints: Of each image, where a pinhole would see them.
        matches: Verified ones.
        settings: What is demanded of a point.
    """
    pycolmap = library()
    reconstruction, graph = pycolmap.Reconstruction(), pycolmap.CorrespondenceGraph()
    for row, (pose, matrix, (width, height), pixels) in enumerate(
        zip(world_from_camera, intrinsics, image_sizes, keypoints, strict=True), start=1
    ):
        camera = pycolmap.Camera(
            model="PINHOLE",
            width=width,
            height=height,
            params=[matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]],
            camera_id=row,
        )
        reconstruction.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(f"{row}", keypoints=pixels, camera_id=row, image_id=row)
        rotation = pose[:3, :3].T
        camera_from_world = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ pose[:3, 3])
        reconstruction.add_image_with_trivial_frame(image, camera_from_world)
        graph.add_image(row, len(pixels))
    calibrated = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
    for (first, second), rows in matches.items():
        geometry = pycolmap.TwoViewGeometry()
        geometry.config, geometry.inlier_matches = calibrated, rows.astype(np.uint32)
        graph.add_two_view_geometry(first + 1, second + 1, geometry)
    graph.finalize()
    # All three must live as long as the triangulator.
    manager = pycolmap.ObservationManager(reconstruction, graph)
    triangulator = pycolmap.IncrementalTriangulator(graph, reconstruction, manager)
    options = _options(settings)

    def run(_token) -> None:
        for row in range(1, len(keypoints) + 1):
            triangulator.triangulate_image(options, row)
        if settings.completes:
            triangulator.complete_all_tracks(options)
            triangulator.merge_all_tracks(options)

    run_watched(run)
    return model_from_reconstruction(reconstruction)


def _options(settings: TriangulationSettings):
    options = library().IncrementalTriangulatorOptions()
    options.create_max_angle_error = settings.angle_error_degrees
    options.continue_max_angle_error = settings.angle_error_degrees
    options.complete_max_reproj_error = settings.completing_error
    options.merge_max_reproj_error = settings.completing_error
    options.min_angle = settings.point_angle_degrees
    options.ignore_two_view_tracks = False
    options.random_seed = 0
    return options
