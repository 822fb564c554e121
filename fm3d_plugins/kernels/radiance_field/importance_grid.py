"""Where on a ray it is worth looking: a coarse memory of the field's density."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.geometry.volume_rendering import weights_from_density
from fm3d_plugins.kernels.hash_grid import HashGridLayout
from fm3d_plugins.kernels.radiance_field.definitions import (
    SAMPLES_STEP,
    FieldParameters,
    Intervals,
)
from fm3d_plugins.kernels.radiance_field.torch_reference import contract_to_cube

RATE = 0.1
"""How far a sample moves its cell's density towards its own."""
MAX_DENSITY = 300.0
"""Per scene unit; what is denser is as good as opaque, and would outweigh everything in a mean."""
UNIFORM_SHARE = 0.5
"""Samples that are spread over all strata alike, relative to those that follow the weights. With
few of them a ray crosses what it believes empty in long intervals, in which a chance sample of thin
fog hides everything behind: the field then stays foggy (measured: 0.2 and less)."""


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
        if origins.device.type == "cpu":
            from fm3d_plugins.kernels.radiance_field.importance_backend import draw_intervals

            return draw_intervals(self.densities, strata, origins, directions, num_samples, jitter)
        return draw_intervals_torch(
            self.densities, strata, origins, directions, num_samples, jitter
        )

    @torch.no_grad()
    def remember(
        self,
        origins: Float[Tensor, "ray 3"],
        directions: Float[Tensor, "ray 3"],
        intervals: Intervals,
        densities: Float[Tensor, "ray sample"],
    ) -> None:
        """Move the cells of rendered samples towards the densities found there."""
        middles = intervals.middles
        if origins.device.type == "cpu" and middles.shape[1] % SAMPLES_STEP == 0:
            from fm3d_plugins.kernels.radiance_field.importance_backend import remember_samples

            sums, counts = self._sums, self._counts
            remember_samples(self.densities, sums, counts, origins, directions, middles, densities)
            return
        positions = origins[:, None] + middles[..., None] * directions[:, None]
        self._move_cells(positions.flatten(0, 1), densities.flatten())

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
        from fm3d_plugins.kernels.radiance_field import density

        cells, resolution = self.densities, len(self.densities)
        count = max(1, int(share * cells.numel()))
        cube = torch.rand(count, 3, generator=generator, device=cells.device)
        # Contracted space ends at the cube's faces, where distance is infinite.
        cube = cube.clamp(0.5 / resolution, 1 - 0.5 / resolution)
        positions = expand_from_cube(cube)
        self._move_cells(positions, density(parameters, layout, positions))

    def _move_cells(
        self, positions: Float[Tensor, "point 3"], densities: Float[Tensor, " point"]
    ) -> None:
        """A cell with n samples of mean m moves by 1 - (1 - RATE)^n of its way to m."""
        cells = cell_of(positions, len(self.densities))
        flat = self.densities.view(-1)
        self._sums.index_add_(0, cells, densities.clamp_max(MAX_DENSITY))
        self._counts.index_add_(0, cells, torch.ones_like(densities))
        counts = self._counts[cells]
        way = self._sums[cells] / counts - flat[cells]
        flat[cells] += way * (1 - (1 - RATE) ** counts)  # Equal values for equal cells.
        self._sums[cells] = 0
        self._counts[cells] = 0


def _space(distance: float) -> float:
    """Even up to distance 1, in inverse distance behind; maps [0, inf) to [0, 1)."""
    return distance / 2 if distance < 1 else 1 - 1 / (2 * distance)


def expand_from_cube(cube: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of `contract_to_cube`, in the open cube."""
    contracted = 4 * cube - 2
    largest = contracted.abs().amax(-1, keepdim=True)
    distance = 1 / (2 - largest.clamp_min(1.0))
    return contracted * torch.where(largest > 1, distance / largest, 1.0)


def cell_of(positions: Float[Tensor, "*batch 3"], resolution: int) -> Tensor:
    """Flat index of the grid cell that holds a position in scene units."""
    place = (contract_to_cube(positions) * resolution).long().clamp(0, resolution - 1)
    x, y, z = place.unbind(-1)
    return (x * resolution + y) * resolution + z


def stratum_shares(weights: Float[Tensor, "ray stratum"]) -> Float[Tensor, "ray stratum"]:
    """How much of a ray's samples each stratum gets, not normalised.

    Weights are widened to their neighbours (mip-NeRF, Barron et al. 2021, equation 18): a surface
    near a stratum's end may lie in the next.
    """
    padded = torch.nn.functional.pad(weights, (1, 1))
    pairs = torch.maximum(padded[:, 1:], padded[:, :-1])
    return (pairs[:, 1:] + pairs[:, :-1]) / 2 + UNIFORM_SHARE / weights.shape[1]


def draw_intervals_torch(
    densities: Float[Tensor, "x y z"],
    strata: Float[Tensor, " edge"],
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    num_samples: int,
    jitter: Float[Tensor, " ray"],
) -> Intervals:
    """Cuts where the strata's cumulative shares reach evenly spaced values: the definition."""
    middles = (strata[1:] + strata[:-1]) / 2
    positions = origins[:, None] + middles[:, None] * directions[:, None]
    found = densities.view(-1)[cell_of(positions, len(densities))]
    weights, _ = weights_from_density(found, strata.diff().expand_as(found))
    cumulative = torch.nn.functional.pad(stratum_shares(weights).cumsum(-1), (1, 0))
    ticks = torch.arange(num_samples - 1, device=jitter.device) + jitter[:, None]
    wanted = ticks / max(num_samples - 1, 1) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, wanted, right=True).clamp(1, len(strata) - 1)
    low, high = cumulative.gather(1, index - 1), cumulative.gather(1, index)
    start, end = strata[index - 1], strata[index]
    cuts = start + (end - start) * ((wanted - low) / (high - low)).clamp(0, 1)
    ends = strata[[0, -1]].expand(len(origins), 2)
    edges = torch.cat([ends[:, :1], cuts, ends[:, 1:]], dim=1)
    return Intervals((edges[:, 1:] + edges[:, :-1]) / 2, edges.diff(dim=1))
