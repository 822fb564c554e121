"""The datamanager of RayZer."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.datasets.base_dataset import InputDataset

from fm3d_plugins.photo_datamanager import PhotoDatasets, UnsampledPhotoOptions
from fm3d_plugins.rayzer.inference import PhotoSequence, canvases_of, on_canvases


@dataclass
class RayzerDataManagerConfig(UnsampledPhotoOptions, FullImageDatamanagerConfig):
    """Options of the photos; renders are scored at their size."""

    _target: type = field(default_factory=lambda: RayzerDataManager)
    max_image_size: int | None = 256
    """Long side in pixels above which photos are scaled down; 0: never."""
    accept_latent_cameras: tyro.conf.Suppress[bool] = True


class RayzerDataManager(PhotoDatasets, FullImageDatamanager[InputDataset]):
    """nerfstudio's full-image datamanager, which hands all photos over in order."""

    config: RayzerDataManagerConfig

    def sequence(self, image_size: int, patch_size: int) -> PhotoSequence:
        """All photos, of which the training photos are to make the scene."""
        from PIL import Image

        scene = self.dataparser.scene()
        train = [Path(file) for file in self.train_dataset.image_filenames]
        held_out = [Path(file) for file in self.eval_dataset.image_filenames]
        files = {file.name: file for file in (*train, *held_out)}
        sizes = [(width, height) for width, height in scene.image_sizes.tolist()]
        canvases = canvases_of(sizes, image_size, patch_size)
        return PhotoSequence(
            on_canvases((Image.open(files[name]) for name in scene.names), canvases),
            scene.world_from_camera,
            canvases.map_from_photo.intrinsics_on_map(scene.intrinsics),
            [scene.names.index(file.name) for file in train],
        )
