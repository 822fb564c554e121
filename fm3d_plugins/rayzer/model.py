"""Views by RayZer as a nerfstudio model. The network itself is `network.py`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from fm3d_plugins.checkpoints import CheckpointFile
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.nerfstudio_cameras import pinhole, world_from_cameras
from fm3d_plugins.one_pass.views.model import ViewModel, ViewModelConfig
from fm3d_plugins.one_pass.views.sizes import resized_images, resized_intrinsics, size_within
from fm3d_plugins.rayzer.inference import load_network, see
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
    def hold(
        self,
        photos: Float[Tensor, "view 3 height width"],
        context: Sequence[int],
        frame: Similarity,
    ) -> None:
        """Look at a scene.

        Args:
            photos: All of them in order, RGB in [0, 1].
            context: Numbers of those that the scene is made of.
            frame: From the network's space into nerfstudio's.
        """
        self.seen = see(self.network, photos.to(self.device), context)
        self.frame = frame.inverse()

    def render(self, camera: Cameras) -> dict[str, Float[Tensor, "h w channel"]]:
        """`rgb` of a camera."""
        wanted, pose = pinhole(camera), world_from_cameras(camera).reshape(1, 4, 4)
        shape = (wanted.height, wanted.width)
        size = size_within(*shape, self.config.image_size, self.network.config.patch_size)
        own = self.frame.apply_to_pose(pose.double().cpu()).to(pose)
        intrinsics = resized_intrinsics(wanted.intrinsics[None], shape, size)
        return {
            "rgb": resized_images(self.seen.render(own, intrinsics, *size), *shape)[0].movedim(
                0, -1
            )
        }
