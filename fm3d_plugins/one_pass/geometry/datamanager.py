"""Photos, cameras and depth maps for methods that find geometry in one forward pass."""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

import torch
import tyro
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset

from fm3d_plugins.camera_optimization.camera_optimizer import GIVEN_CAMERAS
from fm3d_plugins.depth_supervision.depth_maps import DepthFiles
from fm3d_plugins.input_checks import check_dataparser_outputs, checked_parsing
from fm3d_plugins.one_pass.geometry.depth_views import DepthViews
from fm3d_plugins.photo_datamanager import scaled_dataset, training_scale

CPU_IMAGE_SIZE = 640
"""Long side in pixels at which held-out photos are compared on a CPU, as other methods here."""


@dataclass
class GeometryDataManagerConfig(FullImageDatamanagerConfig):
    """Options of the photos."""

    _target: type = field(default_factory=lambda: GeometryDataManager)
    max_image_size: int | None = None
    """Long side in pixels above which photos are scaled down for comparison with renders; 0:
    never. None: 640 on a CPU, never on CUDA. The dataparser's estimator sees whole photos."""

    # nerfstudio's, without effect here: photos are read once, in order.
    eval_num_images_to_sample_from: tyro.conf.Suppress[int] = -1
    eval_num_times_to_repeat_images: tyro.conf.Suppress[int] = -1
    eval_image_indices: tyro.conf.Suppress[tuple[int, ...] | None] = None
    cache_images: tyro.conf.Suppress[Literal["cpu", "gpu"]] = "gpu"
    masks_on_gpu: tyro.conf.Suppress[bool] = False
    images_on_gpu: tyro.conf.Suppress[bool] = False
    max_thread_workers: tyro.conf.Suppress[int | None] = None
    train_cameras_sampling_strategy: tyro.conf.Suppress[Literal["random", "fps"]] = "random"
    train_cameras_sampling_seed: tyro.conf.Suppress[int] = 42
    fps_reset_every: tyro.conf.Suppress[int] = 100


class GeometryDataManager(FullImageDatamanager[InputDataset]):
    """nerfstudio's full-image datamanager with checked input and depth maps."""

    config: GeometryDataManagerConfig

    def __init__(self, config: GeometryDataManagerConfig, **kwargs) -> None:
        data = config.data if config.data is not None else config.dataparser.data
        with checked_parsing(config.dataparser, data):
            super().__init__(config, **kwargs)
        if torch.device(self.device).type == "cpu":
            # Above 500 photos nerfstudio says "cpu", which pins memory and needs a CUDA driver.
            config.cache_images = "gpu"

    def create_train_dataset(self) -> InputDataset:
        return self._dataset(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> InputDataset:
        return self._dataset(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def _dataset(self, outputs: DataparserOutputs) -> InputDataset:
        check_dataparser_outputs(outputs)
        limit = self.config.max_image_size
        if limit is None and torch.device(self.device).type == "cpu":
            limit = CPU_IMAGE_SIZE
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
        return dataset

    def depth_views(self) -> DepthViews:
        """The training photos with their depth; no held-out photo is among them.

        Raises:
            ValueError: The dataparser brings no depth.
            FileNotFoundError: Depth files are absent.
        """
        return DepthViews(
            self.train_dataset,
            self.train_dataset.metadata[GIVEN_CAMERAS],
            DepthFiles.of(self.train_dataparser_outputs),
        )
