"""Photos as a network takes them: on canvases, and the way back to each photo's pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Shaped, UInt8
from torch import Tensor

from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.geometry.rays import pixel_centers
from fm3d_plugins.photos.photo import Photo
from fm3d_plugins.photos.pixels import alpha_channel, rgb_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

Framing = Literal["fit", "crop", "pad", "square"]
OwnFraming = Literal["long", "no-squares", "short"]
Resampling = Literal["bicubic", "lanczos"]

WHITE, BLACK = 255, 0


@dataclass(frozen=True)
class Placement:
    """Where one photo lies on the canvas: a box of the photo is resized, then pasted or cut."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in photo pixels; beyond the photo there is black."""
    width: int
    """Of the resized box, canvas pixels."""
    height: int
    left: int
    """Canvas column of the resized box's corner; below zero, that much is cut off."""
    top: int

    @property
    def map_from_photo(self) -> PixelMap:
        """Where pixels of the photo lie on the canvas, float64."""
        corner, end = torch.tensor(self.box, dtype=torch.float64).split(2)
        scale = torch.tensor([self.width, self.height]) / (end - corner)
        return PixelMap(scale, torch.tensor([self.left, self.top]) - corner * scale)


@dataclass(frozen=True)
class Canvas:
    """What a network sees one photo on."""

    width: int
    height: int
    placement: Placement
    margin: int = WHITE
    """Grey value around a photo that does not fill the canvas."""
    resampling: Resampling = "bicubic"
    """How the photo is resized; both average where it shrinks."""


