"""The datamanager of RayZer."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from jaxtyping import Float
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from fm3d_plugins.photo_datamanager import PhotoDatasets, PhotoOptions
from fm3d_plugins.rayzer.inference import canvases_of, on_canvases


@dataclass
class RayzerDataManagerConfig(PhotoOptions, FullImageDatamanagerConfig):
    """Options of the photos; renders are scored at their size."""

    _target: type = field(default_factory=lambda: RayzerDataManager)
    max_image_size: int | None = 256
    """Long side in pixels above which photos are scaled down; 0: never."""
    accept_latent_cameras: tyro.conf.Suppress[bool] = True


class RayzerDataManager(PhotoDatasets, FullImageDatamanager[InputDataset]):
    """nerfstudio's full-image datamanager, which hands all photos over in order."""

    config: RayzerDataManagerConfig

    def sequence(
        self, image_size: int, patch_size: int
    ) -> tuple[Float[Tensor, "view 3 height width"], list[int]]:
        """The square middles of all photos in order, and the numbers of the training photos."""
        from PIL import Image

        train = [Path(file) for file in self.train_dataset.image_filenames]
        held_out = [Path(file) for file in self.eval_dataset.image_filenames]
        order = self.dataparser.names()
        files = {file.name: file for file in (*train, *held_out)}
        photos = [Image.open(files[name]) for name in order]
        canvases = canvases_of([photo.size for photo in photos], image_size, patch_size)
        numbers = [order.index(file.name) for file in train]
        return on_canvases(photos, canvases), numbers
