"""The cameras of a trained run, as files in the frame and at the size of its input."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from fm3d_plugins.camera_optimization.evaluation import held_out_focal_factors
from fm3d_plugins.camera_optimization.held_out_poses import training_cameras
from fm3d_plugins.camera_photos import RENDERED_VIEWS
from fm3d_plugins.geometry.cameras import equal_cameras, intrinsics_matrix
from fm3d_plugins.io.colmap import write_colmap_or_say
from fm3d_plugins.io.transforms import write_transforms
from fm3d_plugins.nerfstudio_cameras import calibrations, world_from_cameras
from fm3d_plugins.parsed_scenes import input_frame
from fm3d_plugins.scene import SceneGeometry


@dataclass(frozen=True)
class RunCameras:
    """Every camera of a run, and the photo files that they belong to."""

    scene: SceneGeometry
    """Without points; frame, photo sizes and distortion of the dataparser's input."""
    files: Mapping[str, Path]
    """Photo of each view, by its name."""


def run_cameras(pipeline: Any, provenance: Mapping[str, Any] | None = None) -> RunCameras:
    """Optimised training cameras, and held-out cameras moved along with them (`sim3`).

    Rendered views are no photos and left out.

    The frame is that of the dataparser's input: its orientation, centring and scale are undone.
    Focal lengths carry the learned factor.

    Args:
        pipeline: A trained pipeline with both splits.
        provenance: JSON values to record with the cameras.

    Raises:
        ValueError: A camera is not a perspective one.
    """
    manager = pipeline.datamanager
    train = manager.train_dataparser_outputs
    held_out = manager.dataparser.get_dataparser_outputs(split=manager.test_split)
    optimizer = pipeline.model.camera_optimizer
    trained = training_cameras(train.cameras, optimizer)
    given = world_from_cameras(held_out.cameras).double().cpu()
    moved = trained.similarity().apply_to_pose(given) if optimizer.is_on else given
    with torch.no_grad():
        factors = optimizer.focal_factors().cpu(), held_out_focal_factors(pipeline)
    views: dict[Path, tuple] = {}
    for outputs, poses, factor in zip(
        (train, held_out), (trained.optimised, moved), factors, strict=True
    ):
        numbers = _calibrations(outputs, factor)
        frame = input_frame(outputs, manager.dataparser)
        original = frame.inverse().apply_to_pose(poses)
        is_rendered = outputs.metadata.get(RENDERED_VIEWS)
        for row, file in enumerate(outputs.image_filenames):
            if is_rendered is not None and is_rendered[row]:
                continue
            # A photo of both splits (eval_mode all) keeps its optimised camera.
            views.setdefault(Path(file).resolve(), (original[row], numbers[row]))
    return _assembled(dict(sorted(views.items())), dict(provenance or {}))


def write_cameras(cameras: RunCameras, folder: Path) -> None:
    """Write transforms.json, which names photos by absolute paths, and colmap/sparse/0.

    Args:
        folder: Exists and holds neither.
    """
    write_colmap_or_say(cameras.scene, folder / "colmap" / "sparse" / "0")
    write_transforms(
        cameras.scene,
        folder / "transforms.json",
        file_paths={name: file.as_posix() for name, file in cameras.files.items()},
    )


def _assembled(views: Mapping[Path, tuple], provenance: Mapping[str, Any]) -> RunCameras:
    """Views in the order of their files, named by their paths below the photos' common folder."""
    common = Path(os.path.commonpath([file.parent for file in views]))
    names = tuple(file.relative_to(common).as_posix() for file in views)
    numbers = torch.stack([calibration for _, calibration in views.values()])
    scene = SceneGeometry(
        names=names,
        image_sizes=numbers[:, :2].long(),
        world_from_camera=torch.stack([pose for pose, _ in views.values()]),
        intrinsics=intrinsics_matrix(*numbers[:, 2:6].unbind(-1)),
        distortion=numbers[:, 6:],
        camera_index=equal_cameras(numbers),
        points=torch.empty(0, 3, dtype=torch.float64),
        point_colors=torch.empty(0, 3, dtype=torch.uint8),
        point_confidence=torch.empty(0, dtype=torch.float64),
        provenance=dict(provenance),
    )
    return RunCameras(scene, dict(zip(names, views, strict=True)))


def _calibrations(
    outputs: DataparserOutputs, factors: Float[Tensor, " view"]
) -> Float[Tensor, "view 12"]:
    """Numbers as of `calibrations`, with factors on the focal lengths."""
    if bool((outputs.cameras.camera_type != CameraType.PERSPECTIVE.value).any()):
        raise ValueError(
            "Some cameras of the run are not perspective ones (fisheye or panorama). Expected "
            "perspective cameras, which transforms.json and COLMAP models of this package can "
            "hold. Export them with ns-export cameras."
        )
    numbers = calibrations(outputs.cameras)
    numbers[:, 2:4] *= factors.double()[:, None]
    return numbers
