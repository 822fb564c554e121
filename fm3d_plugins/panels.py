"""A held-out photo, its render, depth and error side by side, with titles and scales."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fm3d_plugins.atomic import atomic_write

GAP = 4
"""Pixels between the panels of a picture."""

TITLE, SCALE = 18, 14
"""Heights in pixels of the line with the titles, and of the one with the scales."""

WORST = 0.25
"""Mean absolute difference of colours in [0, 1] from which an error has the last colour."""

_Scale = tuple[float, float, tuple[str, str, str]]
"""Places of the first and last colour on the colour map; numbers at begin, middle and end."""

NARROWEST_SCALE = 120
"""Pixels; in a narrower panel the numbers of a scale would lie on each other."""


def panels(
    photo: Float[Tensor, "h w 3"],
    outputs: dict[str, Tensor],
    psnr: float,
    counts: Tensor | None = None,
) -> UInt8[Tensor, "rows columns 3"]:
    """A photo, its render, depth (where the model has one) and error in one picture.

    Depth is coloured by its inverse, from the nearest to the farthest two percent of the pixels;
    the error is the mean absolute difference of the three colours, from 0 to `WORST`.

    Args:
        photo: RGB in [0, 1].
        outputs: Of the model: `rgb`, `depth` [h, w, 1] and `accumulation` [h, w, 1].
        psnr: Of the render, in decibels.
        counts: Mask as nerfstudio's batches hold it: where it is false there is no error. None:
            all counts.
    """
    rendered = outputs["rgb"]
    parts: list[tuple[str, Tensor, _Scale | None]] = [
        ("photo", photo, None),
        (f"render, {psnr:.1f} dB", rendered, None),
    ]
    depth = outputs["depth"]
    if float(depth.min()) < float(depth.max()):  # The same everywhere: the model knows none.
        colored, near, far = depth_colors(depth)
        middle = 2 / (1 / near + 1 / far)
        numbers = (f"{near:.3g}", f"{middle:.3g}", f"{far:.3g}")
        parts.append(("depth, scene units", colored * outputs["accumulation"], (1.0, 0.0, numbers)))
    error = (rendered - photo).abs().mean(-1, keepdim=True) / WORST
    if counts is not None:
        error = error * counts.to(error)
    numbers = ("0", f"{WORST / 2:.3g}", f"{WORST:.3g} and more")
    parts.append(("error, mean over colours", _turbo(error), (0.0, 1.0, numbers)))
    columns = []
    for title, image, scale in parts:
        body = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        columns += [torch.cat([_header(title, body.shape[1], scale), body])]
        columns += [body.new_full((len(columns[-1]), GAP, 3), 255)]
    return torch.cat(columns[:-1], dim=1)


def write_picture(path: Path, picture: UInt8[Tensor, "rows columns 3"]) -> None:
    """Write a PNG atomically; its folder is made if it is not there."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        Image.fromarray(picture.numpy()).save(temporary, format="PNG")


def stacked(pictures: Sequence[UInt8[Tensor, "_ _ 3"]]) -> UInt8[Tensor, "rows columns 3"]:
    """Pictures below each other, white beside narrower ones."""
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        margin = (0, 0, 0, width - picture.shape[1], 0, GAP)
        rows.append(torch.nn.functional.pad(picture, margin, value=255))
    return torch.cat(rows)[:-GAP]


def photo_colors(
    image: Tensor, like: Float[Tensor, "h w 3"], background: Float[Tensor, "*#hw 3"]
) -> Float[Tensor, "h w 3"]:
    """A photo as floats in [0, 1], its transparent pixels over the background."""
    colors = image.to(like) / (255 if image.dtype == torch.uint8 else 1)
    if colors.shape[-1] == 3:
        return colors
    return colors[..., :3] * colors[..., 3:] + background * (1 - colors[..., 3:])


def depth_colors(
    depth: Float[Tensor, "h w 1"],
) -> tuple[Float[Tensor, "h w 3"], float, float]:
    """Colours of depth, and the depths of the first and the last colour.

    Inverse depth spreads the near part of a scene, where the detail is, over most colours.
    """
    near, far = torch.quantile(depth.flatten(), depth.new_tensor([0.02, 0.98])).clamp_min(1e-6)
    inverse = (1 / depth.clamp_min(1e-6) - 1 / far) / (1 / near - 1 / far).clamp_min(1e-9)
    return _turbo(inverse), float(near), float(far)


def _turbo(share: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch 3"]:
    from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap

    return apply_colormap(share.clamp(0, 1), ColormapOptions(colormap="turbo"))


def _header(title: str, width: int, scale: _Scale | None) -> UInt8[Tensor, "rows columns 3"]:
    """A title, and below it a bar of colours with the numbers of its ends and its middle."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width, TITLE + SCALE), "white")
    draw = ImageDraw.Draw(image)
    draw.text((2, 2), title, fill="black", font=ImageFont.load_default(12))
    if scale is not None:
        first, last, numbers = scale
        bar = _turbo(torch.linspace(first, last, width).expand(SCALE - 4, -1)[..., None])
        pixels = (bar * 255).round().to(torch.uint8).numpy()
        image.paste(Image.fromarray(pixels), (0, TITLE))
        places = zip(numbers, (2, width // 2, width - 2), ("la", "ma", "ra"), strict=True)
        for number, column, anchor in places if width >= NARROWEST_SCALE else ():
            font = ImageFont.load_default(10)
            draw.text(
                (column, TITLE - 1), number, fill="white", font=font, anchor=anchor,
                stroke_width=1, stroke_fill="black",
            )  # fmt: skip
    return torch.from_numpy(np.asarray(image).copy())
