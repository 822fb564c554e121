"""RayZer as a function: photos in order to cameras, and any camera to a picture."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.checkpoints import CheckpointFile, load
from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.nn.sizes import checked_fields, sizes_from_text, stored_text
from fm3d_plugins.photos.canvas import Canvases, on_white, paste, plan_own_canvases
from fm3d_plugins.rayzer.cameras import PredictedCameras
from fm3d_plugins.rayzer.network import RayZer, RayZerConfig, load_official

if TYPE_CHECKING:
    from PIL.Image import Image

METADATA_KEY = "rayzer_config"
"""Entry of a safetensors file's metadata. Without it a checkpoint has the published size."""


def to_text(config: RayZerConfig) -> str:
    """Sizes as JSON, for the metadata of a checkpoint."""
    return json.dumps(asdict(config))


def load_network(file: CheckpointFile, precision: torch.dtype, device: torch.device) -> RayZer:
    """The network with its weights, on a device, for inference.

    Args:
        precision: Of the blocks' matrices.

    Raises:
        ValueError: The file is damaged or of another network.
    """
    text = stored_text(file.path, METADATA_KEY)
    config = RayZerConfig()
    if text is not None:
        config = sizes_from_text(
            text, METADATA_KEY, lambda sizes: RayZerConfig(**checked_fields(RayZerConfig, sizes))
        )
    with torch.device("meta"):
        network = RayZer(config)
    load_official(network, load(file), dtype=precision)
    return network.to(device).eval().requires_grad_(False)


def in_trained_number(names: Sequence[str], config: RayZerConfig) -> list[int]:
    """Numbers of as many photos as the network was trained with, evenly from first to last.

    Raises:
        ValueError: There are fewer.
    """
    wanted = config.num_views
    if len(names) < wanted:
        raise ValueError(
            f"There are {len(names)} photos, and this RayZer was trained with {wanted}: its tokens "
            "carry their photo's number, and with others it gives garbage. Expected at least "
            f"{wanted} photos along one path, named in its order. Take more, or use another "
            "estimator (vggt, dust3r, sfm)."
        )
    if len(names) > wanted:
        CONSOLE.print(
            f"{wanted} of {len(names)} photos are used, evenly along the path: this RayZer was "
            f"trained with {wanted}.",
            highlight=False,
        )
    return np.linspace(0, len(names) - 1, wanted).round().astype(int).tolist()


def canvases_of(sizes: Sequence[tuple[int, int]], image_size: int, patch: int) -> Canvases:
    """Square canvases of the middle of photos, as the published loader makes them.

    Raises:
        ValueError: The size is no multiple of the patch size.
    """
    return plan_own_canvases(sizes, resolution=image_size, patch=patch, framing="short")


def on_canvases(
    photos: Iterable["Image"], canvases: Canvases
) -> Float[Tensor, "view 3 height width"]:
    """Upright photos on their canvases, RGB in [0, 1]."""
    pictures = [
        torch.from_numpy(paste(on_white(photo), canvas).copy())
        for photo, canvas in zip(photos, canvases.each, strict=True)
    ]
    return torch.stack(pictures).movedim(-1, 1).float() / 255


@dataclass(frozen=True)
class SeenScene:
    """Cameras of all photos, and what the network keeps of the scene from some of them."""

    network: RayZer
    cameras: PredictedCameras
    latents: Float[Tensor, "1 latent feature"]

    def render(
        self,
        world_from_camera: Float[Tensor, "target 4 4"],
        intrinsics: Float[Tensor, "target 3 3"],
        height: int,
        width: int,
    ) -> Float[Tensor, "target 3 height width"]:
        """Pictures, in (0, 1), of cameras in the frame and unit of the predicted ones.

        Args:
            height: A multiple of the patch size, as the width.
        """
        rays = plucker_maps(intrinsics, world_from_camera, height, width)
        return self.network.render(self.latents, rays[None])[0]


def see(
    network: RayZer, images: Float[Tensor, "view 3 height width"], context: Sequence[int]
) -> SeenScene:
    """Look at photos in order; those in `context` become the scene, of the others cameras count."""
    tokens = network.tokens(images[None])
    cameras = network.estimate_cameras(tokens)
    height, width = images.shape[-2:]
    rows = list(context)
    rays = plucker_maps(
        cameras.intrinsics(height, width)[:, rows],
        cameras.world_from_camera()[:, rows],
        height,
        width,
    )
    return SeenScene(network, cameras, network.encode(tokens[:, rows], rays))
