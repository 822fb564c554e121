"""COLMAP's reconstructions as arrays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from fm3d_plugins.backends.pycolmap.running import library
from fm3d_plugins.io.colmap_files import CAMERA_MODELS, calibration


@dataclass(frozen=True)
class SparseModel:
    """Cameras and points that hang together. Images are named by their row."""

    image_index: Int64[np.ndarray, " view"]
    """Rows of the images that have a camera, increasing."""
    world_from_camera: Float64[np.ndarray, "view 4 4"]
    intrinsics: Float64[np.ndarray, "view 3 3"]
    distortion: Float64[np.ndarray, "view 6"]
    """k1, k2, k3, k4, p1, p2."""
    points: Float64[np.ndarray, "point 3"]
    point_errors: Float64[np.ndarray, " point"]
    """Mean reprojection error, pixels."""
    track_point: Int64[np.ndarray, " observation"]
    """Row in `points`."""
    track_view: Int64[np.ndarray, " observation"]
    """Row in `image_index`."""
    track_keypoint: Int64[np.ndarray, " observation"]
    """Row of the image's keypoints."""
    folder: Path | None = None
    """Where COLMAP wrote the model; a mapper can start from it."""

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def mean_error(self) -> float:
        """Mean reprojection error over all observations, pixels; nan without any."""
        if not len(self.track_point):
            return float("nan")
        return float(self.point_errors[self.track_point].mean())


def model_from_reconstruction(reconstruction, folder: Path | None = None) -> SparseModel:
    """Arrays of a pycolmap reconstruction whose images' ids are their rows plus one."""
    images = sorted(
        (image for image in reconstruction.images.values() if image.has_pose),
        key=lambda image: image.image_id,
    )
    view_of = {image.image_id: view for view, image in enumerate(images)}
    cameras = [reconstruction.cameras[image.camera_id] for image in images]
    lenses = [calibration(camera.model_name, camera.params.tolist()) for camera in cameras]
    points = [point for _, point in sorted(reconstruction.points3D.items())]
    observations = [
        (row, view_of[element.image_id], element.point2D_idx)
        for row, point in enumerate(points)
        for element in point.track.elements
        if element.image_id in view_of
    ]
    tracks = np.array(observations, dtype=np.int64).reshape(-1, 3)
    return SparseModel(
        image_index=np.array([image.image_id - 1 for image in images], dtype=np.int64),
        world_from_camera=np.stack([_world_from_camera(image) for image in images])
        if images
        else np.zeros((0, 4, 4)),
        intrinsics=np.array([matrix for matrix, _ in lenses]).reshape(-1, 3, 3),
        distortion=np.array([distortion for _, distortion in lenses]).reshape(-1, 6),
        points=np.array([point.xyz for point in points], dtype=np.float64).reshape(-1, 3),
        point_errors=np.array([point.error for point in points], dtype=np.float64),
        track_point=tracks[:, 0],
        track_view=tracks[:, 1],
        track_keypoint=tracks[:, 2],
        folder=folder,
    )


def change_lens(camera, model: str) -> None:
    """Describe a pycolmap camera by another lens model of `CAMERA_MODELS`, new numbers zero."""
    values = dict(zip(CAMERA_MODELS[camera.model_name][1], camera.params, strict=True))
    for axis in ("x", "y"):
        values.setdefault(f"f{axis}", values.get("f", 0.0))
    values.setdefault("f", values["fx"])
    camera.model = getattr(library().CameraModelId, model)
    camera.params = [values.get(name, 0.0) for name in CAMERA_MODELS[model][1]]


def _world_from_camera(image) -> Float64[np.ndarray, "4 4"]:
    world_from_camera = np.eye(4)
    world_from_camera[:3] = image.cam_from_world().inverse().matrix()
    return world_from_camera
