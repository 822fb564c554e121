"""What the model draws behind its gaussians."""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.colors import get_color
from torch import Tensor

from fm3d_plugins.backgrounds.plain import (
    PlainBackground,
    backdrop,
    with_all_terms,
)
from fm3d_plugins.backgrounds.regions import resized
from fm3d_plugins.backgrounds.still import StillBackground, at_size
from fm3d_plugins.backgrounds.surroundings import seen_in
from fm3d_plugins.nerfstudio_cameras import Pinhole, pixel_directions

BACKGROUND = "background"
"""Key of the training dataset's metadata: the `PlainBackground` or `StillBackground` of its photos;
absent where there is none."""

SURROUNDINGS = "surroundings"
"""Key of the training dataset's metadata: [row, column, 3], what lies behind everything, as
`surroundings` makes it; absent where there is a background, or nothing."""

BackgroundColor = Literal["auto", "random", "black", "white"]

VIEWER_BACKGROUND = (0.1490, 0.1647, 0.2157)
"""Shown behind the gaussians when training sees random backgrounds: the grey of the viewer."""

EMPTINESS = 0.1
"""Weight in the loss of the mean opacity, over a view's pixels, of what is drawn where its photo
shows its background."""

SAVED = ("plain_background", "still_background", "surroundings")
"""Names of what is kept in checkpoints; one of them at most is there."""


class Behind(torch.nn.Module):
    """Colours behind the gaussians, in training and outside.

    In training: random ones, so that the gaussians become opaque; but where a photo may show its
    background, that. Outside: the background of the photos, or else their surroundings, which a
    checkpoint brings along.
    """

    color: Float[Tensor, "3"]

    def __init__(self, color: BackgroundColor, metadata: dict[str, Any]) -> None:
        super().__init__()
        self.is_random = color in ("auto", "random")
        chosen = torch.tensor(VIEWER_BACKGROUND) if self.is_random else get_color(color)
        self.register_buffer("color", chosen, persistent=False)
        self.of_photos: PlainBackground | StillBackground | None = None
        self.plain_background: Float[Tensor, "6 3"] | None = None
        self.still_background: UInt8[Tensor, "height width 3"] | None = None
        self.surroundings: Float[Tensor, "row column 3"] | None = None
        if color != "auto":
            return
        self.of_photos = metadata.get(BACKGROUND)
        if isinstance(self.of_photos, PlainBackground):
            self._keep("plain_background", self.of_photos.coefficients.mean(0))
        elif isinstance(self.of_photos, StillBackground):
            self._keep("still_background", self.of_photos.picture)
        elif SURROUNDINGS in metadata:
            self._keep("surroundings", metadata[SURROUNDINGS])

    def take_from(self, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Make room for what a checkpoint brings; the checkpoint with the names of today.

        Args:
            state: Of the model. Older ones name it without the prefix.
            prefix: Of this module's names in it.
        """
        state = {f"{prefix}{key}" if key in SAVED else key: each for key, each in state.items()}
        plain = f"{prefix}plain_background"
        if plain in state:
            state[plain] = with_all_terms(state[plain])
        for name in SAVED:
            if f"{prefix}{name}" in state:
                self._keep(name, state[f"{prefix}{name}"])
        return state

    def _keep(self, name: str, colors: Tensor) -> None:
        delattr(self, name)
        self.register_buffer(name, colors.clone().to(self.color.device))

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
        if self.plain_background is not None:
            return backdrop(self.plain_background, *size)
        if self.still_background is not None:
            return at_size(self.still_background, *size)
        if self.surroundings is not None:
            return seen_in(self.surroundings, pixel_directions(seen).detach())
        return None

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
