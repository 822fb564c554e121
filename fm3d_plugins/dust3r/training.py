"""DUSt3R trained on many scenes: pairs of photos in, points out (Wang et al. 2024, section 3.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fm3d_plugins.cell_matching.losses import pair_losses
from fm3d_plugins.cell_matching.scores import path_scores
from fm3d_plugins.checkpoints import load, locate
from fm3d_plugins.data.synthetic import mixed
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.dust3r.configuration import METADATA_KEY, to_text
from fm3d_plugins.dust3r.inference import architecture
from fm3d_plugins.dust3r.losses import (
    LossConfig,
    PairTruth,
    confidence_loss,
    normalized,
    pair_errors,
    regression_loss,
)
from fm3d_plugins.dust3r.network import (
    DUSt3R,
    DUSt3RConfig,
    MatchedPrediction,
    PairPrediction,
)
from fm3d_plugins.dust3r.relative_pose import first_from_second
from fm3d_plugins.dust3r.weights import MATCHING, is_pretraining, load_official
from fm3d_plugins.geometry.pointmaps import pointmap_from_depth
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.geometry.precision import in_full_precision
from fm3d_plugins.network_training.model import NetworkModel, NetworkModelConfig, Scores
from fm3d_plugins.network_training.parts import Parts, PartSource
from fm3d_plugins.network_training.scenes import each_scene
from fm3d_plugins.network_training.scores import pose_scores
from fm3d_plugins.nn.weights import matrix_names

SMALL = DUSt3RConfig(
    encoder_width=128,
    encoder_depth=3,
    encoder_heads=4,
    decoder_width=128,
    decoder_depth=3,
    decoder_heads=4,
    mlp_ratio=2,
    patch_size=8,
    head="linear",
    correlation=True,
)
"""For images of 32 to 96 pixels."""

PARTS = {
    "patch_embedding": ["patch_embed"],
    "encoder": ["patch_embed", "enc_blocks", "enc_norm"],
    "decoder": ["mask_token", "decoder_embed", "dec_blocks", "dec_blocks2", "dec_norm"],
    "heads": ["downstream_head1", "downstream_head2"],
    "matching": ["matching"],
}
"""Both decoders are one part."""

NOWHERE = 0.75
"""The product of features, of a cell and its best place, below which it is likely seen nowhere."""


@dataclass
class Dust3rTrainingModelConfig(NetworkModelConfig):
    """The network and what it learns."""

    family = "dust3r"

    _target: type = field(default_factory=lambda: Dust3rTrainingModel)
    network: DUSt3RConfig = SMALL
    """Sizes of the network, if it is trained from nothing."""
    losses: LossConfig = LossConfig()
    """Variants of the published loss."""
    matching_weight: float = 1.0
    """Of the matches' loss, where the network matches."""
    estimate_weight: float = 1.0
    """Of the loss of cameras from matches, disturbed true ones and found ones."""
    estimate_cells: int = 64
    """Matches of a scene, drawn anew in each step, that cameras are learnt from."""
    matching_every: int = 3
    """Steps from one to the next in which the matching learns, where the network matches; it takes
    a third of such a step's time."""
    seed: int = 0
    """Of what disturbs true matches."""


