"""VGGT trained on many scenes: photos in, cameras and depth out (Wang et al. 2025, section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fm3d_plugins.cell_matching.losses import path_losses, true_cameras
from fm3d_plugins.cell_matching.path import MatchingConfig
from fm3d_plugins.cell_matching.scores import path_scores
from fm3d_plugins.checkpoints import load, locate
from fm3d_plugins.data.synthetic import mixed
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.geometry.poses import invert
from fm3d_plugins.network_training.model import NetworkModel, NetworkModelConfig, Scores
from fm3d_plugins.network_training.parts import Parts, PartSource
from fm3d_plugins.network_training.scenes import each_scene
from fm3d_plugins.network_training.scores import pose_scores
from fm3d_plugins.nn.attention import LayerScale
from fm3d_plugins.nn.weights import matrix_names
from fm3d_plugins.vggt.aggregator import AggregatorConfig
from fm3d_plugins.vggt.camera_head import CameraHeadConfig
from fm3d_plugins.vggt.configuration import METADATA_KEY, to_text
from fm3d_plugins.vggt.dense_head import DenseHeadConfig
from fm3d_plugins.vggt.inference import HEADS, architecture
from fm3d_plugins.vggt.losses import GroundTruth, LossConfig, camera_loss, normalize, total_loss
from fm3d_plugins.vggt.network import VGGT
from fm3d_plugins.vggt.pose_encoding import decode, encode
from fm3d_plugins.vggt.weights import is_dinov2, load_official, take_dinov2

PARTS = {
    "patch_embedding": ["aggregator.patch_embed"],
    "encoder": ["aggregator"],
    "camera_head": ["camera_head"],
    "depth_head": ["depth_head"],
    "heads": ["camera_head", "depth_head"],
    "matching": ["matching"],
}
"""The encoder is what the paper calls the backbone."""


DINOV2: PartSource[VGGT] = PartSource(
    "DINOv2 with registers, the patch embedding", is_dinov2, take_dinov2
)


@dataclass(frozen=True)
class SmallVGGT:
    """Sizes of a network for images of 32 to 96 pixels; all its heads are small."""

    width: int = 128
    depth: int = 3
    """Pairs of blocks."""
    mlp_ratio: int = 2
    """Hidden channels of the blocks over their width; published: 4."""
    head_width: int = 32
    patch_size: int = 8
    """Side of a patch, pixels; where features are matched, a multiple of 4."""
    patch_embedding: str = "conv"
    """How patches become tokens: one convolution, or a DINOv2 of the same width, whose patches have
    14 pixels (dinov2_vits14_reg: 384)."""
    camera_depth: int = 1
    """Blocks of the camera head."""
    camera_rounds: int = 4
    dense_features: int = 16
    """Channels of the depth head."""
    layer_scale: float = 1.0
    """Initial factor of the residual branches; the published network, six times as deep, began
    with 0.01."""
    correlation: bool = True
    """**Departure:** begin with cameras from matches of features (`cell_matching/path.py`). Without
    them small networks stay at cameras that stand still."""

    def build(self) -> VGGT:
        """With random weights; cameras and depth are all that it says."""
        last, dense = self.depth - 1, self.dense_features
        layers = (0, round(last / 3), round(2 * last / 3), last)
        network = VGGT(
            aggregator=AggregatorConfig(
                width=self.width,
                depth=self.depth,
                num_heads=self.width // self.head_width,
                mlp_ratio=self.mlp_ratio,
                patch_embedding=self.patch_embedding,
                patch_size=self.patch_size,
            ),
            camera=CameraHeadConfig(
                depth=self.camera_depth,
                num_heads=2 * self.width // self.head_width,
                mlp_ratio=self.mlp_ratio,
                rounds=self.camera_rounds,
            ),
            depth=DenseHeadConfig(dense, (dense, dense, 2 * dense, 2 * dense), layers),
            points=None,
            tracks=None,
            matching=MatchingConfig() if self.correlation else None,
        )
        for module in network.modules():
            if isinstance(module, LayerScale):
                nn.init.constant_(module.gamma, self.layer_scale)
        if self.correlation and network.camera_head is not None:
            # The first estimate is good: changes begin with none.
            last = network.camera_head.pose_branch.fc2
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        return network


@dataclass
class VggtTrainingModelConfig(NetworkModelConfig):
    """The network and what it learns."""

    family = "vggt"

    _target: type = field(default_factory=lambda: VggtTrainingModel)
    network: SmallVGGT = SmallVGGT()
    """Sizes of the network, if it is trained from nothing."""
    losses: LossConfig = LossConfig()
    """Weights and variants of the published loss."""
    matching_weight: float = 1.0
    """Of the matches' loss, where the network matches."""
    estimate_weight: float = 1.0
    """Of the loss of cameras from matches, disturbed true ones and found ones."""
    estimate_cells: int = 64
    """Matches of a scene, drawn anew in each step, that cameras are learnt from."""
    seed: int = 0
    """Of what disturbs true matches."""


