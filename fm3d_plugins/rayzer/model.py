"""Views by RayZer as a nerfstudio model. The network itself is `network.py`."""

from dataclasses import dataclass, field

import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from fm3d_plugins.checkpoints import CheckpointFile
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.nerfstudio_cameras import pinhole, world_from_cameras
from fm3d_plugins.one_pass.views.model import ViewModel, ViewModelConfig
from fm3d_plugins.one_pass.views.sizes import resized_images, resized_intrinsics, size_within
from fm3d_plugins.rayzer.inference import PhotoSequence, load_network
from fm3d_plugins.rayzer.network import RayZer


@dataclass
class RayzerModelConfig(ViewModelConfig):
    """The network; the photos that it sees the scene through are the training photos."""

    _target: type = field(default_factory=lambda: RayzerModel)
    # What the dataparser predicted cameras with, and seen at the same size.
    weights: tyro.conf.Suppress[str] = ""
    image_size: tyro.conf.Suppress[int] = 256


class RayzerModel(ViewModel):
    """Views as RayZer makes them of cameras in its own space.

    nerfstudio's frame is that space, turned and scaled by the dataparser, which is undone here. So
    a camera of the viewer is a camera among the predicted ones: right next to a photo's it shows
    about that photo; how it looks farther away, the network was never taught.
    """

    config: RayzerModelConfig

    def load(self, file: CheckpointFile, precision: torch.dtype, device: torch.device) -> RayZer:
        """The network with its weights."""
        return load_network(file, precision, device)

    @torch.no_grad()
    def hold(self, sequence: PhotoSequence, frame: Similarity) -> None:
        """Look at a scene.

        Args:
            frame: From the network's space into nerfstudio's.
        """
        photos, context = sequence.photos.to(self.device), sequence.context
        cameras = (sequence.intrinsics.to(photos), sequence.world_from_camera.to(photos))
        rays = plucker_maps(*cameras, *photos.shape[-2:])
        tokens = self.network.tokens(photos[None])[:, context]
        self.latents = self.network.encode(tokens, rays[None, context])
        back = frame.inverse()
        self.frame = Similarity(
            *(values.to(photos) for values in (back.scale, back.rotation, back.translation))
        )

    def render(self, camera: Cameras) -> dict[str, Float[Tensor, "h w channel"]]:
        """`rgb` of a camera."""
        wanted, pose = pinhole(camera), world_from_cameras(camera).reshape(1, 4, 4)
        shape = (wanted.height, wanted.width)
        size = size_within(*shape, self.config.image_size, self.network.config.patch_size)
        rays = plucker_maps(
            resized_intrinsics(wanted.intrinsics[None], shape, size),
            self.frame.apply_to_pose(pose),
            *size,
        )
        picture = resized_images(self.network.render(self.latents, rays[None])[0], *shape)[0]
        return {"rgb": picture.movedim(0, -1)}
