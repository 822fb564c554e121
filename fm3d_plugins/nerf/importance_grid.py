"""Where on a ray it is worth looking: a coarse memory of the field's density."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.kernels.hash_grid import HashGridLayout
from fm3d_plugins.kernels.radiance_field import density, draw_intervals, move_cells
from fm3d_plugins.kernels.radiance_field.definitions import FieldParameters, Intervals
from fm3d_plugins.kernels.radiance_field.importance_reference import move_cells_torch


class ImportanceGrid(nn.Module):
    """Densities in cells of contracted space, from which rays choose their intervals.

    It stands where mip-NeRF 360 has proposal networks. Nothing in it is trained: cells hold a
    moving mean of the densities that the field showed there. (Their maximum, as occupancy grids
    keep it, overrates what is in front, and starves the surfaces behind of samples.) A ray's strata
    get their quadrature weights from the cells, and its samples follow these weights.
    """

    def __init__(self, resolution: int = 128, num_strata: int = 128) -> None:
        """Args:
        resolution: Cells along an axis of contracted space.
        num_strata: Intervals in which a ray looks into the grid, evenly spaced up to distance 1
            and in inverse distance behind.
        """
        super().__init__()
        self.num_strata = num_strata
        self.densities: Tensor
        self.register_buffer("densities", torch.zeros(resolution, resolution, resolution))
        self._sums: Tensor
        self._counts: Tensor
        for name in ("_sums", "_counts"):  # Zero but while cells are being moved.
            self.register_buffer(name, torch.zeros(resolution**3), persistent=False)

    def strata(self, near: float, far: float) -> Float[Tensor, " edge"]:
        """Edges of the strata, distances in scene units; the same for all rays."""
        shares = torch.linspace(0, 1, self.num_strata + 1, dtype=torch.float64)
        spaced = _space(near) + shares * (_space(far) - _space(near))
        edges = torch.where(spaced < 0.5, 2 * spaced, 1 / (2 - 2 * spaced))
        return edges.to(self.densities)

    @torch.no_grad()
    def intervals(
        self,
        origins: Float[Tensor, "ray 3"],
        directions: Float[Tensor, "ray 3"],
        num_samples: int,
        *,
        near: float,
        far: float,
        jitter: Float[Tensor, " ray"] | None = None,
    ) -> Intervals:
        """Cut rays into `num_samples` intervals, short where the grid knows of something.

        Args:
            directions: Unit vectors.
            near: Distance at which the first interval begins, scene units, above 0.
            far: Distance at which the last one ends.
            jitter: In [0, 1): shifts a ray's inner cuts. 1/2 if none.

        Raises:
            ValueError: near or far is out of range, or there is less than one interval.
        """
        if not 0 < near < far or num_samples < 1:
            raise ValueError(
                f"{num_samples} intervals between {near} and {far} were asked for. Expected "
                "0 < near < far and at least 1 interval."
            )
        jitter = origins.new_full((len(origins),), 0.5) if jitter is None else jitter
        strata = self.strata(near, far)
        return draw_intervals(self.densities, strata, origins, directions, num_samples, jitter)

    @torch.no_grad()
    def remember(
        self,
        origins: Float[Tensor, "ray 3"],
        directions: Float[Tensor, "ray 3"],
        intervals: Intervals,
        densities: Float[Tensor, "ray sample"],
    ) -> None:
        """Move the cells of rendered samples towards the densities found there."""
        sums, counts, middles = self._sums, self._counts, intervals.middles
        move_cells(self.densities, sums, counts, origins, directions, middles, densities)

    @torch.no_grad()
    def refresh(
        self,
        parameters: FieldParameters,
        layout: HashGridLayout,
        generator: torch.Generator,
        share: float = 1 / 16,
    ) -> None:
        """Look up the field at random places in some of the cells, also where no ray has been.

        Args:
            generator: On the grid's device.
            share: Part of the cells that is looked up.
        """
        cells, resolution = self.densities, len(self.densities)
        count = max(1, int(share * cells.numel()))
        cube = torch.rand(count, 3, generator=generator, device=cells.device)
        # Contracted space ends at the cube's faces, where distance is infinite.
        cube = cube.clamp(0.5 / resolution, 1 - 0.5 / resolution)
        positions = expand_from_cube(cube)
        found = density(parameters, layout, positions)
        move_cells_torch(self.densities, self._sums, self._counts, positions, found)


def _space(distance: float) -> float:
    """Even up to distance 1, in inverse distance behind; maps [0, inf) to [0, 1)."""
    return distance / 2 if distance < 1 else 1 - 1 / (2 * distance)


def expand_from_cube(cube: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of `contract_to_cube`, in the open cube."""
    contracted = 4 * cube - 2
    largest = contracted.abs().amax(-1, keepdim=True)
    distance = 1 / (2 - largest.clamp_min(1.0))
    return contracted * torch.where(largest > 1, distance / largest, 1.0)
