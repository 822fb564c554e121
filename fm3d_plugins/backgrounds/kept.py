"""The background of photos as a model keeps it in its checkpoints."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fm3d_plugins.backgrounds.plain import (
    PlainBackground,
    backdrop,
    backdrop_at,
    with_all_terms,
)
from fm3d_plugins.backgrounds.still import StillBackground, at_places, at_size

KEPT = ("plain_background", "still_background")
"""Names of what is kept in checkpoints; one of them at most is there."""


class KeptBackground(torch.nn.Module):
    """What lies behind everything in views that are no training photos, which a checkpoint brings
    along."""

    saved: tuple[str, ...] = KEPT
    plain_background: Float[Tensor, "6 3"] | None
    still_background: UInt8[Tensor, "height width 3"] | None
    anchor: Tensor
    """Where this module is."""

    def __init__(self, found: PlainBackground | StillBackground | None) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(()), persistent=False)
        for name in self.saved:
            self.register_buffer(name, None)
        if isinstance(found, PlainBackground):
            self.keep("plain_background", found.coefficients.mean(0))
        elif isinstance(found, StillBackground):
            self.keep("still_background", found.picture)

    def keep(self, name: str, colors: Tensor) -> None:
        """Take one of `saved`."""
        setattr(self, name, colors.clone().to(self.anchor.device))

    def take_from(self, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Make room for what a checkpoint brings; the checkpoint with the names of today.

        Args:
            state: Of the model. Older ones name it without the prefix.
            prefix: Of this module's names in it.
        """
        state = {f"{prefix}{key}" if key in self.saved else key: v for key, v in state.items()}
        plain = f"{prefix}plain_background"
        if plain in state:
            state[plain] = with_all_terms(state[plain])
        for name in self.saved:
            if f"{prefix}{name}" in state:
                self.keep(name, state[f"{prefix}{name}"])
        return state

    def at_size(self, height: int, width: int) -> Float[Tensor, "{height} {width} 3"] | None:
        """Behind a whole view of so many pixels; None where nothing is kept."""
        if self.plain_background is not None:
            return backdrop(self.plain_background, height, width)
        if self.still_background is not None:
            return at_size(self.still_background, height, width)
        return None

    def at(self, place: Float[Tensor, "ray 2"]) -> Float[Tensor, "ray 3"] | None:
        """Behind single pixels of views as large as the photos; None where nothing is kept.

        Args:
            place: Across and down, from 0 to 1 along a view's sides.
        """
        if self.plain_background is not None:
            return backdrop_at(self.plain_background, place)
        if self.still_background is not None:
            return at_places(self.still_background, place)
        return None
