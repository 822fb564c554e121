"""Depth maps of many views, on disk while they are made where there are many."""

import math
import os
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.view_depth import ViewDepth

HALF_RANGE = (1e-3, 1e3)
"""Median depths between which half precision has room on both sides; others are kept in single."""

LARGEST_HALF = 6e4


class DepthStore:
    """Takes depth and confidence of one view after the other, in half precision."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        map_from_photo: PixelMap,
        folder: Path | None = None,
    ) -> None:
        """Args:
        shape: Views, rows and columns.
        folder: Where the maps lie while they are made; None: in memory. The files may be
            deleted at any time, what is open stays until it is let go.
        """
        self._map_from_photo = map_from_photo
        self._depth = mapped_zeros(shape, torch.float16, folder and folder / "depth")
        self._confidence = mapped_zeros(shape, torch.float16, folder and folder / "confidence")
        self._range = torch.ones(shape[0], dtype=torch.float64)

    def put(
        self,
        view: int,
        depth: Float[Tensor, "rows columns"],
        confidence: Float[Tensor, "rows columns"],
    ) -> None:
        """Keep one view's maps; a pixel without confidence or with a senseless depth is unknown."""
        known = (confidence > 0) & depth.isfinite() & (depth > 0)
        middle = depth[known].median() if bool(known.any()) else depth.new_ones(())
        # Each view in units of its own median, so that half precision fits any scene.
        self._range[view] = float(middle)
        relative = (depth / middle).clamp(1 / LARGEST_HALF, LARGEST_HALF)
        self._depth[view] = torch.where(known, relative, 0.0)
        self._confidence[view] = torch.where(known, confidence.clamp(0, 1), 0.0)

    def finished(
        self,
        scale: Float[Tensor, " view"],
        colors: UInt8[Tensor, "view rows columns 3"] | None = None,
    ) -> ViewDepth:
        """All maps, each view's depth times its scale."""
        factors = self._range * scale
        depth = self._depth
        if not HALF_RANGE[0] < float(factors.min()) <= float(factors.max()) < HALF_RANGE[1]:
            depth = depth.float()
        for view, factor in enumerate(factors.tolist()):
            depth[view] = (depth[view].float() * factor).clamp(max=torch.finfo(depth.dtype).max)
        return ViewDepth(depth, self._confidence, self._map_from_photo, colors)


def mapped_zeros(shape: tuple[int, ...], dtype: torch.dtype, file: Path | None) -> Tensor:
    """Zeros in memory, or in a file that is mapped into it."""
    if file is None:
        return torch.zeros(shape, dtype=dtype)
    size = math.prod(shape)
    if hasattr(os, "posix_fallocate") and size:
        # A mapped page that finds no room on the disk would end the process.
        with file.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, size * dtype.itemsize)
    return torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(shape)
