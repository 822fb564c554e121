"""LVSM trained on many scenes: photos at two poses in, photos at other poses out."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.backends.perceptual import PerceptualKind, perceptual_distance
from fm3d_plugins.checkpoints import locate
from fm3d_plugins.data.sampling import ends
from fm3d_plugins.data.synthetic import mixed
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.geometry.cameras import camera_distances
from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.lvsm.cameras import normalization
from fm3d_plugins.lvsm.inference import METADATA_KEY, load_network
from fm3d_plugins.lvsm.network import LVSM, LVSMConfig
from fm3d_plugins.network_training.model import NetworkModel, NetworkModelConfig, Scores
from fm3d_plugins.network_training.parts import Parts
from fm3d_plugins.network_training.scores import psnr
from fm3d_plugins.nn.perceptual import Distance, rendering_loss
from fm3d_plugins.nn.sizes import to_text

SMALL = LVSMConfig(width=128, head_width=32, patch_size=4, decoder_depth=6)
"""1.2e6 parameters, for images of 32 to 64 pixels."""


PARTS = {
    "patch_embedding": ["image_tokenizer"],
    "encoder": ["image_tokenizer", "latents", "transformer_encoder"],
    "decoder": ["target_pose_tokenizer", "decoder_norm", "transformer_decoder"],
    "heads": ["image_head"],
}


@dataclass
class LvsmTrainingModelConfig(NetworkModelConfig):
    """The network and what it learns."""

    family = "lvsm"

    _target: type = field(default_factory=lambda: LvsmTrainingModel)
    network: LVSMConfig = SMALL
    """Sizes of the network, if it is trained from nothing."""
    parts_of: tyro.conf.Suppress[tuple[str, ...]] = ()
    num_contexts: int = 2
    """Views of each scene that the network sees; all others are to be predicted."""
    perceptual: PerceptualKind = "vgg19"
    """What is lowered besides the squared error; vgg19 is the published distance."""
    perceptual_weights: Path | None = None
    """Weights of VGG19 (MatConvNet's imagenet-vgg-verydeep-19.mat, or safetensors). None: the
    squared error alone, unless perceptual is lpips."""


class LvsmTrainingModel(NetworkModel):
    """LVSM in training."""

    config: LvsmTrainingModelConfig
    network: LVSM

    def build(self) -> LVSM:
        """Random weights, or those that were asked for."""
        config = self.config
        if not config.weights:
            return LVSM(config.network)
        network = load_network(locate(config.weights), torch.float32, torch.device("cpu"))
        return network.requires_grad_(True)

    @cached_property
    def distance(self) -> Distance | None:
        """What is lowered besides the squared error, read when the first step asks for it."""
        return perceptual_distance(self.config.perceptual, self.config.perceptual_weights)

    def parts(self) -> Parts:
        """A network that is decoder alone has no encoder."""
        has_encoder = self.network.config.encoder_depth > 0
        return {name: PARTS[name] for name in PARTS if has_encoder or name != "encoder"}

    def matrices(self) -> set[str]:
        """Those of linear layers within the blocks."""
        return self.network.matrix_names()

    def loss(
        self, network: nn.Module, batch: ViewBatch, step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The squared error of the predicted views, and half the perceptual distance."""
        context, targets = split(batch.num_views, self.config.num_contexts, step)
        renders = predicted(network, batch, context, targets)
        loss = rendering_loss(renders, batch.images[:, targets], self.distance)
        return loss.total, {"psnr": loss.psnr}

    def score(self, network: nn.Module, batch: ViewBatch) -> Scores:
        """PSNR of the views between the outermost, beside those of trivial answers.

        Metrics: `psnr`, dB, mean over the targets; `copy`: of the nearest context view;
        `mean_color`: of the contexts' mean; `wrong_pose`: of what the network says at that view's
        pose in place of the target's; `above_copy` and `above_wrong_pose`: differences; `wins`:
        share of targets that are better than the copy.
        """
        context, targets = ends(batch.num_views, self.config.num_contexts)
        truth, given = batch.images[:, targets], batch.images[:, context]
        poses = batch.world_from_camera
        nearest = torch.stack(
            [camera_distances(pose[targets], pose[context]).argmin(1) for pose in poses]
        )
        scenes = torch.arange(len(batch), device=nearest.device)[:, None]
        renders = predicted(network, batch, context, targets).float()
        wrong = predicted(
            network, batch, context, targets, poses[:, context][scenes, nearest]
        ).float()
        mean = given.mean((1, 3, 4), keepdim=True).expand_as(truth)
        ours = psnr(renders, truth)
        copied = psnr(given[scenes, nearest], truth)
        misled = psnr(wrong, truth)
        metrics = {
            "psnr": ours.mean(1),
            "copy": copied.mean(1),
            "mean_color": psnr(mean, truth).mean(1),
            "wrong_pose": misled.mean(1),
            "above_copy": (ours - copied).mean(1),
            "above_wrong_pose": (ours - misled).mean(1),
            "wins": (ours > copied).double().mean(1),
        }
        views = [*given.unbind(1), *truth.unbind(1), *renders.unbind(1)]
        return Scores(metrics, torch.cat(views, dim=-1))

    def exported(self, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Weights by published names, and the network's sizes."""
        assert isinstance(network, LVSM)
        named: Any = network.named_parameters()
        weights = {network.published_name(name): value.detach() for name, value in named}
        return weights, {METADATA_KEY: to_text(network.config)}


def split(num_views: int, num_contexts: int, step: int) -> tuple[list[int], list[int]]:
    """Positions of contexts and targets at a step: mostly as `ends`, else any.

    With any split, targets lie outside of the contexts too.
    """
    if step % 4 or num_views <= num_contexts:
        return ends(num_views, num_contexts)
    order = sorted(range(num_views), key=lambda view: mixed(step, view))
    return sorted(order[:num_contexts]), sorted(order[num_contexts:])


def predicted(
    network: nn.Module,
    batch: ViewBatch,
    context: list[int],
    targets: list[int],
    world_from_target: Float[Tensor, "scene target 4 4"] | None = None,
) -> Float[Tensor, "scene target 3 height width"]:
    """Views as the network says them, of cameras in the frame of the context's.

    Args:
        world_from_target: Poses in place of the targets' own.
    """
    poses = batch.world_from_camera
    asked = poses[:, targets] if world_from_target is None else world_from_target
    views = torch.cat([poses[:, context], asked], dim=1)
    intrinsics = batch.intrinsics[:, [*context, *targets]]
    # Cameras need all digits, whatever type products are taken in.
    with torch.autocast(batch.images.device.type, enabled=False):
        frame = normalization(poses[:, context])
        rays = plucker_maps(intrinsics, frame.apply_to_pose(views), *batch.size)
    seen = len(context)
    return network(batch.images[:, context], rays[:, :seen], rays[:, seen:])
