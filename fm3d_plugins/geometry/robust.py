"""Robust losses: gross errors lose their say."""

import torch
from jaxtyping import Float
from torch import Tensor


def geman_mcclure_cost(
    squared: Float[Tensor, "*any"], reach: Float[Tensor, "*any"] | float
) -> Float[Tensor, "*any"]:
    """Geman and McClure's (1987), of squared residuals: these if small, at most reach squared."""
    limit = torch.as_tensor(reach, dtype=squared.dtype).square()
    return limit * squared / (limit + squared)


def geman_mcclure_weight(
    squared: Float[Tensor, "*any"], reach: Float[Tensor, "*any"] | float
) -> Float[Tensor, "*any"]:
    """Derivative of the cost by the squared residual: 1 fits, a quarter at the reach, then less."""
    limit = torch.as_tensor(reach, dtype=squared.dtype).square()
    return (limit / (limit + squared)).square()


def cauchy_cost(squared: Float[Tensor, "*any"], reach: float) -> Float[Tensor, "*any"]:
    """Of squared residuals: themselves where small, and growing without bound, but slowly."""
    return reach**2 * torch.log1p(squared / reach**2)


def cauchy_weight(squared: Float[Tensor, "*any"], reach: float) -> Float[Tensor, "*any"]:
    """Derivative of the cost by the squared residual: 1 fits, a half at the reach, then less."""
    return reach**2 / (reach**2 + squared)


def huber_cost(squared: Float[Tensor, "*any"], reach: float) -> Float[Tensor, "*any"]:
    """Of squared residuals: themselves up to the reach, beyond it linear in the residual (1964)."""
    length = squared.clamp_min(reach**2).sqrt()
    return torch.where(squared <= reach**2, squared, 2 * reach * length - reach**2)


def huber_weight(squared: Float[Tensor, "*any"], reach: float) -> Float[Tensor, "*any"]:
    """Derivative of the cost by the squared residual: 1 up to the reach, then less."""
    return reach / squared.clamp_min(reach**2).sqrt()
