"""A radiance field of hash grid and two small networks, rendered along rays.

On a CPU grid, networks and quadrature are one fused kernel. Elsewhere torch, with tiny-cuda-nn's
hash grid where it is installed.
"""

from dataclasses import fields
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.kernels.hash_grid import HashGridLayout
from fm3d_plugins.kernels.radiance_field.definitions import (
    SAMPLES_STEP,
    FieldParameters,
    Intervals,
    RenderedRays,
)
from fm3d_plugins.kernels.radiance_field.importance_reference import (
    draw_intervals_torch,
    move_cells_torch,
)
from fm3d_plugins.kernels.radiance_field.torch_reference import density_torch, render_rays_torch
from fm3d_plugins.kernels.shapes import check_shapes

FieldBackend = Literal["auto", "torch", "numba"]


def render_rays(
    parameters: FieldParameters,
    layout: HashGridLayout,
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    intervals: Intervals,
    *,
    calm_distance: float = 0.0,
    backend: FieldBackend = "auto",
) -> RenderedRays:
    """Colours and weights along rays by the quadrature of Mildenhall et al. 2020, equation 3.

    Density and colour are taken at the middle of each interval and are constant in it. Space is
    contracted (mip-NeRF 360, equation 10, with the maximum norm). Differentiable in the
    parameters, origins and directions, not in the intervals.

    Args:
        origins: World frame, scene units.
        directions: Unit vectors, world frame.
        intervals: Where each ray is sampled.
        calm_distance: Samples at a distance t below this pass on only (t / calm_distance)^2 of
            their gradient, so that space that one photo alone sees from close by does not learn
            faster than the rest (Philip and Deschaintre 2023, "Floaters No More"). 0: none.
        backend: "auto" is numba for float32 tensors on a CPU whose numbers of samples and features
            are multiples of 16, and torch otherwise.

    Raises:
        ValueError: The tensors do not belong together, or the backend cannot take them.
    """
    check_shapes(
        "Rendering rays",
        {
            **_field_tensors(parameters),
            "origins": (origins, "ray 3"),
            "directions": (directions, "ray 3"),
            "middles": (intervals.middles, "ray sample"),
            "lengths": (intervals.lengths, "ray sample"),
        },
        _field_sizes(layout),
    )
    if _use_numba(parameters, layout, intervals.middles.shape[1], backend):
        from fm3d_plugins.kernels.radiance_field.numba_backend import render_rays_numba

        return render_rays_numba(parameters, layout, origins, directions, intervals, calm_distance)
    return render_rays_torch(
        parameters, layout, origins, directions, intervals, calm_distance, "auto"
    )


@torch.no_grad()
def density(
    parameters: FieldParameters,
    layout: HashGridLayout,
    positions: Float[Tensor, "point 3"],
    backend: FieldBackend = "auto",
) -> Float[Tensor, " point"]:
    """Density per scene unit at positions in scene units (world frame), without gradient.

    Raises:
        ValueError: The tensors do not belong together, or the backend cannot take them.
    """
    check_shapes(
        "The density",
        {**_field_tensors(parameters), "positions": (positions, "point 3")},
        _field_sizes(layout),
    )
    if _use_numba(parameters, layout, SAMPLES_STEP, backend):
        from fm3d_plugins.kernels.radiance_field.numba_backend import density_numba

        return density_numba(parameters, layout, positions)
    return density_torch(parameters, layout, positions, "auto")


def draw_intervals(
    densities: Float[Tensor, "x y z"],
    strata: Float[Tensor, " edge"],
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    num_samples: int,
    jitter: Float[Tensor, " ray"],
) -> Intervals:
    """Cut rays into intervals, short where a grid over contracted space is dense.

    Args:
        densities: Per scene unit.
        strata: Distances between which the grid is looked up once, scene units, ascending.
        origins: World frame, scene units.
        directions: Unit vectors, world frame.
        jitter: In [0, 1): shifts a ray's inner cuts.

    Raises:
        ValueError: The tensors do not belong together, the grid is no cube, or there are fewer
            than two edges or no samples.
    """
    check_shapes(
        "Drawing intervals",
        {
            "origins": (origins, "ray 3"),
            "directions": (directions, "ray 3"),
            "jitter": (jitter, "ray"),
            "densities": (densities, "cell cell cell"),
            "strata": (strata, "edge"),
        },
    )
    if len(strata) < 2 or num_samples < 1 or not len(densities):
        raise ValueError(
            f"Drawing intervals got {len(strata)} edges, {num_samples} samples and a grid of "
            f"{len(densities)} cells a side. Expected at least 2, 1 and 1."
        )
    if _is_float32_on_cpu(origins) and (len(strata) - 1) % SAMPLES_STEP == 0:
        from fm3d_plugins.kernels.radiance_field.importance_backend import draw_intervals_numba

        return draw_intervals_numba(densities, strata, origins, directions, num_samples, jitter)
    return draw_intervals_torch(densities, strata, origins, directions, num_samples, jitter)


def move_cells(
    grid: Float[Tensor, "x y z"],
    sums: Float[Tensor, " cell"],
    counts: Float[Tensor, " cell"],
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    middles: Float[Tensor, "ray sample"],
    densities: Float[Tensor, "ray sample"],
) -> None:
    """Move a grid's cells, in place, towards the densities of the samples that lie in them.

    Args:
        sums: Zero before and after; room to work in.
        counts: The same.
        middles: Distances of the samples along their rays, scene units.

    Raises:
        ValueError: The tensors do not belong together, or the grid is no cube.
    """
    check_shapes(
        "Moving cells",
        {
            "origins": (origins, "ray 3"),
            "directions": (directions, "ray 3"),
            "middles": (middles, "ray sample"),
            "densities": (densities, "ray sample"),
            "the grid": (grid, "side side side"),
            "sums": (sums, "cell"),
            "counts": (counts, "cell"),
        },
        {"cell": grid.numel()},
    )
    if _is_float32_on_cpu(origins) and middles.shape[1] % SAMPLES_STEP == 0:
        from fm3d_plugins.kernels.radiance_field.importance_backend import move_cells_numba

        move_cells_numba(grid, sums, counts, origins, directions, middles, densities)
        return
    positions = origins[:, None] + middles[..., None] * directions[:, None]
    move_cells_torch(grid, sums, counts, positions.flatten(0, 1), densities.flatten())


def _field_tensors(parameters: FieldParameters) -> dict[str, tuple[Tensor, str]]:
    """The field's parameters, each with its axes."""
    axes = ("entry 4", "feature 64", "64 16", "16 64", "16 64", "64 3")
    names = (entry.name for entry in fields(parameters))
    return dict(zip(names, zip(parameters.tensors(), axes, strict=True), strict=True))


def _field_sizes(layout: HashGridLayout) -> dict[str, int]:
    return {"entry": layout.num_entries, "feature": layout.num_features}


def _is_float32_on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def _use_numba(
    parameters: FieldParameters, layout: HashGridLayout, num_samples: int, backend: FieldBackend
) -> bool:
    if backend == "torch":
        return False
    table = parameters.table
    sizes_suit = num_samples % SAMPLES_STEP == 0 and layout.num_features % SAMPLES_STEP == 0
    suits = _is_float32_on_cpu(table) and sizes_suit
    if backend == "numba" and not suits:
        raise ValueError(
            f"The numba backend got {table.dtype} parameters on {table.device}, {num_samples} "
            f"samples per ray and {layout.num_features} features. It takes float32 on the CPU and "
            f"multiples of {SAMPLES_STEP}. Use backend='auto'."
        )
    return suits
