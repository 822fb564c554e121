"""The network and the sampling of Mildenhall et al. 2020 ("NeRF"), torch only.

Sections and equations are those of the paper; its supplement (section A) draws the network.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.geometry.volume_rendering import sample_from_weights


def positional_encoding(
    values: Float[Tensor, "*batch channel"], num_frequencies: int
) -> Float[Tensor, "*batch encoded"]:
    """The input, then sin(2^k pi x) and cos(2^k pi x) for k < L: equation 4.

    **Departure**: the input itself comes first, as in the authors' code. With it points of
    scenes wider than the period, 2 scene units, stay distinct.

    Args:
        num_frequencies: L; the result has channel * (1 + 2 L) values.
    """
    exponents = torch.arange(num_frequencies, dtype=values.dtype, device=values.device)
    angles = values.unsqueeze(-2) * (math.pi * 2**exponents).unsqueeze(-1)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)
    return torch.cat([values, waves], dim=-1)


class RadianceMlp(nn.Module):
    """Density and view-dependent colour of points: section 3 and figure 7 of the paper."""

    def __init__(
        self,
        width: int = 256,
        num_layers: int = 8,
        skip_after: int = 5,
        position_frequencies: int = 10,
        direction_frequencies: int = 4,
    ) -> None:
        """Args:
        width: Channels of the trunk; the colour's branch has half of them.
        num_layers: Layers of the trunk.
        skip_after: The encoded position is joined to the activation of this layer (from 1).
        position_frequencies: L of the position.
        direction_frequencies: L of the direction.
        """
        super().__init__()
        self.skip_after = skip_after
        self.position_frequencies = position_frequencies
        self.direction_frequencies = direction_frequencies
        position, direction = (
            3 * (1 + 2 * count) for count in (position_frequencies, direction_frequencies)
        )
        inputs = [position] + [
            width + position if layer == skip_after else width for layer in range(1, num_layers)
        ]
        self.trunk = nn.ModuleList(nn.Linear(size, width) for size in inputs)
        self.density = nn.Linear(width, 1)
        self.feature = nn.Linear(width, width)
        self.view = nn.Linear(width + direction, width // 2)
        self.color = nn.Linear(width // 2, 3)

    def forward(
        self,
        points: Float[Tensor, "*batch 3"],
        directions: Float[Tensor, "*batch 3"],
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3"]]:
        """Density before its activation, and colour in [0, 1].

        Args:
            points: Scene units.
            directions: Unit viewing directions.
        """
        encoded = positional_encoding(points, self.position_frequencies)
        hidden = encoded
        for number, layer in enumerate(self.trunk, start=1):
            hidden = layer(hidden).relu()
            if number == self.skip_after:
                hidden = torch.cat([hidden, encoded], dim=-1)
        density = self.density(hidden).squeeze(-1)
        seen = positional_encoding(directions, self.direction_frequencies)
        branch = self.view(torch.cat([self.feature(hidden), seen], dim=-1)).relu()
        return density, self.color(branch).sigmoid()


def stratified_distances(
    near: Float[Tensor, "ray 1"],
    far: Float[Tensor, "ray 1"],
    num_samples: int,
    *,
    is_stratified: bool,
    is_disparity: bool = False,
) -> Float[Tensor, "ray num_samples"]:
    """One distance in each of equal strata from near to far: equation 2.

    Args:
        is_stratified: A random place in each stratum; otherwise its middle.
        is_disparity: Strata of equal size in 1 / distance, which suits far backgrounds.
    """
    shape = (len(near), num_samples)
    offset = torch.rand(shape, device=near.device) if is_stratified else near.new_full(shape, 0.5)
    share = (torch.arange(num_samples, device=near.device) + offset) / num_samples
    if is_disparity:
        return 1 / (1 / near * (1 - share) + 1 / far * share)
    return near + (far - near) * share


def joined_samples(
    distances: Float[Tensor, "ray n"],
    far: Float[Tensor, "ray 1"],
    weights: Float[Tensor, "ray n"],
    num_more: int,
    *,
    is_stratified: bool,
) -> Float[Tensor, "ray all"]:
    """Coarse distances and those drawn from their weights, in order: section 5.2.

    Args:
        weights: Of the intervals from each distance to the next, the last up to `far`.
        num_more: How many to draw.
    """
    edges = torch.cat([distances, far], dim=-1)
    more = sample_from_weights(edges, weights, num_more, is_stratified=is_stratified)
    return torch.cat([distances, more], dim=-1).sort(dim=-1).values
