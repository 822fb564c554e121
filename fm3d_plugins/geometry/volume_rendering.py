"""Volume rendering by quadrature, and where to put its samples.

Along a ray lie n intervals in rising order, measured as distances in scene units. Density and
colour are constant within an interval, for which the quadrature of Max (1995), as in Mildenhall et
al. 2020, equation 3, is exact. Intervals need not touch; what is between them counts as empty.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


def weights_from_density(
    densities: Float[Tensor, "*batch n"],
    lengths: Float[Tensor, "*batch n"],
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch"]]:
    """Share of each interval in a ray's colour, and of what lies behind the last.

    Mildenhall et al. 2020, equation 3: alpha_i = 1 - exp(-sigma_i delta_i),
    T_i = exp(-sum_{j<i} sigma_j delta_j), w_i = T_i alpha_i.

    Args:
        densities: sigma, at least 0, per scene unit.
        lengths: delta, at least 0, scene units.

    Returns:
        The weights w_i, and the remaining transmittance T_{n+1} with which the background is
        seen. Together they sum to 1.
    """
    optical_depths = densities * lengths
    # Shifted rather than reduced by itself, so that an infinite depth is no inf - inf.
    depth_before = pad(optical_depths.cumsum(-1), (1, 0))
    transmittance = torch.exp(-depth_before)
    weights = transmittance[..., :-1] * -torch.expm1(-optical_depths)
    return weights, transmittance[..., -1]


def composite(
    weights: Float[Tensor, "*batch n"],
    values: Float[Tensor, "*batch n channel"],
    remaining: Float[Tensor, "*batch"],
    background: Float[Tensor, "*#batch channel"],
) -> Float[Tensor, "*batch channel"]:
    """Sum of the values by their weights, and of the background by what remains."""
    return (weights.unsqueeze(-1) * values).sum(-2) + remaining.unsqueeze(-1) * background


def expected_distance(
    weights: Float[Tensor, "*batch n"],
    middles: Float[Tensor, "*batch n"],
) -> Float[Tensor, "*batch"]:
    """Mean distance at which a ray ends, of the part of it that ends at all.

    The last middle where all weights are zero: such a ray meets nothing.
    """
    total = weights.sum(-1)
    is_empty = total <= torch.finfo(weights.dtype).tiny
    mean = (weights * middles).sum(-1) / total.where(~is_empty, 1.0)
    return mean.where(~is_empty, middles[..., -1])


def median_distance(
    weights: Float[Tensor, "*batch n"],
    starts: Float[Tensor, "*batch n"],
    lengths: Float[Tensor, "*batch n"],
) -> Float[Tensor, "*batch"]:
    """Distance at which the transmittance has fallen to one half; the last end if it never does.

    Exact: within an interval the transmittance falls exponentially from T_i to T_{i+1}.
    """
    transmittance = (1 - pad(weights.cumsum(-1), (1, 0))).clamp_min(0)
    index = (transmittance[..., 1:] > 0.5).sum(-1, keepdim=True)
    is_inside = (index < weights.shape[-1]).squeeze(-1)
    index = index.clamp_max(weights.shape[-1] - 1)
    before, after = (transmittance.gather(-1, index + i).squeeze(-1) for i in (0, 1))
    start, length = (values.gather(-1, index).squeeze(-1) for values in (starts, lengths))
    # Where T_{i+1} is 0, the whole interval is opaque and its start is seen.
    fraction = (before.log() + math.log(2.0)) / (before.log() - after.log())
    inside = start + length * fraction.nan_to_num(0.0).clamp(0, 1)
    return inside.where(is_inside, starts[..., -1] + lengths[..., -1])


def distortion_loss(
    weights: Float[Tensor, "*batch n"],
    middles: Float[Tensor, "*batch n"],
    lengths: Float[Tensor, "*batch n"],
) -> Float[Tensor, "*batch"]:
    """How far apart the weights of a ray lie: mip-NeRF 360 (Barron et al. 2022), equation 15.

    The integral of w(u) w(v) |u - v| over the step function that the weights are:
    sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 delta_i, with cumulative sums in O(n).

    Args:
        middles: Rising, in any unit; the paper uses normalised distances s in [0, 1].
        lengths: In the same unit.
    """
    weight_before = weights.cumsum(-1) - weights
    moment_before = (weights * middles).cumsum(-1) - weights * middles
    # Middles rise, so |m_i - m_j| = m_i - m_j for every j before i; each pair counts twice.
    between = 2 * (weights * (middles * weight_before - moment_before)).sum(-1)
    return between + (weights.square() * lengths).sum(-1) / 3


@torch.no_grad()
def sample_from_weights(
    edges: Float[Tensor, "*batch edge"],
    weights: Float[Tensor, "*batch n"],
    num_samples: int,
    *,
    is_stratified: bool,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch num_samples"]:
    """Rising distances drawn from the weights as a piecewise-constant density, not differentiable.

    Hierarchical sampling of Mildenhall et al. 2020, section 5.2: the inverse of the cumulative
    distribution at one number of each of `num_samples` equal strata of [0, 1].

    Args:
        weights: At least 0; need not sum to 1. A ray whose weights are all zero is sampled evenly.
        is_stratified: A random number in each stratum; otherwise its centre.
        generator: Source of the random numbers; the global one if none.
    """
    lengths = edges.diff(dim=-1)
    is_empty = weights.sum(-1, keepdim=True) <= torch.finfo(weights.dtype).tiny
    # In double: single-precision sums of hundreds of weights misplace samples between far edges.
    cumulative = pad(weights.where(~is_empty, lengths).double().cumsum(-1), (1, 0))
    shape = (*weights.shape[:-1], num_samples)
    offset: Tensor | float = 0.5
    if is_stratified:
        offset = torch.rand(shape, device=weights.device, generator=generator).double()
    strata = torch.arange(num_samples, dtype=torch.float64, device=weights.device)
    # Below 1 by a rounding error, or an interval without weight at the end could be chosen.
    positions = ((strata + offset) / num_samples).clamp_max(1 - 1e-12)
    positions = (positions * cumulative[..., -1:]).expand(shape).contiguous()
    interval = torch.searchsorted(cumulative[..., 1:].contiguous(), positions, right=True)
    interval = interval.clamp_max(weights.shape[-1] - 1)
    start, end = cumulative.gather(-1, interval), cumulative.gather(-1, interval + 1)
    fraction = ((positions - start) / (end - start)).nan_to_num(0.0).clamp(0, 1).to(edges.dtype)
    return edges.gather(-1, interval) + fraction * lengths.gather(-1, interval)
