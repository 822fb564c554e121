"""RayZer as a function: photos in order to cameras, and any camera to a picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.checkpoints import CheckpointFile, load
from fm3d_plugins.data.views import Views
from fm3d_plugins.files import naming_damage
from fm3d_plugins.nn.sizes import SIZES_EXPECTED, stored_sizes
from fm3d_plugins.nn.view_synthesis import load_official
from fm3d_plugins.photos.canvas import Canvases, on_white, paste, plan_own_canvases
from fm3d_plugins.rayzer.network import RayZer, RayZerConfig

if TYPE_CHECKING:
    from PIL.Image import Image

METADATA_KEY = "rayzer_config"
"""Entry of a safetensors file's metadata. Without it a checkpoint has the published size."""


def load_network(file: CheckpointFile, precision: torch.dtype, device: torch.device) -> RayZer:
    """The network with its weights, on a device, for inference.

    Args:
        precision: Of the blocks' matrices.

    Raises:
        ValueError: The file is damaged or of another network.
    """
    with naming_damage(file.path, SIZES_EXPECTED), torch.device("meta"):
        network = RayZer(stored_sizes(file.path, METADATA_KEY, RayZerConfig) or RayZerConfig())
    load_official(network, load(file), dtype=precision)
    return network.to(device).eval().requires_grad_(False)


def render_targets(
    network: RayZer, views: Views, context: Sequence[int], targets: Sequence[int]
) -> Float[Tensor, "target 3 height width"]:
    """Some photos from others as the published evaluation renders them, RGB in (0, 1).

    A target's camera is predicted from that photo itself; the cameras in `views` are not used.

    Args:
        views: In the order of the video.

    Raises:
        ValueError: The network was trained with other numbers of photos.
    """
    trained = (network.config.num_views, network.config.num_contexts)
    if trained != (len(views.images), len(context)):
        raise ValueError(
            f"This RayZer was trained with {trained[0]} photos, {trained[1]} of them context, and "
            f"the protocol shows {len(views.images)}, {len(context)} of them context. Expected "
            "equal numbers. Give weights that were trained with those."
        )
    device = views.images.device
    numbers = (torch.tensor(list(each), device=device) for each in (context, targets))
    return network(views.images[None], *numbers).renders[0]


def in_trained_number(count: int, config: RayZerConfig, spacing: int = 0) -> list[int]:
    """Numbers of as many photos as the network was trained with.

    Args:
        count: Of photos, in order along one path.
        spacing: Every so many-th photo is taken, around the middle of the path. 0: as many as are
            needed, evenly from the first to the last.

    Raises:
        ValueError: There are fewer, or none so far apart.
    """
    wanted = config.num_views
    if count < wanted:
        raise ValueError(
            f"There are {count} photos, and this RayZer was trained with {wanted}: its tokens "
            "carry their photo's number, and with others it gives garbage. Expected at least "
            f"{wanted} photos along one path, named in its order. Take more, or use another "
            "estimator (vggt, dust3r, sfm)."
        )
    most = (count - 1) // (wanted - 1) if wanted > 1 else count
    if not 0 <= spacing <= most:
        raise ValueError(
            f"A spacing of {spacing} was asked for. Expected at most {most}, as {wanted} of "
            f"{count} photos are taken, or 0: evenly from the first to the last."
        )
    if count > wanted:
        how = f"each {spacing} from the next, in the middle of" if spacing else "evenly along"
        CONSOLE.print(
            f"{wanted} of {count} photos are used, {how} the path: this RayZer was "
            f"trained with {wanted}.",
            highlight=False,
        )
    if spacing == 0:
        return np.linspace(0, count - 1, wanted).round().astype(int).tolist()
    first = (count - 1 - spacing * (wanted - 1)) // 2
    return [first + spacing * number for number in range(wanted)]


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
class PhotoSequence:
    """Photos in order on their canvases, and the cameras that the network predicted for them."""

    photos: Float[Tensor, "view 3 height width"]
    """RGB in [0, 1]."""
    world_from_camera: Float[Tensor, "view 4 4"]
    """In the network's own space."""
    intrinsics: Float[Tensor, "view 3 3"]
    """In pixels of the canvases."""
    context: list[int]
    """Numbers of the photos that the scene is made of."""
