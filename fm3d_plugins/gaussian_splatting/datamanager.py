"""Full photos for 3DGS, checked before anything long begins."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE

from fm3d_plugins.gaussian_splatting.seeding import random_points_in_view
from fm3d_plugins.nerfstudio_cameras import world_from_cameras
from fm3d_plugins.photo_datamanager import PhotoDatasets, PhotoOptions


@dataclass
class GaussianSplattingDataManagerConfig(PhotoOptions, FullImageDatamanagerConfig):
    """Options of the photos and the points to start from."""

    _target: type = field(default_factory=lambda: GaussianSplattingDataManager)
    random_points: bool = False
    """Start from random points even where the dataparser brings points."""
    num_random_points: int = 30_000
    """How many, where random points are used."""


class GaussianSplattingDataManager(PhotoDatasets, FullImageDatamanager[InputDataset]):
    """nerfstudio's full-image datamanager with checked input and points to start from."""

    config: GaussianSplattingDataManagerConfig

    takes_rendered_views: ClassVar[bool] = True

    def __init__(self, config: GaussianSplattingDataManagerConfig, **kwargs) -> None:
        super().__init__(config, **kwargs)
        metadata = self.train_dataparser_outputs.metadata
        if config.random_points or len(metadata.get("points3D_xyz", ())) < 2:
            self._add_random_points(metadata)

    def skip_photos(self, count: int) -> None:
        """Pass over the first `count` photos of the training sequence, which a resumed run saw."""
        for _ in range(count):
            self.train_unseen_cameras.pop(0)
            if not self.train_unseen_cameras:
                self.train_unseen_cameras = self.sample_train_cameras()

    def _add_random_points(self, metadata: dict) -> None:
        count = self.config.num_random_points
        is_training = self.test_mode == "val"
        # Outside training a checkpoint replaces the points: any photo-free ones will do.
        colors = [entry["image"] for entry in self.cached_train] if is_training else None
        cameras = self.train_dataset.cameras
        images = [
            colors[i][..., :3].cpu() if colors else torch.full((int(h), int(w), 3), 127)
            for i, (h, w) in enumerate(zip(cameras.height, cameras.width, strict=True))
        ]
        points, rgb = random_points_in_view(
            world_from_cameras(cameras).cpu(),
            cameras.get_intrinsics_matrices().cpu(),
            [image.float() / (255 if image.dtype == torch.uint8 else 1) for image in images],
            count,
            torch.Generator().manual_seed(self.config.train_cameras_sampling_seed),
        )
        metadata["points3D_xyz"], metadata["points3D_rgb"] = points, (rgb * 255).to(torch.uint8)
        if is_training:
            CONSOLE.print(f"Starting from {count} random points.")
