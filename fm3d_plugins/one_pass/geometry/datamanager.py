"""Photos, cameras and depth maps for methods that find geometry in one forward pass."""

from dataclasses import dataclass, field
from typing import Literal

import torch
import tyro
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.datasets.base_dataset import InputDataset

from fm3d_plugins.camera_photos import GIVEN_CAMERAS
from fm3d_plugins.depth_supervision.units import check_depth_unit
from fm3d_plugins.one_pass.geometry.point_splats import PointSplats, splats_at
from fm3d_plugins.photo_datamanager import DEPTH_FILES, PhotoDatasets, UnsampledPhotoOptions


@dataclass
class GeometryDataManagerConfig(UnsampledPhotoOptions, FullImageDatamanagerConfig):
    """Options of the photos at which renders are looked at; the estimator sees whole photos."""

    _target: type = field(default_factory=lambda: GeometryDataManager)
    # nerfstudio's, without effect here: photos are read once, in order.
    cache_images: tyro.conf.Suppress[Literal["cpu", "gpu"]] = "gpu"
    max_thread_workers: tyro.conf.Suppress[int | None] = None


class GeometryDataManager(PhotoDatasets, FullImageDatamanager[InputDataset]):
    """nerfstudio's full-image datamanager with checked input and depth maps."""

    config: GeometryDataManagerConfig

    def seen_points(self) -> PointSplats:
        """The points that the training photos show, as gaussians.

        Raises:
            ValueError: The dataparser brings no depth or no points, or depth of another unit.
            FileNotFoundError: Depth files are absent.
        """
        files = self.train_dataset.metadata[DEPTH_FILES]
        metadata = self.train_dataparser_outputs.metadata
        for what, is_there in (
            ("depth maps", bool(files.depths)),
            ("points", metadata.get("points3D_xyz") is not None),
        ):
            if not is_there:
                raise ValueError(
                    f"The dataparser brings no {what} for its {len(files.photos)} training "
                    "photos. Expected both depth and points. Leave the method's own dataparser in "
                    "place, or name one after --data that has them (nerfstudio-data: a scene with "
                    "depth maps, and --load-3D-points True)."
                )
        files.check()
        points = metadata["points3D_xyz"].float()
        given = self.train_dataset.metadata[GIVEN_CAMERAS].to("cpu")
        check_depth_unit(files, given, points.cpu())
        confidence = metadata.get("points3D_confidence")
        return splats_at(
            points,
            metadata["points3D_rgb"].to(torch.uint8),
            torch.ones(len(points)) if confidence is None else confidence,
            given.camera_to_worlds[..., 3],
        )
