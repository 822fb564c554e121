"""Errors of dense maps (depth, points) with confidence, and of the differences of neighbours.

Wang et al. 2025, section 3.3, equation 3 and after; `losses` states the departures of the published
training code, which is followed here.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from fm3d_plugins.nn.losses import weighted_by_confidence

GradientTerm = Literal["grad", "grad_conf", "normal", "normal_conf", "none"]

CONFIDENCE_WEIGHT = 0.2
"""alpha of equation 3: the best confidence of an error e is alpha / e."""
LARGEST = 100.0
"""Errors count as at most this."""
FEWEST_PIXELS = 100
"""Valid pixels that a batch needs for its maps to count."""
FEWEST_RANKED = 1000
"""Errors up to this number are all used, however large."""


@dataclass(frozen=True)
class DenseLoss:
    """Errors of a map: weighted by its confidence, plain, and of its differences."""

    confidence: Float[Tensor, ""]
    regression: Float[Tensor, ""]
    gradient: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Their sum."""
        return self.confidence + self.regression + self.gradient


def dense_loss(
    predicted: Float[Tensor, "*batch view height width channel"],
    expected: Float[Tensor, "*batch view height width channel"],
    confidence: Float[Tensor, "*batch view height width"],
    is_valid: Bool[Tensor, "*batch view height width"],
    *,
    gradient: GradientTerm,
    keep_fraction: float | None = 0.98,
) -> DenseLoss:
    """Errors of depth (one channel) or points (three) on valid pixels (equation 3 and after).

    Fewer than 100 valid pixels give zeros.

    Args:
        confidence: Above 0.
        keep_fraction: Share of the errors, the smallest, that count; none: all.

    Raises:
        ValueError: Normals are asked of something else than points.
    """
    if "normal" in gradient and predicted.shape[-1] != 3:
        raise ValueError(
            f"gradient={gradient!r} compares normals of points, but the map has "
            f"{predicted.shape[-1]} channels; expected 3. Use 'grad' or 'none'."
        )
    if is_valid.sum() < FEWEST_PIXELS:
        nothing = 0 * (finite(predicted).sum() + finite(confidence).sum())
        return DenseLoss(nothing, nothing, nothing)
    error = bounded((expected[is_valid] - predicted[is_valid]).norm(dim=-1))
    weighted = weighted_by_confidence(error, confidence[is_valid], CONFIDENCE_WEIGHT)
    return DenseLoss(
        confidence=_smallest(weighted, keep_fraction).mean(),
        regression=_smallest(error, keep_fraction).mean(),
        gradient=_gradient_loss(predicted, expected, confidence, is_valid, gradient),
    )


def _gradient_loss(
    predicted: Float[Tensor, "*batch height width channel"],
    expected: Float[Tensor, "*batch height width channel"],
    confidence: Float[Tensor, "*batch height width"],
    is_valid: Bool[Tensor, "*batch height width"],
    term: GradientTerm,
) -> Float[Tensor, ""]:
    """Mean over scales: every pixel, every second, every fourth, and for `grad` every eighth."""
    if term == "none":
        return 0 * finite(predicted).sum()
    kind, num_scales = (_normals_at, 3) if "normal" in term else (_differences_at, 4)
    # What is invalid may be nan, which would come back in gradients as 0 * nan.
    known = is_valid[..., None]
    predicted, expected = torch.where(known, predicted, 0), torch.where(known, expected, 0)
    losses = []
    for stride in (2**scale for scale in range(num_scales)):
        rows, columns = slice(None, None, stride), slice(None, None, stride)
        losses.append(
            kind(
                predicted[..., rows, columns, :],
                expected[..., rows, columns, :],
                confidence[..., rows, columns] if "conf" in term else None,
                is_valid[..., rows, columns],
            )
        )
    return torch.stack(losses).mean()


