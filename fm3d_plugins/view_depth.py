"""`ViewDepth`: what each view of a scene sees how far away."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fm3d_plugins.geometry.pixel_map import PixelMap


@dataclass(frozen=True)
class ViewDepth:
    """Depth maps of all views, at whatever size and crop the estimator worked on.

    Half precision is enough: its step of 1/2048 is finer than any estimate. What lies outside a map
    is unknown, and what a map pads around its photo is never asked for.
    """

    depth: Float[Tensor, "view rows columns"]
    """z-depth in the view's camera, scene units; 0 where it is unknown."""
    confidence: Float[Tensor, "view rows columns"]
    """In [0, 1]; higher is surer. What it measures is the estimator's to say."""
    map_from_photo: PixelMap
    """Where the pixels of each view's photo lie in its map."""
    colors: UInt8[Tensor, "view rows columns 3"] | None = None
    """The photo under each pixel of its map, where the estimator keeps it."""

    def __repr__(self) -> str:
        """What there is, in one line."""
        colors = "" if self.colors is None else ", with colours"
        return f"ViewDepth({list(self.depth.shape)} {self.depth.dtype}{colors})"

    def __post_init__(self) -> None:
        """Refuse maps that no later stage could use.

        Raises:
            ValueError: Shapes disagree, or values lie outside what the fields allow.
        """
        placed = (len(self.depth), 2) if self.depth.ndim else ()
        if (
            self.depth.ndim != 3
            or self.map_from_photo.scale.shape != placed
            or self.map_from_photo.offset.shape != placed
            or (self.colors is not None and self.colors.shape != (*self.depth.shape, 3))
            or (self.colors is not None and self.colors.dtype != torch.uint8)
        ):
            raise ValueError(
                f"Depth is {list(self.depth.shape)}, and photos are placed by "
                f"{list(self.map_from_photo.scale.shape)} numbers. Expected [V, H, W], [V, 2] and "
                "colours [V, H, W, 3] in 8 bits. Build them from the same views."
            )
        if self.confidence.shape != self.depth.shape or len(self.map_from_photo) != len(self.depth):
            raise ValueError(
                f"Depth is {list(self.depth.shape)}, confidence {list(self.confidence.shape)}, and "
                f"{len(self.map_from_photo)} photos are placed. Expected [V, H, W] twice and V. "
                "Build them from the same views."
            )
        for name, values, lowest, highest in (
            ("depth", self.depth, 0.0, torch.inf),
            ("confidence", self.confidence, 0.0, 1.0),
            ("map_from_photo.scale", self.map_from_photo.scale, 1e-9, torch.inf),
            ("map_from_photo.offset", self.map_from_photo.offset, -torch.inf, torch.inf),
        ):
            usable = values.isfinite() & (values >= lowest) & (values <= highest)
            if not bool(torch.all(usable)):
                raise ValueError(
                    f"ViewDepth.{name} has {int((~usable).sum())} of {usable.numel()} values that "
                    f"are not finite or outside {lowest:g} to {highest:g}. Set what is unknown to "
                    "depth 0, and map confidences to [0, 1]."
                )

    def __len__(self) -> int:
        return len(self.depth)

    def frame_shape(self, view: int, photo_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns that the whole photo has at the map's resolution; at least 1.

        Args:
            photo_size: Width and height in pixels.
        """
        scale_x, scale_y = self.map_from_photo.scale[view].double().tolist()
        width, height = photo_size
        return max(1, round(height * scale_y)), max(1, round(width * scale_x))

    def in_photo_frame(
        self, view: int, photo_size: tuple[int, int], shape: tuple[int, int] | None = None
    ) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "rows columns"]]:
        """One view's depth and confidence over exactly its photo, crop and padding undone.

        Args:
            photo_size: Width and height in pixels.
            shape: Rows and columns into which the photo is divided; the photo's own pixels if not
                given. Each takes the value of the map's pixel in which its centre lies.

        Returns:
            Both 0 where the map ends inside the photo.
        """
        width, height = photo_size
        rows, columns = shape or (height, width)
        x = (torch.arange(columns, dtype=torch.float64) + 0.5) * (width / columns)
        y = (torch.arange(rows, dtype=torch.float64) + 0.5) * (height / rows)
        here = self.map_from_photo[view]
        # Each axis by itself: a grid of a photo's pixels would be large.
        on_map = (here.on_map(axis[:, None].expand(-1, 2)) for axis in (x, y))
        # 1e-6: a centre that lies on the edge of two pixels must not waver with the rounding.
        column, row = ((p[:, i] + 1e-6).floor().long() for i, p in enumerate(on_map))
        map_rows, map_columns = self.depth.shape[1:]
        is_inside = (
            ((row >= 0) & (row < map_rows))[:, None] & (column >= 0) & (column < map_columns)
        )
        row, column = row.clamp(0, map_rows - 1)[:, None], column.clamp(0, map_columns - 1)
        depth, confidence = self.depth[view][row, column], self.confidence[view][row, column]
        return depth * is_inside, confidence * is_inside
