"""Rooms without end: from seeds to images with exact cameras, depth and normals."""

from dataclasses import dataclass
from functools import lru_cache
from math import radians

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

_OCTAVES = (5, 3, 2)
"""Of the levels of noise, the finest first."""


@dataclass(frozen=True)
class RoomOptions:
    """Which rooms are drawn and how they are looked at."""

    min_fov_degrees: float = 40.0
    """Least field of view along the longer side of the images."""
    max_fov_degrees: float = 75.0
    arcs: float = 0.5
    """Share of paths around a point that is looked at; walks and pans share the rest by theirs."""
    walks: float = 0.3
    pans: float = 0.2

    def __post_init__(self) -> None:
        is_lens = 1 <= self.min_fov_degrees <= self.max_fov_degrees <= 150
        kinds = (self.arcs, self.walks, self.pans)
        if not is_lens or min(kinds) < 0 or sum(kinds) <= 0:
            raise ValueError(
                f"Found fields of view from {self.min_fov_degrees} to {self.max_fov_degrees} "
                f"degrees, and shares {kinds} of arcs, walks and pans. Expected 1 <= least <= "
                "greatest <= 150, and shares of which none is negative and one is above 0."
            )


@dataclass(frozen=True)
class RoomViews:
    """Views of several rooms, each along one path in its order. Metres; the z axis points up."""

    images: Float[Tensor, "room view 3 height width"]
    """RGB in [0, 1]."""
    depth: Float[Tensor, "room view height width"]
    """z in the camera, at the pixels' centres."""
    normals: Float[Tensor, "room view height width 3"]
    """World frame, out of the surface."""
    intrinsics: Float[Tensor, "room view 3 3"]
    """Pixels."""
    world_from_camera: Float[Tensor, "room view 4 4"]
    """OpenCV axes."""


def render_rooms(
    seeds: Int64[Tensor, " room"],
    num_views: int,
    height: int,
    width: int,
    options: RoomOptions | None = None,
) -> RoomViews:
    """Views of the rooms of some seeds, by as many threads as kernels use.

    A room, its lens and its path follow from its seed, the number of views, the options and the
    proportions of the images alone; the result is the same for any number of threads.

    Raises:
        ValueError: There is no view, or an image has no pixels.
    """
    from fm3d_plugins.kernels.threads import run_kernel
    from fm3d_plugins.synthetic_rooms.endless import kernels

    options = options or RoomOptions()
    if num_views < 1 or height < 1 or width < 1:
        raise ValueError(
            f"{num_views} views of {width} x {height} pixels were asked for; expected at least one "
            "view, and images of at least one pixel."
        )
    shape = (len(seeds), num_views)
    images = np.empty((*shape, 3, height, width), np.float32)
    depth = np.empty((*shape, height, width), np.float32)
    normals = np.empty((*shape, height, width, 3), np.float32)
    lenses, poses = np.empty((*shape, 3, 3)), np.empty((*shape, 4, 4))
    kinds = np.cumsum([options.arcs, options.walks, options.pans])
    fields = np.array([radians(options.min_fov_degrees), radians(options.max_fov_degrees)])
    run_kernel(
        kernels.render_rooms,
        len(seeds),
        seeds.numpy().astype(np.uint64),
        kinds / kinds[-1],
        fields,
        noise_tables(),
        images,
        depth,
        normals,
        lenses,
        poses,
    )
    return RoomViews(
        torch.from_numpy(images),
        torch.from_numpy(depth),
        torch.from_numpy(normals),
        torch.from_numpy(lenses).float(),
        torch.from_numpy(poses).float(),
    )


@lru_cache(maxsize=1)
def noise_tables() -> UInt8[np.ndarray, "level side side"]:
    """Fractal noise that tiles, with fewer octaves from level to level; the same always."""
    from fm3d_plugins.synthetic_rooms.endless.shading_kernels import NOISE_CELL, NOISE_SIDE

    rng = np.random.Generator(np.random.PCG64(7))
    octaves, cell = [], NOISE_CELL
    for octave in range(max(_OCTAVES)):
        octaves.append(0.55**octave * _value_noise(rng, NOISE_SIDE, cell))
        cell //= 2
    levels = []
    for count in _OCTAVES:
        total = np.sum(octaves[:count], axis=0)
        # The middle 98 % of the values use the whole range.
        levels.append(np.clip(0.5 + (total - total.mean()) / (4.6 * total.std()), 0, 1))
    return (255 * np.stack(levels)).round().astype(np.uint8)


def _value_noise(rng: np.random.Generator, side: int, cell: int) -> Float[np.ndarray, "side side"]:
    """Random values on a lattice, smoothly interpolated; tiles."""
    lattice = rng.random((side // cell, side // cell))
    share = (np.arange(cell) + 0.5) / cell
    share = share * share * (3 - 2 * share)
    next_row = np.roll(lattice, -1, 0)
    rows = lattice[:, None] + (next_row - lattice)[:, None] * share[:, None]
    rows = rows.reshape(side, -1)
    columns = rows[..., None] + (np.roll(rows, -1, 1) - rows)[..., None] * share
    return columns.reshape(side, side)