def _differences_at(
    predicted: Float[Tensor, "*batch height width channel"],
    expected: Float[Tensor, "*batch height width channel"],
    confidence: Float[Tensor, "*batch height width"] | None,
    is_valid: Bool[Tensor, "*batch height width"],
) -> Float[Tensor, ""]:
    """Changes of the error from a pixel to the next, per valid pixel and channel.

    With a confidence, that of the right or lower pixel weights them, and its logarithm counts
    also where pixels are invalid, as published.
    """
    error = predicted - expected
    total = error.new_zeros(())
    for axis in (-1, -2):
        size = is_valid.shape[axis] - 1
        pair = is_valid.narrow(axis, 1, size) & is_valid.narrow(axis, 0, size)
        change = bounded(error.diff(dim=axis - 1).abs() * pair[..., None])
        if confidence is not None:
            weights = confidence.narrow(axis, 1, size)[..., None].expand_as(change)
            change = weighted_by_confidence(change, weights, CONFIDENCE_WEIGHT)
        total = total + change.sum()
    return total / (is_valid.sum() * error.shape[-1]).clamp(min=1)


def _normals_at(
    predicted: Float[Tensor, "*batch height width 3"],
    expected: Float[Tensor, "*batch height width 3"],
    confidence: Float[Tensor, "*batch height width"] | None,
    is_valid: Bool[Tensor, "*batch height width"],
) -> Float[Tensor, ""]:
    """Mean of 1 - cos between the normals that each pixel has with two adjacent neighbours."""
    has_both = _quadrants_known(is_valid)
    cosine = (_quadrant_normals(predicted) * _quadrant_normals(expected)).sum(-1)[has_both]
    if cosine.numel() < 10:
        return 0 * cosine.sum()
    loss = 1 - cosine
    if confidence is not None:
        weights = confidence.expand(has_both.shape)[has_both]
        loss = weighted_by_confidence(loss, weights, CONFIDENCE_WEIGHT)
    return loss.mean()


def _quadrant_normals(
    points: Float[Tensor, "*batch height width 3"],
) -> Float[Tensor, "4 *batch height width 3"]:
    """Unit normals by pairs of neighbours: up-left, left-down, down-right, right-up."""
    up, left, down, right = (step - points for step in _neighbours(points, dims=(-3, -2)))
    pairs = ((up, left), (left, down), (down, right), (right, up))
    products = torch.stack([torch.linalg.cross(one, other) for one, other in pairs])
    return functional.normalize(products, dim=-1, eps=1e-8)


def _quadrants_known(
    is_valid: Bool[Tensor, "*batch height width"],
) -> Bool[Tensor, "4 *batch height width"]:
    """Where a pixel and the two neighbours are valid; beyond the border nothing is."""
    up, left, down, right = _neighbours(is_valid, dims=(-2, -1))
    return torch.stack([up & left, left & down, down & right, right & up]) & is_valid


def _neighbours(values: Tensor, dims: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values of the pixel above, left, below and right; zero beyond the border."""

    def shifted(dim: int, step: int) -> Tensor:
        moved = values.roll(step, dim)
        moved.select(dim, 0 if step > 0 else -1).zero_()
        return moved

    rows, columns = dims
    return shifted(rows, 1), shifted(columns, 1), shifted(rows, -1), shifted(columns, -1)


def _smallest(errors: Float[Tensor, " n"], keep_fraction: float | None) -> Float[Tensor, " kept"]:
    """The errors below a quantile; all of them where few there are or would remain."""
    if errors.numel() <= FEWEST_RANKED:
        return errors
    errors = errors.clamp(max=LARGEST)
    if keep_fraction is None:
        return errors
    # torch.quantile refuses more than 2^24 values.
    rank = round(keep_fraction * (errors.numel() - 1))
    kept = errors[errors < errors.detach().kthvalue(rank + 1).values]
    return kept if kept.numel() > FEWEST_RANKED else errors


def bounded(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Values between -100 and 100; 0 in place of what is not finite."""
    return finite(values).clamp(-LARGEST, LARGEST)


def finite(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Values with 0 in place of nan and infinities."""
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
