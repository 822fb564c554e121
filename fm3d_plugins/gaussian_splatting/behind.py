"""What the model draws behind its gaussians."""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.colors import get_color
from torch import Tensor

from fm3d_plugins.backgrounds.finding import BACKGROUND
from fm3d_plugins.backgrounds.kept import KEPT, KeptBackground
from fm3d_plugins.backgrounds.plain import PlainBackground
from fm3d_plugins.backgrounds.regions import resized
from fm3d_plugins.backgrounds.still import StillBackground
from fm3d_plugins.backgrounds.surroundings import seen_in
from fm3d_plugins.nerfstudio_cameras import Pinhole, pixel_directions

SURROUNDINGS = "surroundings"
"""Key of the training dataset's metadata: [row, column, 3], what lies behind everything, as
`surroundings` makes it; absent where there is a background, or nothing."""

BackgroundColor = Literal["auto", "random", "black", "white"]

VIEWER_BACKGROUND = (0.1490, 0.1647, 0.2157)
"""Shown behind the gaussians when training sees random backgrounds: the grey of the viewer."""

EMPTINESS = 0.1
"""Weight in the loss of the mean opacity, over a view's pixels, of what is drawn where its photo
shows its background."""

OUTLINES = 0.5
"""Weight in the loss of pixels at a thing's outline before a plain backdrop."""

SAVED = (*KEPT, "surroundings")
"""Names of what is kept in checkpoints; one of them at most is there."""


class Behind(KeptBackground):
    """Colours behind the gaussians, in training and outside.

    In training: random ones, so that the gaussians become opaque; but where a photo may show its
    background, that. Outside: the background of the photos, or else their surroundings, which a
    checkpoint brings along.
    """

    saved = SAVED
    color: Float[Tensor, "3"]
    surroundings: Float[Tensor, "row column 3"] | None

    def __init__(self, color: BackgroundColor, metadata: dict[str, Any]) -> None:
        found: PlainBackground | StillBackground | None = metadata.get(BACKGROUND)
        super().__init__(found if color == "auto" else None)
        self.of_photos = found if color == "auto" else None
        self.is_random = color in ("auto", "random")
        chosen = torch.tensor(VIEWER_BACKGROUND) if self.is_random else get_color(color)
        self.register_buffer("color", chosen, persistent=False)
        if color == "auto" and found is None and SURROUNDINGS in metadata:
            self.keep("surroundings", metadata[SURROUNDINGS])

    def one_color(self) -> Float[Tensor, "3"]:
        """Behind everything, for the rasteriser: another one each time where it is random."""
        if self.training and self.is_random:
            return torch.rand(3, device=self.color.device)
        return self.color

    def in_view(
        self, seen: Pinhole, camera: Cameras, color: Float[Tensor, "3"]
    ) -> Float[Tensor, "height width 3"] | None:
        """What lies behind the gaussians of a view; None: that colour.

        Args:
            seen: The view.
            camera: The same as nerfstudio has it; in training its metadata tell which photo it is.
            color: By `one_color`.
        """
        size = seen.height, seen.width
        if self.training:
            photo = (camera.metadata or {}).get("cam_idx")
            if self.of_photos is None or photo is None:
                return None
            may_be_shown = self._region(self.of_photos.may_be_shown[photo], color, *size)
            behind = self.of_photos.colors(photo, *size).to(color)
            return may_be_shown * behind + (1 - may_be_shown) * color
        if self.surroundings is not None:
            return seen_in(self.surroundings, pixel_directions(seen).detach())
        return self.at_size(*size)

    def weight(
        self, photo: int, image: Float[Tensor, "height width 3"]
    ) -> Float[Tensor, "height width 1"] | None:
        """How much a training photo's pixels count: outlines before a plain backdrop less, as a
        small error is as large there as the contrast; None: all alike."""
        if not isinstance(self.of_photos, PlainBackground):
            return None
        may_be, is_shown = (
            self._region(regions[photo], image, *image.shape[:2])
            for regions in (self.of_photos.may_be_shown, self.of_photos.is_shown)
        )
        return 1 - (1 - OUTLINES) * may_be * (1 - is_shown)

    def emptiness(
        self, photo: int, opacity: Float[Tensor, "height width 1"]
    ) -> Float[Tensor, ""] | None:
        """Loss that pulls to nothing what is drawn where a photo shows its background; None where
        photos have none."""
        if self.of_photos is None:
            return None
        region = self._region(self.of_photos.is_shown[photo], opacity, *opacity.shape[:2])
        return EMPTINESS * (opacity * region).mean()

    @staticmethod
    def _region(
        region: Bool[Tensor, "_ _"], like: Tensor, height: int, width: int
    ) -> Float[Tensor, "_ _ 1"]:
        return resized(region, height, width).to(like)
