"""Where a token is: rotary positions in two dimensions, and sinusoids."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class RotaryTables:
    """Cosines and sines of the angles by which `rotate` turns pairs of channels."""

    cosine: Float[Tensor, "token 1 2 2 quarter"]
    """Per token: one row for all heads, the vertical then the horizontal angles, each twice."""
    sine: Float[Tensor, "token 1 2 quarter"]
    """Likewise, each once."""


def rotary_tables(
    positions: Int[Tensor, "token 2"], head_width: int, base: float, dtype: torch.dtype
) -> RotaryTables:
    """Tables of rotary positions in two dimensions (Su et al. 2021, applied to each axis).

    The first half of a head's channels turns with the row and the second half with the column.
    Within a half of d channels, channel j < d / 2 is paired with channel j + d / 2 and turns by
    position * base^(-2 j / d). A token at (0, 0) is not turned.

    Args:
        positions: (row, column) of each token.
        head_width: Channels of one head, a multiple of 4.
        base: Ratio of the fastest to the slowest frequency, nearly.
        dtype: Of the tables. The angles are rounded to float32 before, as in the published
            networks that use them.
    """
    if head_width % 4:
        raise ValueError(
            f"A head has {head_width} channels; rotary positions in two dimensions need a "
            "multiple of 4. Choose another width or number of heads."
        )
    exponents = torch.arange(0, head_width // 2, 2, device=positions.device) / (head_width // 2)
    frequencies = 1.0 / base ** exponents.float()
    angles = (positions.float().unsqueeze(-1) * frequencies).to(dtype).unsqueeze(1)
    return RotaryTables(torch.stack([angles.cos()] * 2, dim=-2), angles.sin())


def rotate(
    features: Float[Tensor, "*batch token head channel"], tables: RotaryTables
) -> Float[Tensor, "*batch token head channel"]:
    """Queries or keys, each head turned by the angles of its token."""
    halves = features.unflatten(-1, (2, 2, -1))
    # One product over whole heads: short rows are what costs time.
    turned = halves * tables.cosine
    turned[..., 0, :].addcmul_(halves[..., 1, :], tables.sine, value=-1)
    turned[..., 1, :].addcmul_(halves[..., 0, :], tables.sine)
    return turned.flatten(-3)


def grid_positions(rows: int, columns: int, device: torch.device) -> Int[Tensor, "token 2"]:
    """(row, column) of the patches of a grid, from 0, row by row."""
    row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
    return torch.cartesian_prod(row, column).reshape(-1, 2)


def sinusoids(
    positions: Float[Tensor, "*shape"], num_channels: int, base: float
) -> Float[Tensor, "*shape {num_channels}"]:
    """Sines, then cosines, of positions times base^(-2 j / num_channels), in float32.

    Vaswani et al. 2017, section 3.5, with all sines first; computed in float64.
    """
    if num_channels % 2:
        raise ValueError(
            f"Sinusoids come in pairs, so {num_channels} channels are impossible. "
            "Choose an even number."
        )
    steps = torch.arange(num_channels // 2, dtype=torch.float64, device=positions.device)
    angles = positions.double().unsqueeze(-1) * base ** (-2 * steps / num_channels)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()
