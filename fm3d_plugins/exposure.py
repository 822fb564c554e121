"""How bright, and in which tint, each training photo came out."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

ExposureMode = Literal["none", "gain", "affine"]

PARAMETERS = "exposure.corrections"
"""Name of the corrections in a model's state; checkpoints of runs without exposure lack it."""


class Exposure(nn.Module):
    """Gain, and maybe offset, per photo and colour, of which the mean over photos does nothing.

    A camera that sets its own exposure and white balance shows one surface in several colours.
    Without these the scene explains them by clouds before the cameras. The mean is fixed, so that
    a render without exposure has the photos' mean brightness.
    """

    def __init__(self, num_photos: int, num_rendered: int = 0, has_offset: bool = True) -> None:
        """Args:
        num_photos: Training photos.
        num_rendered: Rendered views behind them; these have no say in the mean.
        has_offset: Colours become gain * colour + offset; otherwise gain * colour.
        """
        super().__init__()
        self.num_photos = num_photos
        columns = 6 if has_offset else 3
        self.corrections = nn.Parameter(torch.zeros(num_photos + num_rendered, columns))

    def centred(self) -> Float[Tensor, "photo column"]:
        """Logarithm of the gains of red, green and blue, and their offsets; mean 0 over photos.

        Not differentiable in the mean: a photo's error moves that photo alone.
        """
        return self.corrections - self.corrections[: self.num_photos].detach().mean(0)

    def forward(
        self,
        colors: Float[Tensor, "*batch 3"],
        opacity: Float[Tensor, "*batch 1"],
        photo: Int[Tensor, "*#batch"],
    ) -> Float[Tensor, "*batch 3"]:
        """Colours as the photos show them.

        Args:
            colors: Before any background.
            opacity: Share of each ray's colour; the offset acts on it alone.
            photo: Rows of training photos.
        """
        correction = self.centred()[photo]
        seen = colors * correction[..., :3].exp()
        return seen + opacity * correction[..., 3:] if correction.shape[-1] > 3 else seen

    def penalty(self, photo: int | None = None) -> Float[Tensor, ""]:
        """Mean square of the corrections, which pulls them towards none.

        Args:
            photo: Of this one; None: of all.
        """
        centred = self.centred()
        return (centred if photo is None else centred[photo]).square().mean()


def exposure_of(
    mode: ExposureMode | bool, num_photos: int, rendered: Tensor | None
) -> Exposure | None:
    """The module for an option; none where there is to be no correction.

    Args:
        mode: In config.yml of older runs of nerf, whether there is one.
        num_photos: Training views, rendered ones included.
        rendered: Which of them are rendered.
    """
    if mode in ("none", False):
        return None
    num_rendered = 0 if rendered is None else int(rendered.sum())
    return Exposure(num_photos - num_rendered, num_rendered, mode != "gain")