class VggtTrainingModel(NetworkModel):
    """VGGT in training."""

    config: VggtTrainingModelConfig

    def build(self) -> VGGT:
        """Random weights, or those that were asked for, with the heads of cameras and depth."""
        if not self.config.weights:
            return self.config.network.build()
        file = locate(self.config.weights)
        network = architecture(file.path)
        load_official(network, load(file))
        network.point_head = network.track_head = None
        return network

    def parts(self) -> Parts:
        """Either head has a name of its own too."""
        return PARTS

    def part_sources(self) -> Sequence[PartSource[VGGT]]:
        """The patch embedding can be DINOv2's."""
        return [DINOV2]

    @property
    def patch_size(self) -> int:
        """Pixels, of the backbone."""
        assert isinstance(self.network, VGGT)
        return self.network.aggregator.config.patch_size

    def matrices(self) -> set[str]:
        """Those of the backbone, and of the network that makes cameras of matches."""
        assert isinstance(self.network, VGGT)
        names = self.network.matrix_names()
        if self.network.matching is not None:
            names |= matrix_names(self.network, ["matching.pose.looks", "matching.pose.blocks"])
        return names

    def loss(
        self, network: nn.Module, batch: ViewBatch, step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The published loss, of cameras and depth, of each scene by itself, and the mean.

        **Departure:** the published one is of all scenes of a process: the largest 2 % of their
        errors are left out together, and scenes with more known pixels count more. This one is the
        same however many processes share the scenes.

        Where the network matches, the losses of matches and of cameras from them are added.

        Metrics: the parts `camera` and `depth`, and `camera_over_identity`, the loss of the cameras
        as a share of that of cameras which all stand still and know their fields of view. Near 1,
        nothing is learnt of the poses, however small the loss is. With matches: their loss and that
        of cameras from them, `matching` and `estimate`.
        """
        truth, _ = normalize(GroundTruth.of(batch))
        # All photos in one pass: many small ones take a CPU longer.
        count = batch.images.shape[0] * batch.images.shape[1]
        outputs = network(batch.images, heads=HEADS, frames_per_pass=count)
        said = replace(outputs, matched=None)
        losses = [
            total_loss(scene, true, self.config.losses)
            for scene, true in zip(each_scene(said), each_scene(truth), strict=True)
        ]
        total = torch.stack([each.total for each in losses]).mean()
        camera = torch.stack([each.camera.total for each in losses if each.camera]).mean().detach()
        depth = torch.stack([each.depth.total for each in losses if each.depth]).mean().detach()
        rounds = self.config.network.camera_rounds
        still = camera_loss([standing(truth)] * rounds, truth, norm=self.config.losses.camera_norm)
        metrics = {
            "camera": camera,
            "depth": depth,
            "camera_over_identity": camera / still.total,
        }
        if outputs.matched is None:
            return total, metrics
        config = self.config
        assert isinstance(self.network, VGGT) and self.network.matching is not None
        learnt = path_losses(
            self.network.matching,
            outputs.matched,
            batch,
            true_cameras(truth.camera_from_world, truth.intrinsics, batch.size),
            mixed(config.seed, step),
            config.estimate_cells,
        )
        metrics |= {"matching": learnt.matching.detach(), "estimate": learnt.estimate.detach()}
        total = total + config.matching_weight * learnt.matching
        return total + config.estimate_weight * learnt.estimate, metrics

    def score(self, network: nn.Module, batch: ViewBatch) -> Scores:
        """Errors of poses and depth, beside those of trivial answers.

        Metrics, of each scene: `auc30` and `auc15`, percent, over its pairs of views; `rotation`,
        degrees, mean over pairs; `auc30_identity` and `rotation_identity`: of cameras that stand
        still; with matches `auc30_first`: of the camera head's first estimate, `auc30_guess`: of
        that before the adjustment, `match_error`: the median error of matches, pixels, of cells
        that are seen; `abs_rel`: mean of |depth - truth| / truth after the medians were made equal;
        `abs_rel_constant`: of the same depth everywhere.
        """
        outputs = network(batch.images, heads=HEADS)
        assert outputs.pose_encodings is not None and outputs.depth is not None
        assert batch.depth is not None and batch.is_valid is not None
        poses, _ = decode(outputs.pose_encodings[-1].float(), batch.size)
        found = [pose_scores(invert(own), true) for own, true in
                 zip(poses, batch.world_from_camera, strict=True)]  # fmt: skip
        depth, truth = outputs.depth.float(), batch.depth
        metrics = {name: torch.tensor([each[name] for each in found]) for name in found[0]}
        metrics |= {
            "abs_rel": _relative_error(depth, truth, batch.is_valid),
            "abs_rel_constant": _relative_error(torch.ones_like(truth), truth, batch.is_valid),
        }
        if outputs.matched is not None:
            metrics |= path_scores(outputs.matched, batch)
        is_known = batch.is_valid[:, 0]
        shades = [_shades(truth[:, 0], is_known), _shades(depth[:, 0], torch.ones_like(is_known))]
        pictures = [batch.images[:, 0], *shades]
        return Scores(metrics, torch.cat(pictures, dim=-1))

    def exported(self, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Weights by published names, and the network's sizes."""
        assert isinstance(network, VGGT)
        assert network.camera_head is not None and network.depth_head is not None
        parts = {
            "aggregator": network.aggregator.config,
            "camera": network.camera_head.config,
            "depth": network.depth_head.config,
            "points": None,
            "tracks": None,
            "matching": network.matching and network.matching.config,
        }
        weights = {name: value.detach() for name, value in network.named_parameters()}
        return weights, {METADATA_KEY: to_text(parts)}


def standing(truth: GroundTruth) -> Float[Tensor, "*batch view 9"]:
    """Pose encodings of cameras at the first one's place, with their true fields of view."""
    still = torch.eye(4).to(truth.camera_from_world).expand_as(truth.camera_from_world)
    return encode(still, truth.intrinsics, (truth.depth.shape[-2], truth.depth.shape[-1]))


def _relative_error(
    depth: Float[Tensor, "scene view height width"],
    truth: Float[Tensor, "scene view height width"],
    is_valid: Bool[Tensor, "scene view height width"],
) -> Float[Tensor, " scene"]:
    """Mean of |depth - truth| / truth where this is known, after the median of each scene was made
    equal; nan where nothing is."""
    said, true = (torch.where(is_valid, each, torch.nan).flatten(1) for each in (depth, truth))
    ratio = true.nanmedian(1).values / said.nanmedian(1).values.clamp_min(1e-6)
    return ((said * ratio[:, None] - true).abs() / true).nanmean(1)


def _shades(
    depth: Float[Tensor, "scene height width"], is_known: Bool[Tensor, "scene height width"]
) -> Float[Tensor, "scene 3 height width"]:
    """Near is bright, what is not known black; each scene's own range."""
    known = is_known.flatten(1)
    flat = (1 / depth.clamp_min(1e-6)).flatten(1)
    low = torch.where(known, flat, torch.inf).amin(1, keepdim=True)
    high = torch.where(known, flat, 0).amax(1, keepdim=True)
    shades = (torch.where(known, flat, low) - low) / (high - low).clamp_min(1e-6)
    shades = torch.where(known, shades, 0).reshape(depth.shape)
    return shades[:, None].expand(-1, 3, -1, -1)
