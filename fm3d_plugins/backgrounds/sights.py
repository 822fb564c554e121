"""Small copies of photos as they are compared to tell a picture that stands still."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fm3d_plugins.backgrounds.regions import counted, frame_of, small

ALIKE = 0.06
"""By how much a colour may differ from the picture's there, in each of its channels."""

LEAST_DETAIL = 0.004
"""Deviation of a square's colours, beside what is the same along its rows or columns."""

SAME = 0.8
"""Correlation of two squares that show the same."""

FRAME = 0.12
"""Width of the frame that is compared, as a share of a photo's side."""

DARKEST, MOST_GAIN = 0.1, 2.0
"""Brightness of pixels that tell a photo's exposure, and how far it may be from the others'."""


@dataclass(frozen=True)
class Sight:
    """A small copy of a photo, and which of its pixels count."""

    colors: Float[np.ndarray, "h w 3"]
    counts: Bool[np.ndarray, "h w"]

    @staticmethod
    def of(image: Shaped[Tensor, "_ _ 3"], mask: Tensor | None) -> "Sight":
        counts = counted(mask, *image.shape[:2])
        return Sight(small(image).numpy(), counts.numpy())

    def gain(self, picture: Float[np.ndarray, "h w 3"]) -> float:
        """How much brighter the photo is along its border; 1 where a picture is black there."""
        along = frame_of(*self.counts.shape, share=FRAME).numpy() & self.counts
        bright = picture[along].mean(-1)
        seen = bright > DARKEST
        if not seen.any():
            return 1.0
        ratio = float(np.median(self.colors[along].mean(-1)[seen] / bright[seen]))
        return min(max(ratio, 1 / MOST_GAIN), MOST_GAIN)

    def without_gain(self, gain: float) -> "Sight":
        return Sight(self.colors / np.float32(gain), self.counts)

    def alike(self, picture: Float[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
        """Where most pixels around have the picture's colours."""
        near = (np.abs(self.colors - picture).max(-1) <= ALIKE) & self.counts
        return mean_around(near.astype(np.float32), 3) > 0.5  # noqa: PLR2004

    def same(
        self, picture: Float[np.ndarray, "h w 3"], window: int
    ) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """Where the square around a pixel has detail, and where that is the picture's, too."""
        own, other = _detail(self.colors, window), _detail(picture, window)
        power, others = (mean_around(each * each, window).clip(0) for each in (own, other))
        has_detail = (power > LEAST_DETAIL**2) & self.counts
        agreement = mean_around(own * other, window) >= SAME * np.sqrt(power * others)
        return has_detail, has_detail & agreement


def mean_around(values: Float[np.ndarray, "h w"], side: int) -> Float[np.ndarray, "h w"]:
    """Of the square of so many pixels around each one."""
    from scipy import ndimage

    return ndimage.uniform_filter(values, side)


def _detail(colors: Float[np.ndarray, "h w 3"], window: int) -> Float[np.ndarray, "h w"]:
    """Brightness without what is the same along the rows or the columns of a square: the light's
    fall, and a floor's straight end, which stand still while a camera goes around."""
    from scipy import ndimage

    bright = ndimage.gaussian_filter(colors.mean(-1), 1.0)
    along, across = (ndimage.uniform_filter1d(bright, window, axis) for axis in (1, 0))
    return bright - along - across + mean_around(bright, window)
