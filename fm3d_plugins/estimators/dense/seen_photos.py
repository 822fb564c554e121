"""Photos as a network sees them, each read from its file once."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fm3d_plugins.estimators.dense.depth_store import mapped_zeros
from fm3d_plugins.estimators.dense.sky import sky_mask
from fm3d_plugins.photos.canvas import Canvases, on_canvas
from fm3d_plugins.photos.photo_set import PhotoSet

USABLE = 255


class SeenPhotos:
    """A scene's photos on their canvases, and which of their pixels are of use.

    Args:
        photos: Of the scene.
        canvases: Theirs.
        drop_sky: Take the sky for of no use, by looks (`sky_mask`).
        folder: Where the pixels lie once they are read; None: in memory. The file may be deleted
            at any time, what is open stays until it is let go.
    """

    def __init__(
        self,
        photos: PhotoSet,
        canvases: Canvases,
        *,
        drop_sky: bool,
        folder: Path | None = None,
    ) -> None:
        self.names = [photo.name for photo in photos]
        self.shapes, self.common_shape = canvases.shapes, canvases.common_shape
        self._photos, self._canvases, self._drop_sky = photos.photos, canvases.each, drop_sky
        self._is_read = [False] * len(photos)
        # Red, green, blue, and `USABLE` or 0.
        self._pixels = mapped_zeros(
            (len(photos), *self.common_shape, 4), torch.uint8, folder and folder / "seen"
        )

    def __len__(self) -> int:
        return len(self.names)

    def image(self, row: int) -> Float[Tensor, "3 rows columns"]:
        """RGB in [0, 1]; transparent and masked pixels are white."""
        rows, columns = self.shapes[row]
        colors = self._read(row)[:rows, :columns, :3]
        return colors.permute(2, 0, 1).float().div_(255)

    def usable(self, row: int) -> Bool[Tensor, "rows columns"]:
        """False on margins and the sky, and where a mask or the alpha channel says so."""
        rows, columns = self.shapes[row]
        return self._read(row)[:rows, :columns, 3] == USABLE

    @property
    def all_colors(self) -> UInt8[Tensor, "view rows columns 3"]:
        """`colors` of all photos."""
        for row in range(len(self)):
            self._read(row)
        return self._pixels[..., :3]

    def colors(self, row: int) -> UInt8[Tensor, "rows columns 3"]:
        """One photo's colours, pixel by pixel of a depth map padded to the common shape."""
        return self._read(row)[..., :3]

    def _read(self, row: int) -> UInt8[Tensor, "rows columns 4"]:
        if not self._is_read[row]:
            colors, usable = on_canvas(self._photos[row], self._canvases[row])
            if self._drop_sky:
                usable = usable & ~_sky(colors, usable)
            both = np.dstack([colors, usable * np.uint8(USABLE)])
            rows, columns = self.shapes[row]
            self._pixels[row, :rows, :columns] = torch.from_numpy(both)
            self._is_read[row] = True
        return self._pixels[row]


def _sky(
    colors: UInt8[np.ndarray, "rows columns 3"], usable: Bool[np.ndarray, "rows columns"]
) -> Bool[np.ndarray, "rows columns"]:
    """The sky among the usable pixels.

    White margins above a photo are no sky, and must not stand between it and the border.
    """
    mask = np.zeros_like(usable)
    rows = np.flatnonzero(usable.any(1))
    if len(rows):
        shown = slice(rows[0], rows[-1] + 1)
        mask[shown] = sky_mask(colors[shown])
    return mask
