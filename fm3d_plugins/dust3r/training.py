"""DUSt3R trained on many scenes: pairs of photos in, points out (Wang et al. 2024, section 3.3)."""

from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.checkpoints import load, locate
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.dust3r.configuration import METADATA_KEY, to_text
from fm3d_plugins.dust3r.inference import architecture
from fm3d_plugins.dust3r.losses import (
    LossConfig,
    PairTruth,
    confidence_loss,
    pair_errors,
    regression_loss,
)
from fm3d_plugins.dust3r.network import DUSt3R, DUSt3RConfig, PairPrediction
from fm3d_plugins.dust3r.weights import load_official
from fm3d_plugins.geometry.pointmaps import pointmap_from_depth
from fm3d_plugins.network_training.model import NetworkModel, NetworkModelConfig, Scores

SMALL = DUSt3RConfig(
    encoder_width=128,
    encoder_depth=4,
    encoder_heads=4,
    decoder_width=128,
    decoder_depth=4,
    decoder_heads=4,
    patch_size=8,
    head="linear",
)
"""For images of 32 to 96 pixels."""


@dataclass
class Dust3rTrainingModelConfig(NetworkModelConfig):
    """The network and what it learns."""

    _target: type = field(default_factory=lambda: Dust3rTrainingModel)
    network: DUSt3RConfig = SMALL
    """Sizes of the network, if it is trained from nothing."""
    losses: LossConfig = LossConfig()
    """Variants of the published loss."""


class Dust3rTrainingModel(NetworkModel):
    """DUSt3R in training, on the first and the last of each scene's views."""

    config: Dust3rTrainingModelConfig

    def build(self) -> DUSt3R:
        """Random weights, or those that were asked for."""
        if not self.config.weights:
            return DUSt3R(**asdict(self.config.network))
        file = locate(self.config.weights)
        network = architecture(file.path)
        load_official(network, load(file))
        return network

    def matrices(self) -> set[str]:
        """Those of the encoder and the decoders."""
        assert isinstance(self.network, DUSt3R)
        return self.network.matrix_names()

    def loss(
        self, network: nn.Module, batch: ViewBatch, step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Errors weighted by confidence, and beside it (`points`) the plain errors of both photos,
        in units of the mean distance."""
        prediction = _said(network, batch)
        truth = PairTruth.of(batch, 0, batch.num_views - 1)
        loss = confidence_loss(prediction, truth, self.config.losses)
        with torch.no_grad():
            plain = regression_loss(prediction, truth, self.config.losses)
        return loss.total, {"points": plain.total / 2}

    def score(self, network: nn.Module, batch: ViewBatch) -> Scores:
        """Mean error of points in units of their mean distance, beside that of trivial answers.

        Metrics, of each scene: `points`, and `first` and `second` of either photo; `flat`: of one
        depth everywhere and a second camera at the first one's place, with the true field of view;
        `still`: of the true depth of both photos, the second camera at the first one's place.
        """
        last = batch.num_views - 1
        truth, prediction = PairTruth.of(batch, 0, last), _said(network, batch)
        pair = batch.of_views([0, last])
        assert pair.depth is not None
        flat = pointmap_from_depth(torch.ones_like(pair.depth), pair.intrinsics)
        still = pointmap_from_depth(pair.depth, pair.intrinsics)
        metrics = {
            name: _errors(points, truth)
            for name, points in (
                ("points", (prediction.points_first, prediction.points_second_in_first)),
                ("flat", (flat[:, 0], flat[:, 1])),
                ("still", (still[:, 0], still[:, 1])),
            )
        }
        means = {name: (first + second) / 2 for name, (first, second) in metrics.items()}
        means |= {"first": metrics["points"][0], "second": metrics["points"][1]}
        depth = torch.cat([pair.depth[:, 0], prediction.points_first[..., 2]], dim=-1)
        near = depth.median() / depth.clamp_min(1e-3)
        views = torch.cat([*pair.images.unbind(1), near[:, None].expand(-1, 3, -1, -1) / 2], -1)
        return Scores(means, views)

    def exported(self, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Weights by published names, and the network's sizes."""
        assert isinstance(network, DUSt3R)
        weights = {name: value.detach() for name, value in network.named_parameters()}
        return weights, {METADATA_KEY: to_text(asdict(network.config))}


def _said(network: nn.Module, batch: ViewBatch) -> PairPrediction:
    """Points of the first and the last views."""
    said = network(2 * batch.images[:, 0] - 1, 2 * batch.images[:, -1] - 1)
    return PairPrediction(*(value.float() for value in vars(said).values()))


def _errors(
    points: tuple[Float[Tensor, "scene height width 3"], Float[Tensor, "scene height width 3"]],
    truth: PairTruth,
) -> tuple[Float[Tensor, " scene"], Float[Tensor, " scene"]]:
    """Mean error of each scene's first and second photo; all pixels count."""
    ones = torch.ones_like(points[0][..., 0])
    errors = pair_errors(PairPrediction(points[0], ones, points[1], ones), truth, LossConfig())
    return errors.first.view(len(ones), -1).mean(1), errors.second.view(len(ones), -1).mean(1)
