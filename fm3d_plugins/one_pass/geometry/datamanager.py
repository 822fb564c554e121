"""Photos, cameras and depth maps for methods that find geometry in one forward pass."""

from dataclasses import dataclass, field
from typing import Literal

import tyro
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.datasets.base_dataset import InputDataset

from fm3d_plugins.one_pass.geometry.depth_views import DepthViews
from fm3d_plugins.photo_datamanager import (
    DEPTH_FILES,
    GIVEN_CAMERAS,
    PhotoDatasets,
    PhotoOptions,
)


@dataclass
class GeometryDataManagerConfig(PhotoOptions, FullImageDatamanagerConfig):
    """Options of the photos at which renders are looked at; the estimator sees whole photos."""

    _target: type = field(default_factory=lambda: GeometryDataManager)
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


class GeometryDataManager(PhotoDatasets, FullImageDatamanager[InputDataset]):
    """nerfstudio's full-image datamanager with checked input and depth maps."""

    config: GeometryDataManagerConfig

    def depth_views(self) -> DepthViews:
        """The training photos with their depth; no held-out photo is among them.

        Raises:
            ValueError: The dataparser brings no depth.
            FileNotFoundError: Depth files are absent.
        """
        return DepthViews(
            self.train_dataset,
            self.train_dataset.metadata[GIVEN_CAMERAS],
            self.train_dataset.metadata[DEPTH_FILES],
        )
