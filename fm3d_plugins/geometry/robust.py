"""Geman and McClure's loss (1987), whose value is bounded: gross errors lose their say."""

import torch
from jaxtyping import Float
from torch import Tensor


def geman_mcclure_cost(
    squared: Float[Tensor, "*any"], reach: Float[Tensor, "*any"] | float
) -> Float[Tensor, "*any"]:
    """Of squared residuals: themselves where small, at most the reach squared."""
    limit = torch.as_tensor(reach, dtype=squared.dtype).square()
    return limit * squared / (limit + squared)


def geman_mcclure_weight(
    squared: Float[Tensor, "*any"], reach: Float[Tensor, "*any"] | float
) -> Float[Tensor, "*any"]:
    """Derivative of the cost by the squared residual: 1 fits, a quarter at the reach, then less."""
    limit = torch.as_tensor(reach, dtype=squared.dtype).square()
    return (limit / (limit + squared)).square()
