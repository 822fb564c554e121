"""Photos of several sizes as a network sees them one by one, and what it says in photo pixels."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fm3d_plugins.dust3r.network import PairPrediction
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.estimators.dense.depth_store import DepthStore
from fm3d_plugins.estimators.vggt.network_chunks import sky_of
from fm3d_plugins.photos.canvas import NetworkPhotos, OwnFrames, load_photos, padded
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.scene import ViewDepth

NO_CONFIDENCE = 1.0
"""The network's lowest confidence: its logarithm, the weight of a pixel, is 0."""


class FramedPhotos:
    """A scene's photos, read from their files whenever they are asked for."""

    def __init__(self, photos: PhotoSet, frames: OwnFrames, *, drop_sky: bool) -> None:
        self._photos, self._frames, self._drop_sky = photos, frames, drop_sky
        self._usable: dict[int, Bool[Tensor, "rows columns"]] = {}

    def __len__(self) -> int:
        return len(self._photos)

    @property
    def names(self) -> list[str]:
        """File names, by row."""
        return [photo.name for photo in self._photos]

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each photo as the network sees it."""
        return self._frames.shapes

    def signed_image(self, row: int) -> Float[Tensor, "3 rows columns"]:
        """RGB in [-1, 1]."""
        return self._loaded(row).images[0] * 2 - 1

    def colors(self, row: int) -> UInt8[Tensor, "rows columns 3"]:
        """One photo's colours, pixel by pixel of its padded depth map."""
        image = (self._loaded(row).images[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
        return padded(image, self._frames.common_shape)

    def masked(
        self, confidence: Float[Tensor, "rows columns"], row: int
    ) -> Float[Tensor, "rows columns"]:
        """The network's confidence, with none for masked pixels and the sky."""
        return torch.where(self._usable_pixels(row), confidence, NO_CONFIDENCE)

    def pair(self, first: int, second: int, seen: PairPrediction) -> PairPointmaps:
        """What the network says of two photos, with no confidence for masked pixels."""
        return PairPointmaps(
            first,
            second,
            seen.points_first,
            self.masked(seen.confidence_first, first),
            seen.points_second_in_first,
            self.masked(seen.confidence_second, second),
        )

    def view_depth(
        self,
        depth: Sequence[Float[Tensor, "_rows _columns"]],
        confidence: Sequence[Float[Tensor, "_rows _columns"]],
    ) -> ViewDepth:
        """Maps of all photos, with confidence 1 - 1/c.

        Args:
            depth: z-depth, scene units; not positive is unknown.
            confidence: The network's, from 1.
        """
        shape = self._frames.common_shape
        store = DepthStore((len(depth), *shape), self._frames.map_from_photo)
        for row, (own, sure) in enumerate(zip(depth, confidence, strict=True)):
            known = self._usable_pixels(row) & (own > 0) & (sure > NO_CONFIDENCE)
            relative = torch.where(known, 1 - 1 / sure, 0.0)
            store.put(row, padded(own.float(), shape), padded(relative.float(), shape))
        return store.finished(torch.ones(len(depth), dtype=torch.float64))

    def _loaded(self, row: int) -> NetworkPhotos:
        canvas = self._frames.canvases[row]
        loaded = load_photos([self._photos.photos[row]], canvas.placements, canvas)
        if row not in self._usable:
            usable = loaded.usable
            self._usable[row] = (usable & ~sky_of(loaded) if self._drop_sky else usable)[0]
        return loaded

    def _usable_pixels(self, row: int) -> Bool[Tensor, "rows columns"]:
        if row not in self._usable:
            self._loaded(row)
        return self._usable[row]
