"""Scale and shift, per photo, that bring a depth map to the depth that the scene renders.

The fit is made in depth, not in inverse depth: networks that deliver z-depth are wrong by a factor
of it, or by a factor and a constant. Errors count relative to the depth, as those of networks grow
with it, so that a far background does not decide for the rest.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

AlignmentMode = Literal["scale-shift", "scale", "none"]

ROBUST_ROUNDS = 2
"""Fits with new weights after the first."""

HUBER_WIDTH = 0.05
"""Relative errors above this count by their size, not their square. What networks reach is a few
per cent; what is wrong by more is a floater of the scene or a mistake of the map."""

MIN_PIXELS = 3
"""With fewer pixels a scale and a shift fit whatever there is, and show nothing."""

RELATIVE_SPREAD = 1e-5
"""Depths within this share of their mean are one constant, up to the rounding of float32."""


@dataclass(frozen=True)
class Moments:
    """Weighted moments, per photo, of target depths (x) and rendered depths (y)."""

    count: Float[Tensor, " photo"]
    """Pixels with positive weight."""
    weight: Float[Tensor, " photo"]
    mean_x: Float[Tensor, " photo"]
    mean_y: Float[Tensor, " photo"]
    xx: Float[Tensor, " photo"]
    """Weighted sum of squared differences from the mean."""
    xy: Float[Tensor, " photo"]
    yy: Float[Tensor, " photo"]

    NUM_COLUMNS = 7

    @staticmethod
    def from_table(table: Float[Tensor, "photo 7"]) -> "Moments":
        """One column per field."""
        return Moments(*table.unbind(-1))

    def table(self) -> Float[Tensor, "photo 7"]:
        """One column per field, in their order."""
        columns = (self.count, self.weight, self.mean_x, self.mean_y, self.xx, self.xy, self.yy)
        return torch.stack(columns, dim=-1)

    def faded(self, share: Float[Tensor, " photo"]) -> "Moments":
        """The moments after every pixel's weight is multiplied by its photo's `share`."""
        fade = (self.count, self.weight, self.xx, self.xy, self.yy)
        count, weight, xx, xy, yy = (share * values for values in fade)
        return Moments(count, weight, self.mean_x, self.mean_y, xx, xy, yy)

    def joined(self, other: "Moments") -> "Moments":
        """Moments of both sets of pixels together (Chan et al. 1983: loses no digits)."""
        weight = self.weight + other.weight
        share = other.weight / weight.where(weight > 0, 1.0)
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        between = self.weight * share
        return Moments(
            self.count + other.count,
            weight,
            self.mean_x + share * dx,
            self.mean_y + share * dy,
            self.xx + other.xx + between * dx * dx,
            self.xy + other.xy + between * dx * dy,
            self.yy + other.yy + between * dy * dy,
        )


@dataclass(frozen=True)
class Alignment:
    """aligned depth = scale * target depth + shift, per photo."""

    scale: Float[Tensor, " photo"]
    shift: Float[Tensor, " photo"]
    """Scene units."""
    trust: Float[Tensor, " photo"]
    """0 to 1: share of the rendered depth's variance that the fit explains, and 0 where there is
    no fit. Always 1 for maps that need none."""

    def apply(
        self, target: Float[Tensor, " pixel"], photo: Int[Tensor, " pixel"]
    ) -> Float[Tensor, " pixel"]:
        """Aligned depths, scene units; may be negative where a map is wrong."""
        return self.scale[photo] * target + self.shift[photo]

    def of(self, photo: int) -> "Alignment":
        """The alignment of one photo alone."""
        row = slice(photo, photo + 1)
        return Alignment(self.scale[row], self.shift[row], self.trust[row])

    def replaced(self, other: "Alignment") -> "Alignment":
        """This alignment, with that of `other` for all photos that `other` trusts (> 0)."""
        has_one = other.trust > 0
        return Alignment(
            other.scale.where(has_one, self.scale),
            other.shift.where(has_one, self.shift),
            other.trust.where(has_one, self.trust),
        )


@torch.no_grad()
def weighted_moments(
    target: Float[Tensor, " pixel"],
    rendered: Float[Tensor, " pixel"],
    weight: Float[Tensor, " pixel"],
    photo: Int[Tensor, " pixel"],
    num_photos: int,
) -> Moments:
    """Moments of pixels of many photos; all 0 for photos without any.

    Args:
        weight: At least 0. Where it is 0, the depths have no influence but must be finite.
        photo: Row of each pixel's photo, below `num_photos`.
    """

    def summed(values: Float[Tensor, " pixel"]) -> Float[Tensor, " photo"]:
        return values.new_zeros(num_photos).index_add(0, photo, values)

    total = summed(weight)
    divisor = total.where(total > 0, 1.0)
    mean_x, mean_y = (summed(weight * values) / divisor for values in (target, rendered))
    dx, dy = target - mean_x[photo], rendered - mean_y[photo]
    return Moments(
        summed((weight > 0).to(weight)),
        total,
        mean_x,
        mean_y,
        summed(weight * dx * dx),
        summed(weight * dx * dy),
        summed(weight * dy * dy),
    )


def solve(moments: Moments, mode: AlignmentMode) -> Alignment:
    """The weighted least-squares fit of rendered by target depths, in closed form.

    A photo has no fit (trust 0) with fewer than 3 pixels, with depths that are all the same (for
    scale-shift), or with a scale that is not positive.
    """
    m = moments
    one = torch.ones_like(m.weight)
    if mode == "none":
        return Alignment(one, 0 * one, one)
    is_fitted = m.count >= MIN_PIXELS
    if mode == "scale":
        x2 = m.xx + m.weight * m.mean_x.square()
        scale = _ratio(m.xy + m.weight * m.mean_x * m.mean_y, x2)
        shift = torch.zeros_like(scale)
        trust = one
    else:
        floor = m.weight * (RELATIVE_SPREAD * m.mean_x).square()
        is_fitted = is_fitted & (m.xx > floor)
        scale = _ratio(m.xy, m.xx)
        shift = m.mean_y - scale * m.mean_x
        trust = (scale * _ratio(m.xy, m.yy)).clamp(0, 1)
    is_fitted = is_fitted & (scale > 0) & scale.isfinite() & shift.isfinite()
    return Alignment(
        scale.where(is_fitted, 0.0), shift.where(is_fitted, 0.0), trust.where(is_fitted, 0.0)
    )


@torch.no_grad()
def fit(
    target: Float[Tensor, " pixel"],
    rendered: Float[Tensor, " pixel"],
    weight: Float[Tensor, " pixel"],
    photo: Int[Tensor, " pixel"],
    before: Moments,
    mode: AlignmentMode,
    *,
    rounds: int = ROBUST_ROUNDS,
) -> tuple[Alignment, Moments]:
    """Robust alignment of every photo: least squares, then some rounds of Huber weights.

    Multiplying the target, or (scale-shift) adding to it, changes nothing of the aligned depths.

    Args:
        target: Depth of the maps.
        rendered: Depth of the scene, scene units; positive where the weight is.
        weight: Of each pixel; 0: it does not count.
        before: What earlier pixels of each photo have left behind.
        rounds: Of Huber weights.

    Returns:
        The alignment, and the moments to be kept, `before` included.
    """
    shape = len(before.weight)
    nearness = torch.where(weight > 0, 1 / rendered.clamp_min(1e-6), 0.0)
    sums = [rendered.new_zeros(shape).index_add(0, photo, v) for v in (weight, weight * nearness)]
    # The harmonic mean: not moved by a background that is far, and closer pixels count no more.
    typical = _ratio(*sums)[photo].clamp_min(1e-6)
    size = torch.maximum(rendered, typical)
    moments = before.joined(
        weighted_moments(target, rendered, weight / size.square(), photo, shape)
    )
    alignment = solve(moments, mode)
    for _ in range(rounds):
        aligned = alignment.apply(target, photo)
        size = mean_size(rendered, aligned).maximum(0.5 * typical)
        error = ((rendered - aligned) / size).abs()
        huber = (HUBER_WIDTH / error.clamp_min(1e-12)).clamp_max(1.0)
        # A photo without fit keeps its weights, as there is nothing to compare with.
        huber = huber.where(alignment.trust[photo] > 0, 1.0)
        moments = before.joined(
            weighted_moments(target, rendered, weight * huber / size.square(), photo, shape)
        )
        alignment = solve(moments, mode)
    return alignment, moments


def mean_size(
    rendered: Float[Tensor, " pixel"], aligned: Float[Tensor, " pixel"]
) -> Float[Tensor, " pixel"]:
    """What a difference of two depths is relative to: their mean, at least 1e-6."""
    return ((rendered + aligned) / 2).clamp_min(1e-6)


def relative_errors(
    rendered: Float[Tensor, " pixel"], aligned: Float[Tensor, " pixel"]
) -> tuple[Float[Tensor, " pixel"], Bool[Tensor, " pixel"]]:
    """|rendered - aligned| over the mean of both, from 0 to 2, and which pixels it is defined for.

    Differentiable in the rendered depth through the difference alone: relative to both, neither
    what is rendered far too near nor far too far outweighs the rest.
    """
    is_usable = aligned > 0
    size = mean_size(rendered.detach(), aligned)
    return ((rendered - aligned) / size).abs().where(is_usable, 0.0), is_usable


def _ratio(above: Float[Tensor, " photo"], below: Float[Tensor, " photo"]) -> Tensor:
    """The quotient; 0 where the divisor is not positive."""
    return torch.where(below > 0, above / below.where(below > 0, 1.0), 0.0)
