"""VGGT as a function: photos to cameras, depth and confidence, within a planned budget."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.checkpoints import CheckpointFile, load
from fm3d_plugins.files import naming_damage
from fm3d_plugins.geometry.poses import invert
from fm3d_plugins.nn.sizes import SIZES_EXPECTED, TrainedWith, stored_text
from fm3d_plugins.vggt import configuration
from fm3d_plugins.vggt.network import VGGT
from fm3d_plugins.vggt.pose_encoding import decode
from fm3d_plugins.vggt.weights import load_official

PUBLISHED_SIZE = 518
"""Longer side of the images that published weights were trained with, pixels."""

HEADS = ("camera", "depth")
"""What cameras and points are made from; the point head is less exact than both together."""


@dataclass(frozen=True)
class Geometry:
    """What the network says of some photos. The first photo's camera is about the world."""

    world_from_camera: Float[Tensor, "view 4 4"]
    """OpenCV, scene units."""
    intrinsics: Float[Tensor, "view 3 3"]
    """Network pixels; the focal length is infinite where the predicted field of view is 0."""
    depth: Float[Tensor, "view height width"]
    """z-depth, scene units."""
    confidence: Float[Tensor, "view height width"]
    """1 - 1/c of the network's c in (1, inf): in [0, 1)."""


def architecture(path: Path) -> VGGT:
    """The network that a checkpoint is of, on the meta device: the published one unless it says.

    Raises:
        ValueError: The file's own description of its sizes cannot be used.
    """
    text = stored_text(path, configuration.METADATA_KEY)
    with naming_damage(path, SIZES_EXPECTED), torch.device("meta"):
        return VGGT(**(configuration.from_text(text) if text is not None else {}))


def usual_size(network: VGGT, trained: TrainedWith | None) -> int:
    """Longer side, pixels, of what a network sees best.

    Cells of as many patches as can be matched were better than those of the training, of which
    there are fewer.
    """
    if network.matching is not None:
        return network.matching.config.most_patches * network.aggregator.config.patch_size
    return trained.image_size if trained else PUBLISHED_SIZE


def load_network(file: CheckpointFile, precision: torch.dtype, device: torch.device) -> VGGT:
    """The network with its weights, ready to predict. Heads that are not needed are dropped.

    Args:
        precision: Of the backbone's matrices.

    Raises:
        ValueError: The file is damaged or of another network.
    """
    network = architecture(file.path)
    load_official(network, load(file), dtype=precision)
    network.point_head = network.track_head = None
    return prepared(network, device)


def prepared(network: VGGT, device: torch.device) -> VGGT:
    """The same network on a device, ready to predict and not to train."""
    network.to(device).eval().requires_grad_(False)
    if network.depth_head is not None:
        # As its maps lie: their convolutions then take 5 to 30 % less time on a CPU.
        network.depth_head.to(memory_format=torch.channels_last)
    return network


@torch.inference_mode()
def predict(network: VGGT, images: Float[Tensor, "view 3 height width"]) -> Geometry:
    """Cameras and depth of photos that are seen together, on the CPU.

    Args:
        images: RGB in [0, 1]; sides are multiples of the network's patch. The first is the world.
    """
    device = next(network.parameters()).device
    outputs = network(images.to(device), heads=HEADS)
    assert outputs.pose_encodings is not None
    assert outputs.depth is not None and outputs.depth_confidence is not None
    encoding = outputs.pose_encodings[-1].double().cpu()
    height, width = images.shape[-2:]
    camera_from_world, intrinsics = decode(encoding, (height, width))
    return Geometry(
        world_from_camera=invert(camera_from_world),
        intrinsics=intrinsics,
        depth=outputs.depth.float().cpu(),
        confidence=(1 - 1 / outputs.depth_confidence.float()).cpu(),
    )
