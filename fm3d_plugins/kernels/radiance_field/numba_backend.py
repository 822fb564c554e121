"""The radiance field on a CPU."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.kernels.hash_grid import HashGridLayout
from fm3d_plugins.kernels.hash_grid.kernels import CHUNK, pull_back_all, scatter_all
from fm3d_plugins.kernels.hash_grid.numba_backend import level_rows
from fm3d_plugins.kernels.radiance_field.definitions import (
    SH_DEGREE,
    SHORTEST_CALM,
    FieldParameters,
    Intervals,
    RenderedRays,
)
from fm3d_plugins.kernels.radiance_field.kernels import (
    RAYS_PER_ITEM,
    densities_at,
    pull_back,
    pull_back_rays,
    render,
)
from fm3d_plugins.kernels.rasterizer.spherical_harmonics import sh_basis
from fm3d_plugins.kernels.simd import LANES
from fm3d_plugins.kernels.threads import run_kernel

RAYS_AT_ONCE = 4096
"""Rays whose features are held at once where no gradient is asked for."""


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _networks(matrices: tuple[Tensor, ...]) -> tuple[np.ndarray, ...]:
    """Weight matrices as the kernels want them: colours in 16 columns, 13 of them zero."""
    arrays = [_array(matrix) for matrix in matrices]
    if len(arrays) == 4:
        arrays[3] = np.pad(arrays[3], ((0, 0), (0, LANES - arrays[3].shape[1])))
    return tuple(arrays)


@dataclass(frozen=True)
class _Forward:
    """What a forward pass takes and what a backward pass needs of it."""

    inputs: tuple[np.ndarray, ...]
    """Rays, middles, lengths, what colours see of the direction, table."""
    networks: tuple[np.ndarray, ...]
    positions: np.ndarray
    features: np.ndarray
    densities: np.ndarray
    layout: HashGridLayout
    calm_distance: float


def _rendered(
    matrices: tuple[Tensor, ...],
    of_direction: Tensor,
    table: Tensor,
    rays: Tensor,
    intervals: Intervals,
    layout: HashGridLayout,
    calm_distance: float,
) -> tuple[tuple[Tensor, Tensor, Tensor], _Forward]:
    networks = _networks(matrices)
    num_rays, num_samples = intervals.middles.shape
    total = num_rays * num_samples
    positions = np.empty((3, total), np.float32)
    features = np.empty((total, layout.num_features), np.float32)
    rgb = np.empty((num_rays, 3), np.float32)
    weights = np.empty((num_rays, num_samples), np.float32)
    densities = np.empty((num_rays, num_samples), np.float32)
    inputs = (
        _array(rays),
        _array(intervals.middles),
        _array(intervals.lengths),
        _array(of_direction),
        _array(table),
    )
    run_kernel(
        render,
        -(-num_rays // RAYS_PER_ITEM),
        *inputs,
        level_rows(layout),
        networks,
        positions,
        features,
        (rgb, weights, densities),
    )
    results = torch.from_numpy(rgb), torch.from_numpy(weights), torch.from_numpy(densities)
    kept = _Forward(inputs, networks, positions, features, densities, layout, calm_distance)
    return results, kept


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        table,
        first,
        second,
        third,
        fourth,
        of_direction,
        rays,
        intervals,
        layout,
        calm_distance,
    ):
        matrices = (first, second, third, fourth)
        results, ctx.kept = _rendered(
            matrices, of_direction, table, rays, intervals, layout, calm_distance
        )
        ctx.set_materialize_grads(True)
        ctx.mark_non_differentiable(results[2])
        return results

    @staticmethod
    def backward(ctx, d_rgb, d_weights, _):
        if ctx.kept is None:
            raise RuntimeError(
                "The gradient of rendered rays was asked for twice, but the first time used up "
                "what the forward pass had kept. Render again."
            )
        kept: _Forward = ctx.kept
        ctx.kept = None
        rays, middles, lengths, of_direction, table = kept.inputs
        networks, positions, features = kept.networks, kept.positions, kept.features
        num_items = -(-len(rays) // RAYS_PER_ITEM)
        slots = np.zeros((num_items, sum(matrix.size for matrix in networks)), np.float32)
        d_of_direction = np.empty_like(of_direction)
        run_kernel(
            pull_back,
            num_items,
            middles,
            lengths,
            of_direction,
            networks,
            tuple(np.ascontiguousarray(matrix.T) for matrix in networks),
            features,
            kept.densities,
            np.float32(1 / max(kept.calm_distance, SHORTEST_CALM)),
            (_array(d_rgb), _array(d_weights)),
            (slots, d_of_direction),
        )
        levels = level_rows(kept.layout)
        d_table = d_rays = None
        if ctx.needs_input_grad[0]:
            d_table = torch.zeros(table.shape)
            run_kernel(scatter_all, len(levels), positions, levels, features, d_table.numpy())
        if ctx.needs_input_grad[6]:
            d_positions, num_chunks = np.empty_like(positions), -(-positions.shape[1] // CHUNK)
            run_kernel(pull_back_all, num_chunks, positions, table, levels, features, d_positions)
            d_array = np.empty_like(rays)
            run_kernel(pull_back_rays, num_items, rays, middles, d_positions, d_array)
            d_rays = torch.from_numpy(d_array)
        flat, ends = slots.sum(0), np.cumsum([matrix.size for matrix in networks])[:-1]
        gradients = [
            torch.from_numpy(part.reshape(matrix.shape))
            for part, matrix in zip(np.split(flat, ends), networks, strict=True)
        ]
        gradients[3] = gradients[3][:, :3]
        return d_table, *gradients, torch.from_numpy(d_of_direction), d_rays, None, None, None


def render_rays_numba(
    parameters: FieldParameters,
    layout: HashGridLayout,
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    intervals: Intervals,
    calm_distance: float,
) -> RenderedRays:
    """See `radiance_field.render_rays`; float32 on the CPU."""
    of_direction = sh_basis(directions, SH_DEGREE) @ parameters.color_direction
    matrices = (
        parameters.density_hidden,
        parameters.density_out,
        parameters.color_geometry,
        parameters.color_out,
    )
    rays = torch.cat([origins, directions], dim=-1)
    differentiable = (parameters.table, *matrices, of_direction, rays)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in differentiable):
        return RenderedRays(*_Render.apply(*differentiable, intervals, layout, calm_distance))
    parts = []
    for start in range(0, len(rays), RAYS_AT_ONCE):
        some = slice(start, start + RAYS_AT_ONCE)
        own = Intervals(intervals.middles[some], intervals.lengths[some])
        of_some = of_direction[some], parameters.table, rays[some]
        parts.append(_rendered(matrices, *of_some, own, layout, calm_distance)[0])
    if len(parts) == 1:
        return RenderedRays(*parts[0])
    return RenderedRays(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))


@torch.no_grad()
def density_numba(
    parameters: FieldParameters,
    layout: HashGridLayout,
    positions: Float[Tensor, "point 3"],
) -> Float[Tensor, " point"]:
    """See `radiance_field.density`; float32 on the CPU, without gradient."""
    num_items = -(-len(positions) // RAYS_PER_ITEM)
    missing = num_items * RAYS_PER_ITEM - len(positions)
    points = torch.nn.functional.pad(positions, (0, 0, 0, missing))
    densities = np.empty(len(points), np.float32)
    run_kernel(
        densities_at,
        num_items,
        _array(points),
        _array(parameters.table),
        level_rows(layout),
        _networks((parameters.density_hidden, parameters.density_out)),
        densities,
    )
    return torch.from_numpy(densities[: len(positions)])
