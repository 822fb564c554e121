"""What DUSt3R is trained to make small (Wang et al. 2024, section 3.3).

Points of both photos are compared in the first photo's camera frame, after each side was divided by
a size of its own (equation 2), and the distances are weighted by the predicted confidence
(equation 4). The published training code knows more sizes than the paper's mean distance, and its
tests more freedom: a shift along the viewing axis and a scale, both taken from medians.

Departure: without a valid pixel every error is 0; the published plain error is then nan.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.dust3r.network import PairPrediction
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.geometry.precision import in_full_precision
from fm3d_plugins.nn.losses import weighted_by_confidence

Normalization = Literal[
    "mean_distance",
    "mean_log_distance",
    "mean_warped_log_distance",
    "median_distance",
    "mean_root_distance",
]
TINY = 1e-8
SMALLEST_SCALE, LARGEST_SCALE = 1e-3, 1e3
"""Bounds of the predicted points' median scale, by which they are divided if scale_invariant."""

Points = Float[Tensor, "batch pixel 3"]


@dataclass(frozen=True)
class PairTruth:
    """What the predictions are compared with. Points that are not valid may hold anything."""

    points_first: Float[Tensor, "batch height width 3"]
    """World frame."""
    points_second: Float[Tensor, "batch second_height second_width 3"]
    """World frame."""
    world_from_first: Float[Tensor, "batch 4 4"]
    """OpenCV camera of the first photo."""
    is_valid_first: Bool[Tensor, "batch height width"]
    is_valid_second: Bool[Tensor, "batch second_height second_width"]

    @staticmethod
    def of(batch: ViewBatch, first: int = 0, second: int = 1) -> "PairTruth":
        """What a batch knows of two of each scene's views.

        Raises:
            ValueError: It has no depth.
        """
        pair = batch.of_views([first, second])
        points = pair.points()
        assert pair.is_valid is not None
        return PairTruth(
            points_first=points[:, 0],
            points_second=points[:, 1],
            world_from_first=pair.world_from_camera[:, 0],
            is_valid_first=pair.is_valid[:, 0],
            is_valid_second=pair.is_valid[:, 1],
        )


@dataclass(frozen=True)
class LossConfig:
    """Variants; the defaults are those of the published training."""

    normalization: Normalization | None = "mean_distance"
    """Size that both sides are divided by: the mean distance from the camera (avg_dis in the
    published code); the mean of log(1 + distance) (avg_log1p), likewise with the points drawn in
    to that distance first (avg_warp-log1p); the median distance, without gradients (median_dis);
    the square of the mean root (sqrt_dis). None: no division."""
    keep_truth_scale: bool = False
    """Ground truth is not divided, and the prediction has to have its scale."""
    shift_invariant: bool = False
    """The median z of both sides is subtracted; without gradients."""
    scale_invariant: bool = False
    """The median distance from the median point is divided out; without gradients. With
    keep_truth_scale the prediction is brought to the ground truth's."""
    farthest: float | None = None
    """Ground truth points further than this from the first camera do not count; scene units."""
    confidence_weight: float = 0.2
    """alpha of equation 4: the best confidence of an error e is alpha / e."""


@dataclass(frozen=True)
class PairErrors:
    """Distances between predicted and true points, of the pixels that count, and confidences."""

    first: Float[Tensor, " pixel"]
    second: Float[Tensor, " second_pixel"]
    confidence_first: Float[Tensor, " pixel"]
    confidence_second: Float[Tensor, " second_pixel"]


@dataclass(frozen=True)
class PairLoss:
    """A loss of each of the two photos; 0 where no pixel counts."""

    first: Float[Tensor, ""]
    second: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Their sum."""
        return self.first + self.second


def confidence_loss(
    prediction: PairPrediction, truth: PairTruth, config: LossConfig | None = None
) -> PairLoss:
    """Mean of confidence * error - alpha * log(confidence) (equation 4); may be negative.

    Each photo's mean runs over the valid pixels of the whole batch.
    """
    config = config or LossConfig()
    errors = pair_errors(prediction, truth, config)
    alpha = config.confidence_weight
    return PairLoss(
        _mean(weighted_by_confidence(errors.first, errors.confidence_first, alpha)),
        _mean(weighted_by_confidence(errors.second, errors.confidence_second, alpha)),
    )


def regression_loss(
    prediction: PairPrediction, truth: PairTruth, config: LossConfig | None = None
) -> PairLoss:
    """Mean error of each photo's points (equation 1 and 2), over the whole batch."""
    errors = pair_errors(prediction, truth, config or LossConfig())
    return PairLoss(_mean(errors.first), _mean(errors.second))


