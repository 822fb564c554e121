"""Losses that networks share."""

from jaxtyping import Float
from torch import Tensor


def weighted_by_confidence(
    errors: Float[Tensor, "*any"], confidence: Float[Tensor, "*any"], weight: float
) -> Float[Tensor, "*any"]:
    """Errors times confidence, minus a share of its logarithm; may be negative.

    DUSt3R (Wang et al. 2024), equation 4, after Kendall and Gal 2017.

    Args:
        confidence: Above 0.
        weight: alpha of the equation: the best confidence of an error e is alpha / e.
    """
    return errors * confidence - weight * confidence.log()
