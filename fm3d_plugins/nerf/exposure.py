"""How bright each training photo came out."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Exposure(nn.Module):
    """Gain and offset per photo and colour channel, of which the mean over photos does nothing.

    A camera that sets its own exposure shows one surface in several brightnesses. Without these
    the field explains them by clouds before the cameras. The mean is fixed, so that a render
    without exposure has the photos' mean brightness.
    """

    def __init__(self, num_photos: int, num_rendered: int = 0) -> None:
        """Args:
        num_photos: Training photos.
        num_rendered: Rendered views behind them; these have no say in the mean.
        """
        super().__init__()
        self.num_photos = num_photos
        self.corrections = nn.Parameter(torch.zeros(num_photos + num_rendered, 6))

    def centred(self) -> Float[Tensor, "photo 6"]:
        """Logarithm of the gains and offsets of red, green and blue; mean 0 over photos."""
        return self.corrections - self.corrections[: self.num_photos].mean(0)

    def forward(
        self,
        colors: Float[Tensor, "ray 3"],
        opacity: Float[Tensor, "ray 1"],
        photo: Int[Tensor, " ray"],
    ) -> Float[Tensor, "ray 3"]:
        """Colours as the photos show them.

        Args:
            colors: Before any background.
            opacity: Share of each ray's colour; the offset acts on it alone.
            photo: Rows of training photos.
        """
        log_gain, offset = self.centred()[photo].split(3, dim=-1)
        return colors * log_gain.exp() + opacity * offset

    def penalty(self) -> Float[Tensor, ""]:
        """Mean square of the corrections, which pulls them towards none."""
        return self.centred().square().mean()
