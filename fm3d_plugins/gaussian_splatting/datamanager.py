"""Full photos for 3DGS, checked before anything long begins."""

from copy import deepcopy
from dataclasses import dataclass, field

import torch
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE

from fm3d_plugins.camera_optimization.camera_optimizer import GIVEN_CAMERAS
from fm3d_plugins.depth_supervision.depth_maps import DEPTH_FILES, DepthFiles
from fm3d_plugins.gaussian_splatting.recipe import recipe_for
from fm3d_plugins.gaussian_splatting.seeding import random_points_in_view
from fm3d_plugins.input_checks import check_dataparser_outputs, checked_parsing
from fm3d_plugins.nerfstudio_cameras import world_from_cameras
from fm3d_plugins.photo_datamanager import scaled_dataset, training_scale


@dataclass
class GaussianSplattingDataManagerConfig(FullImageDatamanagerConfig):
    """Options of the photos and the points to start from."""

    _target: type = field(default_factory=lambda: GaussianSplattingDataManager)
    max_image_size: int | None = None
    """Long side in pixels above which photos are scaled down; 0: never. None: 640 on a CPU, never
    on CUDA."""
    random_points: bool = False
    """Start from random points even where the dataparser brings points."""
    num_random_points: int = 30_000
    """How many, where random points are used."""


class GaussianSplattingDataManager(FullImageDatamanager[InputDataset]):
    """nerfstudio's full-image datamanager with checked input and points to start from."""

    config: GaussianSplattingDataManagerConfig

    def __init__(self, config: GaussianSplattingDataManagerConfig, **kwargs) -> None:
        data = config.data if config.data is not None else config.dataparser.data
        with checked_parsing(config.dataparser, data):
            super().__init__(config, **kwargs)
        metadata = self.train_dataparser_outputs.metadata
        if config.random_points or len(metadata.get("points3D_xyz", ())) < 2:
            self._add_random_points(metadata)

    def create_train_dataset(self) -> InputDataset:
        return self._dataset(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> InputDataset:
        return self._dataset(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def _dataset(self, outputs: DataparserOutputs) -> InputDataset:
        check_dataparser_outputs(outputs)
        limit = self.config.max_image_size
        if limit is None:
            limit = recipe_for(str(self.device).split(":")[0], None).max_image_size
        scale = training_scale(
            self.train_dataparser_outputs.cameras,
            limit,
            self.config.camera_res_scale_factor,
            # Once, not again for held-out photos.
            is_said=getattr(self, "train_dataset", None) is None,
        )
        dataset = scaled_dataset(outputs, scale)
        # `ns-export cameras` (nerfstudio 1.1.5) asks for a dictionary that not all parsers make.
        dataset.cameras.metadata = dataset.cameras.metadata or {}
        # A copy: when photos are loaded and their distortion is undone, intrinsics change.
        dataset.metadata[GIVEN_CAMERAS] = deepcopy(dataset.cameras)
        dataset.metadata[DEPTH_FILES] = DepthFiles.of(outputs)
        return dataset

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