@dataclass(frozen=True)
class Canvases:
    """The canvas of each photo of a scene."""

    each: tuple[Canvas, ...]

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each photo as the network sees it."""
        return tuple((canvas.height, canvas.width) for canvas in self.each)

    @property
    def common_shape(self) -> tuple[int, int]:
        """Rows and columns that hold every photo: what maps are padded to (`padded`)."""
        rows, columns = zip(*self.shapes, strict=True)
        return max(rows), max(columns)

    @property
    def map_from_photo(self) -> PixelMap:
        """Where pixels of every photo lie; padding does not change it."""
        return PixelMap.stack([canvas.placement.map_from_photo for canvas in self.each])


def plan_common_canvas(
    sizes: Sequence[tuple[int, int]], *, longest: int, patch: int, framing: Framing = "fit"
) -> Canvases:
    """Choose one canvas for all photos, for networks that see them together.

    Args:
        sizes: Width and height of each upright photo.
        longest: Of the canvas, pixels; a multiple of `patch`.
        patch: Both sides of the canvas are multiples of it.
        framing: fit: the longer side becomes `longest`, the other its nearest multiple of
            `patch`; pixels stay square, and two opposite sides are cut by what that takes (at
            most 3 % of a photo whose sides are as 2 to 1). crop: the width becomes
            `longest` and rows beyond that many are cut off; pad: white margins to a
            square; both as VGGT's own loader (`load_and_preprocess_images`). square: black
            margins to a square (its `load_and_preprocess_images_square`).

    Raises:
        ValueError: `longest` is no positive multiple of `patch`, or there is no photo.
    """
    _require_plannable(sizes, longest, patch)
    place = {"fit": _fit, "crop": _crop, "pad": _pad, "square": _square}[framing]
    placed = [place(width, height, longest, patch) for width, height in sizes]
    margin = BLACK if framing == "square" else WHITE
    if framing in ("pad", "square"):
        return Canvases(tuple(Canvas(longest, longest, one, margin) for one in placed))
    shown = [(min(one.width, longest), min(one.height, longest)) for one in placed]
    width, height = (max(sides) for sides in zip(*shown, strict=True))
    centred = [_centred(one, *show, width, height) for one, show in zip(placed, shown, strict=True)]
    return Canvases(tuple(Canvas(width, height, one, margin) for one in centred))


def plan_own_canvases(
    sizes: Sequence[tuple[int, int]],
    *,
    resolution: int,
    patch: int = 16,
    framing: OwnFraming = "long",
) -> Canvases:
    """Choose a canvas for each photo as DUSt3R's own loader does (`load_images`).

    Photos are resized with square pixels, rounded to whole ones, and cut equally on opposite sides:
    Lanczos where they shrink, bicubic where they grow.

    Args:
        sizes: Width and height of each upright photo.
        resolution: Of one side of the canvases, pixels; a multiple of `patch`.
        patch: Both sides of a canvas are multiples of it.
        framing: long: the longer side becomes `resolution`, and of the other at most
            `patch` pixels are cut off. no-squares: the same, but square photos lose a quarter of
            their height, as by the authors' default, whose networks for 512 pixels saw no squares
            in training. short: the shorter side becomes `resolution`, and the other is cut to
            the same (the authors' way with the network for 224 pixels).

    Raises:
        ValueError: `resolution` is no positive multiple of `patch`, there is no photo, or one is
            so long and narrow that its canvas would be empty.
    """
    _require_plannable(sizes, resolution, patch)
    canvases = []
    for row, (width, height) in enumerate(sizes):
        canvas = _own_canvas(width, height, resolution, patch, framing)
        if not (canvas.width and canvas.height):
            raise ValueError(
                f"Photo {row + 1} of {len(sizes)} has {width} x {height} pixels, too long and "
                f"narrow for a network with patches of {patch} pixels at a resolution of "
                f"{resolution}. Expected sides of at most {resolution // patch} to 1. Crop the "
                "photo or raise the resolution."
            )
        canvases.append(canvas)
    return Canvases(tuple(canvases))


def padded(
    values: Shaped[Tensor, "rows columns *channels"], shape: tuple[int, int]
) -> Shaped[Tensor, "_rows _columns *channels"]:
    """A map, or colours, with zeros to its right and below it: for depth, nothing known there.

    Pixels keep their coordinates, so `map_from_photo` holds for the padded map too.

    Args:
        shape: Rows and columns wanted, no less than there are.
    """
    rows, columns = values.shape[:2]
    assert rows <= shape[0] and columns <= shape[1]
    larger = values.new_zeros(*shape, *values.shape[2:])
    larger[:rows, :columns] = values
    return larger


def on_canvas(
    photo: Photo, canvas: Canvas
) -> tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "height width"]]:
    """Read a photo and put it on its canvas.

    Returns:
        RGB, in which transparent and masked pixels are white, as VGGT's authors prepare them; and
        which pixels are of use: not margins, nor what a mask or the alpha channel leaves out.
    """
    stored = photo.open()
    pixels = paste(on_white(stored), canvas).copy()
    centers = pixel_centers(canvas.height, canvas.width, dtype=torch.float64)
    seen = canvas.placement.map_from_photo.on_photo(centers.flatten(0, 1)).view_as(centers)
    usable = ((seen > 0) & (seen < torch.tensor(stored.size))).all(-1).numpy()
    keep = photo.usable_pixels(stored)
    if keep is not None:
        column, row = seen.long().unbind(-1)
        kept = keep[row.clamp(0, photo.height - 1), column.clamp(0, photo.width - 1)]
        pixels[usable & ~kept] = WHITE
        usable &= kept
    return pixels, usable


def on_white(image: "Image") -> "Image":
    """8-bit RGB of a picture of any mode; alpha is composited over white."""
    from PIL import Image

    if alpha_channel(image) is not None:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255,) * 4), rgba).convert("RGB")
    return Image.fromarray(rgb_pixels(image))


def paste(image: "Image", canvas: Canvas) -> np.ndarray:
    """A picture resized (antialiased) and put on a canvas, uint8, rows x columns x 3."""
    from PIL import Image

    placement, how = canvas.placement, Image.Resampling[canvas.resampling.upper()]
    box, size = placement.box, (placement.width, placement.height)
    if box[0] < 0 or box[1] < 0 or box[2] > image.width or box[3] > image.height:
        left, top, right, bottom = (round(side) for side in box)
        resized = image.crop((left, top, right, bottom)).resize(size, how)
    else:
        resized = image.resize(size, how, box=box)
    target = Image.new(image.mode, (canvas.width, canvas.height), (canvas.margin,) * 3)
    target.paste(resized, (placement.left, placement.top))
    return np.asarray(target)


def _require_plannable(sizes: Sequence[tuple[int, int]], resolution: int, patch: int) -> None:
    if not sizes:
        raise ValueError("No photo was given. Expected at least one.")
    if resolution < patch or resolution % patch:
        lower = max(patch, resolution // patch * patch)
        raise ValueError(
            f"The resolution is {resolution} pixels. Expected a positive multiple of {patch}, the "
            f"side of the network's patches. Set it to {lower} or {lower + patch}."
        )


def _fit(width: int, height: int, longest: int, patch: int) -> Placement:
    scale = longest / max(width, height)
    new_width = max(patch, round(width * scale / patch) * patch)
    new_height = max(patch, round(height * scale / patch) * patch)
    # The larger of the two ratios, so that the photo covers the canvas and pixels stay square.
    exact = max(new_width / width, new_height / height)
    cut_x, cut_y = (width - new_width / exact) / 2, (height - new_height / exact) / 2
    box = (max(0.0, cut_x), max(0.0, cut_y), width - max(0.0, cut_x), height - max(0.0, cut_y))
    return Placement(box, new_width, new_height, 0, 0)


def _crop(width: int, height: int, longest: int, patch: int) -> Placement:
    # Python's round, halves to even, is part of the official result.
    new_height = max(patch, round(height * (longest / width) / patch) * patch)
    return Placement((0.0, 0.0, float(width), float(height)), longest, new_height, 0, 0)


def _pad(width: int, height: int, longest: int, patch: int) -> Placement:
    if width >= height:
        new = longest, max(patch, round(height * (longest / width) / patch) * patch)
    else:
        new = max(patch, round(width * (longest / height) / patch) * patch), longest
    box = (0.0, 0.0, float(width), float(height))
    return _centred(Placement(box, *new, 0, 0), *new, longest, longest)


def _square(width: int, height: int, longest: int, patch: int) -> Placement:
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    box = (float(-left), float(-top), float(side - left), float(side - top))
    return Placement(box, longest, longest, 0, 0)


def _centred(
    placement: Placement, shown_width: int, shown_height: int, width: int, height: int
) -> Placement:
    """The placement with its middle `shown` part in the middle of the canvas."""
    cut_x, cut_y = (placement.width - shown_width) // 2, (placement.height - shown_height) // 2
    left, top = (width - shown_width) // 2 - cut_x, (height - shown_height) // 2 - cut_y
    return Placement(placement.box, placement.width, placement.height, left, top)


def _own_canvas(
    width: int, height: int, resolution: int, patch: int, framing: OwnFraming
) -> Canvas:
    longer = resolution
    if framing == "short":
        longer = round(resolution * max(width / height, height / width))
    # The order of operations and Python's round, halves to even, are part of the official result.
    new_width, new_height = (round(side * longer / max(width, height)) for side in (width, height))
    # Whole patches around the middle, whose column or row is rounded down.
    patches_x, patches_y = (2 * (side // 2) // patch for side in (new_width, new_height))
    if framing == "short":
        patches_x = patches_y = min(patches_x, patches_y)
    elif framing == "no-squares" and new_width == new_height:
        patches_y = 3 * patches_x // 4
    left, top = patches_x * patch // 2 - new_width // 2, patches_y * patch // 2 - new_height // 2
    box = (0.0, 0.0, float(width), float(height))
    placement = Placement(box, new_width, new_height, left, top)
    how = "lanczos" if max(width, height) > longer else "bicubic"
    return Canvas(patches_x * patch, patches_y * patch, placement, resampling=how)
