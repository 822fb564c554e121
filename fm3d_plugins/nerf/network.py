"""The parameters of the fast radiance field."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.kernels.hash_grid import FEATURES_PER_LEVEL, HashGridLayout
from fm3d_plugins.kernels.radiance_field.definitions import (
    DIRECTION,
    GEOMETRY,
    HIDDEN,
    SH_DEGREE,
    FieldParameters,
)
from fm3d_plugins.kernels.rasterizer.spherical_harmonics import sh_basis

TABLE_SPREAD = 1e-4
"""Hash tables begin evenly spread in +- this: Müller et al. 2022, section 4."""

DARKEST = 0.02
"""Of the colours that a field begins with; the brightest is as far from 1."""


class RadianceField(nn.Module):
    """Hash grid, density network and colour network, as `kernels.radiance_field` renders them."""

    def __init__(self, layout: HashGridLayout) -> None:
        """Args:
        layout: Of the hash grid.
        """
        super().__init__()
        self.layout = layout
        table = torch.empty(layout.num_entries, FEATURES_PER_LEVEL)
        self.table = nn.Parameter(table.uniform_(-TABLE_SPREAD, TABLE_SPREAD))
        self.density_hidden = _layer(layout.num_features, HIDDEN)
        self.density_out = _layer(HIDDEN, GEOMETRY)
        # Both halves feed one layer, so they share its number of inputs.
        self.color_geometry = _layer(GEOMETRY, HIDDEN, num_inputs=GEOMETRY + DIRECTION)
        self.color_direction = _layer(DIRECTION, HIDDEN, num_inputs=GEOMETRY + DIRECTION)
        self.color_out = _layer(HIDDEN, 3)

    def begin_with(self, color: Float[Tensor, "3"]) -> None:
        """Let space begin with about one colour, by a unit that is 1 for all positions and rays.

        It begins grey otherwise, and the first steps all lead to the photos' mean colour. Where
        that is nearly black or white, Adam's momentum carries them so far past it that the sigmoid
        is flat, and no photo brings a colour back.

        Args:
            color: In [0, 1].
        """
        zenith = torch.tensor([[0.0, 0.0, 1.0]])
        with torch.no_grad():
            self.color_geometry[:, 0] = 0
            self.color_direction[:, 0] = 0
            self.color_direction[0, 0] = 1 / sh_basis(zenith, SH_DEGREE)[0, 0]
            self.color_out[0] = color.clamp(DARKEST, 1 - DARKEST).logit()

    def tensors(self) -> FieldParameters:
        """The parameters under the backend's names."""
        return FieldParameters(**dict(self.named_parameters()))

    def hold_finer_levels(self, num_open: int) -> None:
        """Forget the gradient of all but the coarsest levels: they stay as they began, near 0."""
        if self.table.grad is not None and num_open < self.layout.num_levels:
            self.table.grad[self.layout.offsets[num_open] :] = 0

    def networks(self) -> list[nn.Parameter]:
        """All parameters but the hash table."""
        return [parameter for name, parameter in self.named_parameters() if name != "table"]


def _layer(rows: int, columns: int, num_inputs: int | None = None) -> nn.Parameter:
    """A matrix that keeps variance through itself and a rectifier (He et al. 2015)."""
    bound = (6 / (num_inputs or rows)) ** 0.5
    weights: Tensor = torch.empty(rows, columns).uniform_(-bound, bound)
    return nn.Parameter(weights)


def levels_at(step: int, num_levels: int, duration: int) -> int:
    """How many levels of a hash grid learn: the coarser half at first, all from `duration` on."""
    finer = num_levels // 2
    return num_levels if step >= duration else num_levels - finer + finer * step // duration
