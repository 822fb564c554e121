"""What single pixels of the training photos show of their background."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fm3d_plugins.backgrounds.plain import PlainBackground, backdrop_at
from fm3d_plugins.backgrounds.still import StillBackground, at_places

MAY_BE, IS_SHOWN = 1, 2
"""That a pixel may show the background, as outlines are mixed, and that it does; 0: neither."""


class PhotoPixels(torch.nn.Module):
    """A background by photo and place: across and down, from 0 to 1 along the photo's sides."""

    _shown: UInt8[Tensor, " pixel"]
    _starts: Int[Tensor, " photo"]
    _sizes: Int[Tensor, "photo 2"]
    _coefficients: Float[Tensor, "photo 6 3"] | None
    _picture: UInt8[Tensor, "height width 3"] | None
    _gains: Float[Tensor, " photo"] | None

    def __init__(self, found: PlainBackground | StillBackground) -> None:
        super().__init__()
        regions = list(zip(found.is_shown, found.may_be_shown, strict=True))
        sizes = torch.tensor([is_shown.shape for is_shown, _ in regions])
        counts = sizes.prod(-1)
        shown = [torch.where(is_shown, IS_SHOWN, MAY_BE * may_be) for is_shown, may_be in regions]
        tensors = {
            "_shown": torch.cat([part.flatten() for part in shown]).byte(),
            "_starts": counts.cumsum(0) - counts,
            "_sizes": sizes,
            "_coefficients": getattr(found, "coefficients", None),
            "_picture": getattr(found, "picture", None),
            "_gains": getattr(found, "gains", None),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def shown(
        self, photo: Int[Tensor, " ray"], place: Float[Tensor, "ray 2"]
    ) -> UInt8[Tensor, " ray"]:
        """`IS_SHOWN`, `MAY_BE` or 0."""
        sizes = self._sizes[photo]
        row, column = (place.flip(-1) * sizes).long().unbind(-1)
        return self._shown[self._starts[photo] + row * sizes[:, 1] + column]

    def colors(
        self, photo: Int[Tensor, " ray"], place: Float[Tensor, "ray 2"]
    ) -> Float[Tensor, "ray 3"]:
        """Of the background there, in [0, 1], also where things hide it."""
        if self._coefficients is not None:
            return backdrop_at(self._coefficients[photo], place)
        assert self._picture is not None and self._gains is not None
        return (self._gains[photo, None] * at_places(self._picture, place)).clamp(0, 1)
