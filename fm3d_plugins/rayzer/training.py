"""RayZer trained on many scenes: photos in order in, cameras and other photos out.

As published it learns from photos alone (Jiang et al. 2025). **Departures**, options
both: cameras begin with those of matches (`RayZerConfig.correlation`), and a run may begin with a
share of steps that are told the true cameras (`warm_start`): a synthetic-pose warm start, then
self-supervised fine-tuning.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.backends.perceptual import PerceptualKind, perceptual_distance
from fm3d_plugins.cell_matching.losses import cameras_of, estimate_loss, path_losses
from fm3d_plugins.cell_matching.scores import path_scores
from fm3d_plugins.cell_matching.types import CameraEstimate
from fm3d_plugins.checkpoints import locate
from fm3d_plugins.data.sampling import ends
from fm3d_plugins.data.synthetic import mixed
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.geometry.cameras import camera_distances
from fm3d_plugins.geometry.poses import so3_log
from fm3d_plugins.geometry.precision import in_full_precision
from fm3d_plugins.network_training.model import NetworkModel, NetworkModelConfig, Scores
from fm3d_plugins.network_training.parts import Parts, PartSource
from fm3d_plugins.network_training.scores import pose_scores, psnr
from fm3d_plugins.nn.perceptual import Distance, rendering_loss
from fm3d_plugins.nn.sizes import to_text
from fm3d_plugins.nn.weights import matrix_names
from fm3d_plugins.rayzer.inference import METADATA_KEY, load_network
from fm3d_plugins.rayzer.network import GivenCameras, RayZer, RayZerConfig, RayZerOutputs
from fm3d_plugins.running.plan import RunPlan

SMALL = RayZerConfig(
    width=128,
    head_width=32,
    patch_size=4,
    camera_depth=1,
    scene_depth=3,
    decoder_depth=4,
    num_latents=128,
    num_views=5,
    num_contexts=3,
    correlation=True,
)
"""For images of 32 to 64 pixels."""

PERCEPTUAL_WEIGHT = 0.2

PARTS = {
    "patch_embedding": ["image_tokenizer", "pe_embedder"],
    "camera_estimator": [
        "cam_code",
        "temporal_pe_embedder",
        "transformer_encoder",
        "pose_predictor",
        "first_embedder",
    ],
    "encoder": [
        "image_tokenizer",
        "pe_embedder",
        "target_pose_tokenizer",
        "mlp_fuse",
        "scene_code",
        "transformer_encoder_geom",
    ],
    "decoder": ["target_pose_tokenizer2", "decoder_ln", "transformer_decoder"],
    "heads": ["image_head"],
    "matching": ["matching"],
}
"""The encoder is that of the scene."""


@dataclass
class RayzerTrainingModelConfig(NetworkModelConfig):
    """The network and what it learns."""

    family = "rayzer"

    _target: type = field(default_factory=lambda: RayzerTrainingModel)
    network: RayZerConfig = SMALL
    """Sizes of the network, if it is trained from nothing."""
    warm_start: float = 0.6
    """**Departure:** share of the run that is told the true cameras: they are learnt from, and
    views are rendered with them. Then photos are all that is learnt from, through predicted
    cameras. 0: as published, photos alone from the beginning."""
    camera_weight: float = 1.0
    """Of the loss of cameras in the warm start."""
    estimate_cells: int = 64
    """Matches of a scene, drawn anew in each step, that cameras are learnt from."""
    seed: int = 0
    """Of what disturbs true matches."""
    perceptual: PerceptualKind = "vgg19"
    """What is lowered besides the squared error; vgg19 is the published distance."""
    perceptual_weights: Path | None = None
    """Weights of VGG19 (MatConvNet's imagenet-vgg-verydeep-19.mat, or safetensors). None: the
    squared error alone, unless perceptual is lpips."""
    warm_steps: tyro.conf.Suppress[int] = 0
    """Of the whole run."""

    def resolve(self, device_type: str, max_num_iterations: int | None) -> RunPlan:
        """As of every network; the steps of the warm start follow from those of the run.

        Raises:
            ValueError: The share is none, or nothing would teach the matches.
        """
        if not 0 <= self.warm_start <= 1:
            raise ValueError(
                f"The warm start is {self.warm_start} of the run; expected a share from 0 to 1."
            )
        if self.network.correlation and not self.warm_start and not self.weights:
            raise ValueError(
                "Matches are learnt from true correspondences, and without a warm start there are "
                "none. Expected --pipeline.model.warm-start above 0, weights to begin with, or "
                "--pipeline.model.network.correlation False."
            )
        plan = super().resolve(device_type, max_num_iterations)
        self.warm_steps = math.ceil(self.warm_start * plan.steps)
        return plan


class RayzerTrainingModel(NetworkModel):
    """RayZer in training."""

    config: RayzerTrainingModelConfig
    network: RayZer

    def build(self) -> RayZer:
        """Random weights, or those that were asked for."""
        config = self.config
        if not config.weights:
            return RayZer(config.network)
        network = load_network(locate(config.weights), torch.float32, torch.device("cpu"))
        return network.requires_grad_(True)

    @cached_property
    def distance(self) -> Distance | None:
        """What is lowered besides the squared error, read when the first step asks for it."""
        return perceptual_distance(self.config.perceptual, self.config.perceptual_weights)

    def parts(self) -> Parts:
        """The encoder is that of the scene; the camera estimator is a part of its own."""
        return PARTS

    def part_sources(self) -> Sequence[PartSource[RayZer]]:
        """**Departure:** what fits is taken of networks that were trained here."""
        return [OTHER_NETWORK]

    def matrices(self) -> set[str]:
        """Those of linear layers within the blocks, and in the network that matches are given."""
        names = self.network.matrix_names()
        if self.network.matching is not None:
            names |= matrix_names(self.network, ["matching.pose.looks", "matching.pose.blocks"])
        return names

    def loss(
        self, network: nn.Module, batch: ViewBatch, step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The squared error of the target views, and a fifth of the perceptual distance.

        In the warm start the views are rendered with true cameras, and the loss of predicted
        cameras is added; where the network matches, those of matches and of cameras from them.

        Metrics: `psnr`, dB; `camera`, `matching` and `estimate`, losses of the warm start, not a
        number after it.
        """
        context, targets = split(batch.num_views, self.network.config.num_contexts, step)
        is_warm = step < self.config.warm_steps
        order = self.network.canonical_first(batch.num_views)
        ordered = batch.of_views(order)
        with torch.autocast(batch.images.device.type, enabled=False):
            truth = cameras_of(ordered) if is_warm else None
        given = None if truth is None else given_cameras(truth, order, batch)
        outputs = predicted(network, batch, context, targets, given)
        rendering = rendering_loss(
            outputs.renders, batch.images[:, targets], self.distance, PERCEPTUAL_WEIGHT
        )
        nothing = torch.full((), torch.nan)
        metrics = {"psnr": rendering.psnr, "camera": nothing}
        if self.network.matching is not None:
            metrics |= {"matching": nothing, "estimate": nothing}
        if truth is None:
            return rendering.total, metrics
        cameras = estimate_loss([outputs.cameras.estimate(batch.size).of_views(order)], truth)
        total = rendering.total + self.config.camera_weight * cameras
        metrics["camera"] = cameras.detach()
        if outputs.matched is not None:
            assert self.network.matching is not None
            learnt = path_losses(
                self.network.matching,
                outputs.matched,
                ordered,
                truth,
                mixed(self.config.seed, step),
                self.config.estimate_cells,
            )
            metrics |= {"matching": learnt.matching.detach(), "estimate": learnt.estimate.detach()}
            total = total + learnt.matching + learnt.estimate
        return total, metrics

    def score(self, network: nn.Module, batch: ViewBatch) -> Scores:
        """PSNR of the views between the context's, and errors of cameras, beside trivial answers.

        Metrics, of each scene: `psnr`, dB, mean over the targets, with predicted cameras;
        `identity`: with all cameras at the canonical one; `above_identity`: the difference, which
        is 0 if cameras play no part; `copy`: of the context view that is nearest by the true
        cameras; `above_copy`; `rotation_correlation`: the cosine between predicted and true
        rotation vectors of all cameras as one vector, 0 for cameras that all look one way;
        `rotation`, degrees, and `auc30`, percent, over pairs of views; `rotation_identity`: of
        cameras that stand still. Where depth is known `true`: with true cameras; with matches
        `auc30_guess`, `auc30_first` and `match_error` as `path_scores`.
        """
        context, targets = ends(batch.num_views, self.network.config.num_contexts)
        order = self.network.canonical_first(batch.num_views)
        truth, given = batch.images[:, targets], batch.images[:, context]
        outputs = predicted(network, batch, context, targets)
        poses = outputs.cameras.world_from_camera().float()
        intrinsics = outputs.cameras.intrinsics(*batch.size).float()
        still = GivenCameras(torch.eye(4).to(poses).expand_as(poses), intrinsics)
        at_identity = predicted(network, batch, context, targets, still)
        nearest = torch.stack(
            [
                camera_distances(pose[targets], pose[context]).argmin(1)
                for pose in batch.world_from_camera
            ]
        )
        scenes = torch.arange(len(batch), device=nearest.device)[:, None]
        renders = outputs.renders.float()
        ours, identity = psnr(renders, truth), psnr(at_identity.renders.float(), truth)
        copied = psnr(given[scenes, nearest], truth)
        pairs = zip(poses, batch.world_from_camera, strict=True)
        found = [pose_scores(own, true) for own, true in pairs]
        metrics = {
            "psnr": ours.mean(1),
            "identity": identity.mean(1),
            "above_identity": (ours - identity).mean(1),
            "copy": copied.mean(1),
            "above_copy": (ours - copied).mean(1),
            "rotation_correlation": rotation_correlation(poses, batch.world_from_camera, order[0]),
        }
        for name in ("rotation", "rotation_identity", "auc30"):
            metrics[name] = torch.tensor([each[name] for each in found])
        if batch.depth is not None:
            ordered = batch.of_views(order)
            with torch.autocast(batch.images.device.type, enabled=False):
                true = given_cameras(cameras_of(ordered), order, batch)
            told = predicted(network, batch, context, targets, true).renders.float()
            metrics["true"] = psnr(told, truth).mean(1)
            if outputs.matched is not None:
                metrics |= path_scores(outputs.matched, ordered)
        views = [*given.unbind(1), *truth.unbind(1), *renders.unbind(1)]
        return Scores(metrics, torch.cat(views, dim=-1))

    def exported(self, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Weights by published names, and the network's sizes."""
        assert isinstance(network, RayZer)
        weights = {
            network.published_name(name): value.detach()
            for name, value in network.named_parameters()
        }
        return weights, {METADATA_KEY: to_text(network.config)}


@torch.no_grad()
def take_parts(network: RayZer, others: Mapping[str, Tensor]) -> None:
    """Give a network those weights of another that fit, by name and shape.

    LVSM's blocks, which have one stack, become those of the rendering decoder.

    Args:
        others: By published names.

    Raises:
        ValueError: Nothing fits.
    """
    known = dict(others)
    for name, value in others.items():
        if name.startswith("transformer_blocks."):
            known[name.replace("transformer_blocks", "transformer_decoder")] = value
    if "target_pose_tokenizer.1.weight" in known:
        known["target_pose_tokenizer2.1.weight"] = known["target_pose_tokenizer.1.weight"]
    taken = 0
    for name, parameter in network.named_parameters():
        value = known.get(network.published_name(name))
        if value is not None and value.shape == parameter.shape:
            parameter.copy_(value)
            taken += 1
    if not taken:
        raise ValueError(
            "No part fits into this network. Expected weights of vggt-train with matches of "
            "features, or of lvsm-train with the same width. Leave them out of "
            "--pipeline.model.parts-of."
        )


OTHER_NETWORK: PartSource[RayZer] = PartSource(
    "a network of this package, what fits", lambda weights: True, take_parts
)


def split(num_views: int, num_contexts: int, step: int) -> tuple[list[int], list[int]]:
    """Positions of contexts and targets at a step: the outermost are contexts, others are drawn.

    **Departure:** at every fourth step all are drawn, as a run of the method `rayzer` holds out
    the first photo too.
    """
    fixed = [0, num_views - 1] if step % 4 else []
    drawn = sorted(set(range(num_views)) - set(fixed), key=lambda view: mixed(step, view))
    context = sorted([*fixed, *drawn][:num_contexts])
    return context, [view for view in range(num_views) if view not in context]


def predicted(
    network: nn.Module,
    batch: ViewBatch,
    context: list[int],
    targets: list[int],
    given: GivenCameras | None = None,
) -> RayZerOutputs:
    """What the network says of a batch's photos, of which it sees nothing else."""
    device = batch.images.device
    numbers = (torch.tensor(each, device=device) for each in (context, targets))
    return network(batch.images, *numbers, given)


def given_cameras(truth: CameraEstimate, order: list[int], batch: ViewBatch) -> GivenCameras:
    """True cameras in the order of the photos.

    Args:
        truth: In the order of `RayZer.canonical_first`.
    """
    back = [order.index(view) for view in range(len(order))]
    return GivenCameras(truth.of_views(back).first_from_camera(), batch.intrinsics)


@in_full_precision
def rotation_correlation(
    estimated: Float[Tensor, "scene view 4 4"],
    true: Float[Tensor, "scene view 4 4"],
    reference: int,
) -> Float[Tensor, " scene"]:
    """Cosine between all cameras' rotation vectors, estimated and true, from a reference view.

    1: right but for one common factor; 0: unrelated, or cameras that do not turn.
    """
    turns = []
    for poses in (estimated, true):
        rotation = poses[..., :3, :3]
        turns.append(so3_log(rotation[:, reference, None].mT @ rotation).flatten(1))
    ours, theirs = turns
    lengths = (ours.norm(dim=1) * theirs.norm(dim=1)).clamp_min(1e-9)
    return (ours * theirs).sum(1) / lengths