class Dust3rTrainingModel(NetworkModel):
    """DUSt3R in training, on the first and the last of each scene's views."""

    config: Dust3rTrainingModelConfig

    def build(self) -> DUSt3R:
        """Random weights, or those that were asked for."""
        if self.config.weights:
            file = locate(self.config.weights)
            network = architecture(file.path)
            load_official(network, load(file))
            return network
        network = DUSt3R(**asdict(self.config.network))
        if network.matching is not None:
            network.begin_with_matches()
        return network

    def parts(self) -> Parts:
        """Both decoders are one part, as are both heads."""
        return PARTS

    def part_sources(self) -> Sequence[PartSource[DUSt3R]]:
        """Encoder and decoders can be those of pretraining, the matching another network's."""
        return [CROCO, OTHER_MATCHING]

    def matrices(self) -> set[str]:
        """Those of the encoder and the decoders, and of what makes cameras of matches."""
        assert isinstance(self.network, DUSt3R)
        names = self.network.matrix_names()
        if self.network.matching is not None:
            parts = ["matching.path.pose.looks", "matching.path.pose.blocks"]
            names |= matrix_names(self.network, parts)
        return names

    def loss(
        self, network: nn.Module, batch: ViewBatch, step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Errors weighted by confidence, and beside it (`points`) the plain errors of both photos,
        in units of the mean distance; of each pair by itself, and the mean.

        **Departure:** the published means run over the pixels of all pairs of a process, so those
        with more known pixels count more. These are the same however many processes share them.

        Where the network matches, the losses of matches, both ways, and of cameras from them are
        added in some of the steps: `matching` and `estimate`, 0 in the others.
        """
        pair = batch.of_views([0, batch.num_views - 1])
        prediction = _said(network, pair)
        said, truth = PairPrediction(**_tensors(prediction)), PairTruth.of(pair)
        pairs = list(zip(each_scene(said), each_scene(truth), strict=True))
        losses = self.config.losses
        total = torch.stack([confidence_loss(*each, losses).total for each in pairs]).mean()
        with torch.no_grad():
            plain = torch.stack([regression_loss(*each, losses).total for each in pairs]).mean()
        metrics = {"points": plain / 2}
        if not isinstance(prediction, MatchedPrediction):
            return total, metrics
        config = self.config
        if step % config.matching_every:
            zero = plain.new_zeros(())
            return total, metrics | {"matching": zero, "estimate": zero}
        assert isinstance(self.network, DUSt3R) and self.network.matching is not None
        learnt = pair_losses(
            self.network.matching.path,
            prediction.matched,
            pair,
            mixed(config.seed, step),
            config.estimate_cells,
        )
        metrics |= {"matching": learnt.matching.detach(), "estimate": learnt.estimate.detach()}
        total = total + config.matching_weight * learnt.matching
        return total + config.estimate_weight * learnt.estimate, metrics

    def score(self, network: nn.Module, batch: ViewBatch) -> Scores:
        """Mean error of points in units of their mean distance, beside that of trivial answers.

        Metrics, of each scene: `points`, and `first` and `second` of either photo; `flat`: of one
        depth everywhere and a second camera at the first one's place, with the true field of view;
        `mean`: of the mean of the true points of the batch's scenes, pixel by pixel, which one
        scene alone has not; `still`: of
        the true depth of both photos, the second camera at the first one's place. `auc30`, `auc15`
        and `rotation`, `auc30_identity` and `rotation_identity`, as `pose_scores`: of the second
        camera as its points tell. With matches also what `path_scores` says.
        """
        pair = batch.of_views([0, batch.num_views - 1])
        truth, prediction = PairTruth.of(pair), _said(network, pair)
        assert pair.depth is not None
        flat = pointmap_from_depth(torch.ones_like(pair.depth), pair.intrinsics)
        still = pointmap_from_depth(pair.depth, pair.intrinsics)
        true = true_points(pair)
        assert pair.is_valid is not None
        known = pair.is_valid[..., None]
        mean = (torch.where(known, true, 0).sum(0) / known.sum(0).clamp_min(1)).expand_as(true)
        if len(true) == 1:  # The mean would be the truth itself.
            mean = torch.full_like(true, torch.nan)
        metrics = {
            name: _errors(points, truth)
            for name, points in (
                ("points", (prediction.points_first, prediction.points_second_in_first)),
                ("flat", (flat[:, 0], flat[:, 1])),
                ("mean", (mean[:, 0], mean[:, 1])),
                ("still", (still[:, 0], still[:, 1])),
            )
        }
        means = {name: (first + second) / 2 for name, (first, second) in metrics.items()}
        means |= {"first": metrics["points"][0], "second": metrics["points"][1]}
        found = [
            pose_scores(_pose(prediction, row), pair.world_from_camera[row].cpu())
            for row in range(len(pair))
        ]
        means |= {name: torch.tensor([each[name] for each in found]) for name in found[0]}
        if isinstance(prediction, MatchedPrediction):
            means |= path_scores(prediction.matched.forth, pair)
        said = torch.stack([prediction.points_first, prediction.points_second_in_first], dim=1)
        return Scores(means, _picture(pair.images, true[..., 2], said[..., 2], pair.is_valid))

    def exported(self, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Weights by published names, and the network's sizes."""
        assert isinstance(network, DUSt3R)
        weights = {name: value.detach() for name, value in network.named_parameters()}
        return weights, {METADATA_KEY: to_text(asdict(network.config))}


def take_matching(network: DUSt3R, weights: Mapping[str, Tensor]) -> None:
    """Give a network the matching of another one, but for what that made of its tokens.

    The tokens of a network whose photos see each other tell cells that are seen in one photo alone.
    Without them such a cell is one that fits nowhere well: by less than `NOWHERE` of the most.

    Args:
        weights: All of the other network's, by name.

    Raises:
        ValueError: One of both does not match, or with other sizes.
    """
    matching = network.matching
    if matching is None:
        raise ValueError(
            "The network does not match, and nothing would be taken. Expected one with "
            "--pipeline.model.network.correlation True. Leave the weights out, or set it."
        )
    own = {
        name: value
        for name, value in matching.path.state_dict().items()
        if not name.startswith(("features.tokens.", "features.token_norm."))
    }
    given = {}
    for prefix in ("matching.path.", "matching."):
        given = {name: weights[prefix + name] for name in own if prefix + name in weights}
        if given:
            break
    wrong = [name for name in own if name not in given or given[name].shape != own[name].shape]
    if wrong:
        raise ValueError(
            f"Of {len(own)} weights of a matching, {len(wrong)} are absent or of another size "
            f"(first: {wrong[0]}). Expected those of a network of this package that matches "
            "photos, in its usual sizes. Choose another file."
        )
    matching.path.load_state_dict(given, strict=False)
    with torch.no_grad():
        matching.path.nowhere.copy_(NOWHERE * matching.path.sharpness.exp())


CROCO: PartSource[DUSt3R] = PartSource(
    "CroCo version 2 before DUSt3R, encoder and decoders",
    is_pretraining,
    partial(load_official, pretraining=True),
)
OTHER_MATCHING: PartSource[DUSt3R] = PartSource(
    "a network of this package that matches, the matching",
    lambda weights: any(name.startswith(MATCHING) for name in weights),
    take_matching,
)


@in_full_precision
def true_points(pair: ViewBatch) -> Float[Tensor, "scene 2 height width 3"]:
    """In the first camera's frame, their mean distance being 1."""
    first_from_world = invert(pair.world_from_camera[:, 0])
    points = transform_points(first_from_world, pair.points().flatten(1, 3))
    assert pair.is_valid is not None
    scaled, _ = normalized(points, pair.is_valid.flatten(1), "mean_distance")
    return scaled.unflatten(1, (2, *pair.size))


def _said(network: nn.Module, pair: ViewBatch) -> PairPrediction:
    """Points of both views, in float32."""
    said = network(2 * pair.images[:, 0] - 1, 2 * pair.images[:, 1] - 1)
    return replace(said, **{name: value.float() for name, value in _tensors(said).items()})


def _tensors(said: PairPrediction) -> dict[str, Tensor]:
    return {field.name: getattr(said, field.name) for field in fields(PairPrediction)}


def _pose(prediction: PairPrediction, row: int) -> Float[Tensor, "2 4 4"]:
    """Cameras of one pair of a batch in the first one's frame; both there if none is found."""
    own = {name: value[row].cpu() for name, value in _tensors(prediction).items()}
    still = torch.eye(4)
    try:
        return torch.stack([still, first_from_second(PairPrediction(**own))])
    except ValueError:
        return torch.stack([still, still])


def _picture(
    images: Float[Tensor, "scene 2 3 height width"],
    true: Float[Tensor, "scene 2 height width"],
    said: Float[Tensor, "scene 2 height width"],
    is_known: Bool[Tensor, "scene 2 height width"],
) -> Float[Tensor, "scene 3 height _"]:
    """Both photos, and true and said depth in the first camera's frame; near is bright, what is
    not known black."""
    shades = []
    for depth, is_shown in ((true, is_known), (said, torch.ones_like(is_known))):
        middle = torch.where(is_shown, depth, torch.nan).flatten(1).nanmedian(1).values
        near = torch.where(is_shown, middle[:, None, None, None] / depth.clamp_min(1e-3), 0)
        shades.append((near / 2)[:, :, None].expand(-1, -1, 3, -1, -1))
    return torch.cat([view for part in (images, *shades) for view in part.unbind(1)], dim=-1)


def _errors(
    points: tuple[Float[Tensor, "scene height width 3"], Float[Tensor, "scene height width 3"]],
    truth: PairTruth,
) -> tuple[Float[Tensor, " scene"], Float[Tensor, " scene"]]:
    """Mean error of each scene's first and second photo, of pixels that are known; nan without."""
    ones = torch.ones_like(points[0][..., 0])
    said = PairPrediction(points[0], ones, points[1], ones)
    each = [
        pair_errors(_row(said, row), _row(truth, row), LossConfig()) for row in range(len(ones))
    ]
    first = torch.stack([errors.first.mean() for errors in each])
    return first, torch.stack([errors.second.mean() for errors in each])


Sides = TypeVar("Sides", PairPrediction, PairTruth)


def _row(sides: Sides, row: int) -> Sides:
    """One scene of a batch."""
    names = (field.name for field in fields(sides))
    return replace(sides, **{name: getattr(sides, name)[row, None] for name in names})
