"""Where pixels of a photo lie in a map of it: a network's canvas, a depth map, a scaled copy."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.cameras import crop_intrinsics, resize_intrinsics


@dataclass(frozen=True)
class PixelMap:
    """map pixel = photo pixel * scale + offset, on each axis; one for each photo of a batch.

    (0, 0) is the corner of the first pixel on both sides, so that no half-pixel term appears.
    """

    scale: Float[Tensor, "*batch 2"]
    """Map pixels per photo pixel, along x and y."""
    offset: Float[Tensor, "*batch 2"]
    """Where the photo's corner lies, map pixels."""

    @staticmethod
    def stack(maps: Sequence["PixelMap"]) -> "PixelMap":
        """One batch of several."""
        return PixelMap(
            torch.stack([each.scale for each in maps]), torch.stack([each.offset for each in maps])
        )

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, rows: int | slice | Tensor) -> "PixelMap":
        return PixelMap(self.scale[rows], self.offset[rows])

    def on_map(self, pixels: Float[Tensor, "*batch point 2"]) -> Float[Tensor, "*batch point 2"]:
        """Positions in the map of positions in the photo, in the precision of the positions."""
        return pixels * self.scale.to(pixels).unsqueeze(-2) + self.offset.to(pixels).unsqueeze(-2)

    def on_photo(self, pixels: Float[Tensor, "*batch point 2"]) -> Float[Tensor, "*batch point 2"]:
        """Positions in the photo of positions in the map, inverse of `on_map`."""
        scale, offset = self.scale.to(pixels), self.offset.to(pixels)
        return (pixels - offset.unsqueeze(-2)) / scale.unsqueeze(-2)

    def intrinsics_on_map(
        self, intrinsics: Float[Tensor, "*batch 3 3"]
    ) -> Float[Tensor, "*batch 3 3"]:
        """Pinhole matrices in pixels of the map, from those in pixels of the photo."""
        scale, offset = self.scale.to(intrinsics), self.offset.to(intrinsics)
        return crop_intrinsics(resize_intrinsics(intrinsics, scale), -offset)

    def intrinsics_on_photo(
        self, intrinsics: Float[Tensor, "*batch 3 3"]
    ) -> Float[Tensor, "*batch 3 3"]:
        """Pinhole matrices in pixels of the photo, inverse of `intrinsics_on_map`."""
        scale, offset = self.scale.to(intrinsics), self.offset.to(intrinsics)
        return resize_intrinsics(crop_intrinsics(intrinsics, offset), 1 / scale)
