"""The datamanager of LVSM."""

from dataclasses import dataclass, field

from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.datasets.base_dataset import InputDataset

from fm3d_plugins.lvsm.inference import PosedPhotos
from fm3d_plugins.nerfstudio_cameras import intrinsics_matrices, world_from_cameras
from fm3d_plugins.one_pass.views.model import colors_of
from fm3d_plugins.photo_datamanager import PhotoDatasets, UnsampledPhotoOptions


@dataclass
class LvsmDataManagerConfig(UnsampledPhotoOptions, FullImageDatamanagerConfig):
    """Options of the photos; what the network sees of them is the model's `image_size`."""

    _target: type = field(default_factory=lambda: LvsmDataManager)
    max_image_size: int | None = None
    """Long side in pixels above which photos are scaled down; 0: never. Renders are scored at
    this size. None: the model's `image_size`."""


class LvsmDataManager(PhotoDatasets, FullImageDatamanager[InputDataset]):
    """nerfstudio's full-image datamanager, which hands all training photos over."""

    config: LvsmDataManagerConfig

    def photos(self) -> PosedPhotos:
        """The training photos without lens distortion, on the device, and their cameras."""
        images = [
            colors_of(data["image"]).movedim(-1, 0).to(self.device) for data in self.cached_train
        ]
        cameras = self.train_dataset.cameras.to(self.device)  # As undistorting left them.
        intrinsics = intrinsics_matrices(cameras)
        return PosedPhotos(images, intrinsics, world_from_cameras(cameras))

    def names(self) -> list[str]:
        """File names of the training photos."""
        return [file.name for file in self.train_dataset.image_filenames]
