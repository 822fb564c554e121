"""What the fast model is trained to make small."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.geometry.volume_rendering import distortion_loss

CHARBONNIER_WIDTH = 1e-3
"""Errors below this count as squares, larger ones by their size: mip-NeRF 360, section 3."""


LEAST_LIGHT = 1e-3
"""Share of a ray's light below which it is no more pulled to be empty."""


def squared_error(
    rendered: Float[Tensor, "ray 3"],
    target: Float[Tensor, "ray 3"],
    weight: Float[Tensor, "ray 1"] | float = 1.0,
) -> Float[Tensor, ""]:
    """Mean square of the colours' errors, times each ray's weight."""
    return (weight * (rendered - target).square()).mean()


def charbonnier_error(
    rendered: Float[Tensor, "ray 3"],
    target: Float[Tensor, "ray 3"],
    weight: Float[Tensor, "ray 1"] | float = 1.0,
) -> Float[Tensor, ""]:
    """Mean size of the errors, rounded off at zero: sqrt(error^2 + 0.001^2), by weight."""
    return (weight * ((rendered - target).square() + CHARBONNIER_WIDTH**2).sqrt()).mean()


def scene_distortion(
    weights: Float[Tensor, "ray n"],
    middles: Float[Tensor, "ray n"],
    lengths: Float[Tensor, "ray n"],
) -> Float[Tensor, ""]:
    """Mean distortion over rays, in distances that are even up to 1 and inverse behind.

    mip-NeRF 360 takes its loss in normalised inverse distance, where a far wall is as thick as a
    near one; here what is nearer than 1 scene unit, where the cameras are, counts evenly.

    Args:
        middles: Rising distances, scene units.
        lengths: Scene units.
    """
    start, end = _even((middles - lengths / 2).clamp_min(0)), _even(middles + lengths / 2)
    return distortion_loss(weights, _even(middles), end - start).mean()


def emptiness(
    opacity: Float[Tensor, "ray 1"], is_background: Bool[Tensor, "ray 1"]
) -> Float[Tensor, ""]:
    """Mean over all rays of -log(1 - opacity) of those that show the background.

    The opacity itself of a ray that is opaque by now has no gradient.
    """
    return -(is_background * (1 + LEAST_LIGHT - opacity).log()).mean()


def _even(distances: Float[Tensor, "ray n"]) -> Float[Tensor, "ray n"]:
    return torch.where(distances < 1, distances / 2, 1 - 0.5 / distances.clamp_min(1))
