"""The rasteriser on a CPU: two autograd functions around Numba kernels, float32.

`_Project` turns gaussians into splats, `_Composite` splats into images; between them stand
`means2d`, whose gradient density control reads, and `features` (see `NUM_FEATURES`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fm3d_plugins.kernels.rasterizer.binning_kernels import (
    NUM_FIELDS,
    count_per_tile,
    count_tiles,
    fill_slots,
    fill_tiles,
    sort_by_depth,
)
from fm3d_plugins.kernels.rasterizer.compositing_backward_kernels import (
    SLOT_SIZE,
    composite_backward,
    gather_slots,
)
from fm3d_plugins.kernels.rasterizer.compositing_kernels import TILE_STATE, composite
from fm3d_plugins.kernels.rasterizer.definitions import (
    TILE_SIZE,
    Camera,
    Gaussians,
    RasterizedView,
    camera_center,
)
from fm3d_plugins.kernels.rasterizer.projection_backward_kernels import (
    NUM_CAMERA_SUMS,
    project_backward,
)
from fm3d_plugins.kernels.rasterizer.projection_kernels import BLOCK, NUM_FEATURES, project
from fm3d_plugins.kernels.rasterizer.surface_depth_kernels import find_surface
from fm3d_plugins.kernels.simd import LANES
from fm3d_plugins.kernels.threads import get_num_threads, run_kernel


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _num_blocks(num_gaussians: int) -> int:
    return -(-num_gaussians // BLOCK)


class _Project(torch.autograd.Function):
    """Gaussians to splats: means2d, features, radii."""

    @staticmethod
    def forward(ctx, camera, pose, center, intrinsics, *gaussians):
        k = intrinsics.detach().double()
        # The camera as the projection kernels take it: pose, pinhole, image, settings.
        view = (
            (_array(pose.double()), _array(center.double())),
            (float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])),
            (float(camera.width), float(camera.height), camera.near, camera.far),
            (camera.sh_degree, camera.antialiased),
        )
        gaussians = tuple(value.detach().contiguous() for value in gaussians)
        num_gaussians = len(gaussians[0])
        means2d = torch.empty(num_gaussians, 2)
        features = torch.empty(num_gaussians, NUM_FEATURES)
        radii = torch.empty(num_gaussians, dtype=torch.int32)
        run_kernel(
            project,
            _num_blocks(num_gaussians),
            tuple(value.numpy() for value in gaussians),
            *view,
            (means2d.numpy(), features.numpy()),
            radii.numpy(),
        )
        ctx.view = view
        ctx.save_for_backward(features, radii, *gaussians)
        ctx.mark_non_differentiable(radii)
        return means2d, features, radii

    @staticmethod
    def backward(ctx, d_means2d, d_features, _):
        features, radii, *gaussians = ctx.saved_tensors
        d_gaussians = tuple(torch.empty_like(value) for value in gaussians)
        num_blocks = _num_blocks(len(radii))
        camera_sums = np.empty((num_blocks, NUM_CAMERA_SUMS))
        run_kernel(
            project_backward,
            num_blocks,
            tuple(value.numpy() for value in gaussians),
            *ctx.view,
            features.numpy(),
            radii.numpy(),
            (_array(d_means2d), _array(d_features)),
            tuple(value.numpy() for value in d_gaussians),
            camera_sums,
        )
        sums = torch.from_numpy(camera_sums.sum(0).astype(np.float32))
        d_pose = torch.zeros(3, 4)
        d_pose[:, :3], d_pose[:, 3] = sums[:9].reshape(3, 3), sums[9:12]
        d_intrinsics = torch.zeros(3, 3)
        d_intrinsics[0, 0], d_intrinsics[1, 1] = sums[15], sums[16]
        d_intrinsics[:2, 2] = sums[17:]
        return None, d_pose, sums[12:15], d_intrinsics, *d_gaussians


@dataclass(frozen=True)
class _Bins:
    """Splats sorted into tiles; see `binning_kernels`."""

    grid: tuple[int, int]
    records: np.ndarray
    slot_ends: np.ndarray
    slot_rows: np.ndarray
    tile_ends: np.ndarray
    list_gaussians: np.ndarray
    list_slots: np.ndarray

    def lists(self) -> tuple[np.ndarray, ...]:
        return self.tile_ends, self.list_gaussians, self.list_slots, self.slot_rows


def _bin(
    means2d: np.ndarray, features: np.ndarray, radii: np.ndarray, width: int, height: int
) -> _Bins:
    """Find each splat's slots, then list every tile's slots from front to back."""
    grid = (-(-height // TILE_SIZE), -(-width // TILE_SIZE))
    num_gaussians, num_tiles = len(radii), grid[0] * grid[1]
    num_blocks = _num_blocks(num_gaussians)
    records = torch.empty(num_gaussians, NUM_FIELDS).numpy()  # aligned to cache lines
    counts = np.empty(num_gaussians, np.int64)
    run_kernel(count_tiles, num_blocks, means2d, features, radii, grid, records, counts)
    slot_ends = np.cumsum(counts)
    num_slots = int(slot_ends[-1]) if num_gaussians else 0
    slot_tiles = np.empty(num_slots, np.int32)
    slot_rows = np.empty(num_slots, np.uint16)
    run_kernel(fill_slots, num_blocks, records, slot_ends, grid, slot_tiles, slot_rows)

    visible = np.flatnonzero(counts).astype(np.int32)
    # Positive floats sort like the integers with the same bits.
    depth_keys = features[:, 7].copy().view(np.uint32)
    order = sort_by_depth(depth_keys, visible, np.empty_like(visible))
    num_chunks = max(1, min(get_num_threads(), len(order) // BLOCK))
    chunk_counts = np.empty((num_chunks, num_tiles), np.int64)
    slots = (slot_ends, slot_tiles, slot_rows)
    run_kernel(count_per_tile, num_chunks, order, *slots, chunk_counts)
    tile_ends = np.cumsum(chunk_counts.sum(0))
    ends = np.cumsum(chunk_counts.T.ravel()).reshape(num_tiles, num_chunks).T
    list_gaussians = np.empty(tile_ends[-1], np.int32)
    list_slots = np.empty(tile_ends[-1], np.int64)
    cursors = np.ascontiguousarray(ends - chunk_counts)
    run_kernel(fill_tiles, num_chunks, order, *slots, cursors, list_gaussians, list_slots)
    return _Bins(grid, records, slot_ends, slot_rows, tile_ends, list_gaussians, list_slots)


class _Composite(torch.autograd.Function):
    """Splats to images: rgb, alpha, depth."""

    @staticmethod
    def forward(ctx, width, height, means2d, features, radii, background, absolute):
        bins = _bin(_array(means2d), _array(features), _array(radii), width, height)
        rgb = torch.empty(height, width, 3)
        alpha, depth = torch.empty(height, width, 1), torch.empty(height, width, 1)
        num_tiles = bins.grid[0] * bins.grid[1]
        # torch aligns to cache lines, numpy does not: vectors must not straddle two lines.
        states = torch.empty(num_tiles * TILE_STATE).numpy()
        run_kernel(
            composite,
            num_tiles,
            bins.grid[1],
            bins.lists(),
            bins.records,
            _array(background),
            states,
            (rgb.numpy(), alpha.numpy(), depth.numpy()),
        )
        ctx.set_materialize_grads(False)
        ctx.bins, ctx.states, ctx.absolute = bins, states, absolute
        ctx.save_for_backward(features, background, rgb, alpha, depth)
        return rgb, alpha, depth

    @staticmethod
    def backward(ctx, d_rgb, d_alpha, d_depth):
        features, background, rgb, alpha, depth = ctx.saved_tensors
        bins = ctx.bins
        num_tiles, num_gaussians = bins.grid[0] * bins.grid[1], len(features)
        nothing = torch.empty(0, 0, 1)
        d_images = (
            _array(torch.zeros_like(rgb) if d_rgb is None else d_rgb),
            _array(nothing if d_alpha is None else d_alpha),
            _array(nothing if d_depth is None else d_depth),
        )
        # A slot's sums are read as one vector, so the last one needs room behind it.
        slot_sums = np.empty(len(bins.slot_rows) * SLOT_SIZE + LANES, np.float32)
        d_backgrounds = np.empty((num_tiles, 3))
        run_kernel(
            composite_backward,
            num_tiles,
            bins.grid[1],
            bins.lists(),
            bins.records,
            _array(background),
            ctx.states,
            (rgb.numpy(), alpha.numpy(), depth.numpy()),
            d_images,
            ctx.absolute is not None,
            slot_sums,
            d_backgrounds,
        )
        d_means2d, d_features = torch.empty(num_gaussians, 2), torch.empty_like(features)
        run_kernel(
            gather_slots,
            _num_blocks(num_gaussians),
            bins.records,
            _array(features),
            bins.slot_ends,
            bins.slot_rows,
            slot_sums,
            d_means2d.numpy(),
            d_features.numpy(),
            (torch.empty(0, 2) if ctx.absolute is None else ctx.absolute).numpy(),
        )
        d_background = torch.from_numpy(d_backgrounds.sum(0).astype(np.float32))
        return None, None, d_means2d, d_features, None, d_background, None


def rasterize_numba(
    gaussians: Gaussians, camera: Camera, absolute: Tensor | None = None
) -> RasterizedView:
    """`rasterize` for float32 tensors on the CPU; see there."""
    means2d, features, radii = _Project.apply(
        camera,
        camera.camera_from_world[:3],
        camera_center(camera.camera_from_world),
        camera.intrinsics,
        *gaussians.values(),
    )
    rgb, alpha, depth = _Composite.apply(
        camera.width, camera.height, means2d, features, radii, camera.background, absolute
    )
    return RasterizedView(rgb, alpha, depth, means2d, radii, absolute)


def surface_depth_numba(gaussians: Gaussians, camera: Camera, measures: Tensor) -> Tensor:
    """`surface_depth` for float32 tensors on the CPU; see there.

    Args:
        measures: Of `ray_measures`.
    """
    means2d, features, radii = _Project.apply(
        camera,
        camera.camera_from_world[:3],
        camera_center(camera.camera_from_world),
        camera.intrinsics,
        *gaussians.values(),
    )
    width, height = camera.width, camera.height
    bins = _bin(_array(means2d), _array(features), _array(radii), width, height)
    depth = torch.empty(height, width)
    k = camera.intrinsics.double()
    pinhole = (float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]))
    run_kernel(
        find_surface,
        bins.grid[0] * bins.grid[1],
        bins.grid[1],
        bins.lists(),
        bins.records,
        _array(measures),
        pinhole,
        camera.near,
        depth.numpy(),
    )
    return depth