@in_full_precision
def pair_errors(prediction: PairPrediction, truth: PairTruth, config: LossConfig) -> PairErrors:
    """Euclidean distances of all valid pixels, after what the config makes the sides free of."""
    first_from_world = invert(truth.world_from_first)
    split = truth.is_valid_first[0].numel()
    expected = transform_points(first_from_world, _flat(truth.points_first, truth.points_second))
    predicted = _flat(prediction.points_first, prediction.points_second_in_first)
    counts = torch.cat([truth.is_valid_first.flatten(1), truth.is_valid_second.flatten(1)], dim=1)
    if config.farthest is not None:
        # nan compares as False, and does not count either.
        counts = counts & (expected.norm(dim=-1) <= config.farthest)
    # What is invalid may be nan, which would come back in gradients as 0 * nan.
    predicted, expected = (
        torch.where(counts[..., None], points, 0) for points in (predicted, expected)
    )
    predicted, expected = _made_comparable(predicted, expected, counts, config)
    errors = _distances(predicted - expected)
    first, second = counts[:, :split], counts[:, split:]
    return PairErrors(
        first=errors[:, :split][first],
        second=errors[:, split:][second],
        confidence_first=prediction.confidence_first.flatten(1)[first],
        confidence_second=prediction.confidence_second.flatten(1)[second],
    )


def normalized(
    points: Points, counts: Bool[Tensor, "batch pixel"], normalization: Normalization
) -> tuple[Points, Float[Tensor, "batch 1 1"]]:
    """Points divided by their size, and the size; one for all points of a pair.

    Args:
        counts: Which points the size is taken of.
    """
    distances = _distances(points)
    number = counts.sum(dim=1) + TINY
    logarithms = distances.log1p()
    if normalization == "mean_warped_log_distance":
        points = points * (logarithms / distances.clamp(min=TINY))[..., None]
    if normalization == "mean_distance":
        size = torch.where(counts, distances, 0).sum(dim=1) / number
    elif normalization == "median_distance":
        size = _median(distances, counts).detach()
    elif normalization == "mean_root_distance":
        # The root of 0 has no gradient.
        roots = distances.clamp(min=TINY**2).sqrt()
        size = (torch.where(counts, roots, 0).sum(dim=1) / number).square()
    else:
        size = torch.where(counts, logarithms, 0).sum(dim=1) / number
    size = size.clamp(min=TINY)[:, None, None]
    return points / size, size


def _made_comparable(
    predicted: Points, expected: Points, counts: Bool[Tensor, "batch pixel"], config: LossConfig
) -> tuple[Points, Points]:
    """Predicted and true points, after the config's invariances are removed from both: first the
    size is normalised, then the shift is taken out, then the scale."""
    if config.normalization is not None:
        predicted, _ = normalized(predicted, counts, config.normalization)
        if not config.keep_truth_scale:
            expected, _ = normalized(expected, counts, config.normalization)
    if config.shift_invariant:
        predicted, expected = (_without_shift(points, counts) for points in (predicted, expected))
    if config.scale_invariant:
        scale = _median_scale(predicted, counts).clamp(SMALLEST_SCALE, LARGEST_SCALE)
        true_scale = _median_scale(expected, counts)
        if config.keep_truth_scale:
            predicted = predicted * (true_scale / scale)
        else:
            predicted, expected = predicted / scale, expected / true_scale
    return predicted, expected


@torch.no_grad()
def _median_scale(
    points: Points, counts: Bool[Tensor, "batch pixel"]
) -> Float[Tensor, "batch 1 1"]:
    """Median distance from the point whose coordinates are the medians."""
    centre = torch.stack([_median(axis, counts) for axis in points.unbind(-1)], dim=-1)
    distances = (points - centre[:, None]).norm(dim=-1)
    return _median(distances, counts)[:, None, None]


def _without_shift(points: Points, counts: Bool[Tensor, "batch pixel"]) -> Points:
    """Points whose median z is 0."""
    shift = torch.zeros_like(points[:, :1])
    shift[..., 2] = _median(points[..., 2], counts).detach()[:, None]
    return points - shift


def _median(
    values: Float[Tensor, "batch pixel"], counts: Bool[Tensor, "batch pixel"]
) -> Float[Tensor, " batch"]:
    """Of what counts, the lower one of an even number; 1 where nothing counts."""
    median = torch.where(counts, values, torch.nan).nanmedian(dim=1).values
    return torch.where(counts.any(dim=1), median, 1)


def _distances(points: Points) -> Float[Tensor, "batch pixel"]:
    return points.norm(dim=-1)


def _flat(
    first: Float[Tensor, "batch height width 3"],
    second: Float[Tensor, "batch second_height second_width 3"],
) -> Points:
    """The points of both photos one after the other."""
    return torch.cat([first.flatten(1, 2), second.flatten(1, 2)], dim=1)


def _mean(values: Float[Tensor, " pixel"]) -> Float[Tensor, ""]:
    return values.mean() if len(values) else values.sum()
