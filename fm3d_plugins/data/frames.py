"""Frames of a scene at the size of a batch: photos, cameras and depth, lenses made pinholes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

from fm3d_plugins.data.scenes import CapturedScene, DepthFile
from fm3d_plugins.data.skipped import SkippedError
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.geometry.cameras import (
    denormalize,
    distort,
    normalize,
    resize_intrinsics,
    undistort,
)
from fm3d_plugins.geometry.rays import pixel_centers
from fm3d_plugins.photos.canvas import Canvas, Placement, on_white, paste
from fm3d_plugins.photos.fitting import FittedPhoto, fitted_photos

if TYPE_CHECKING:
    from PIL.Image import Image

TOO_SMALL = "photos too small"
LENS = "lens too strong"

ZOOMS = torch.arange(51, dtype=torch.float64) / 50 + 1
"""By which a pinhole may look closer so that it sees no more than the photo shows."""

_ROUNDING = 1e-6


@dataclass(frozen=True)
class _Frame:
    image: Float[Tensor, "3 height width"]
    intrinsics: Float[Tensor, "3 3"]
    depth: Float[Tensor, "height width"]
    is_valid: Bool[Tensor, "height width"]


def load_frames(scene: CapturedScene, numbers: Sequence[int], height: int, width: int) -> ViewBatch:
    """Some frames of a scene, scaled and cut to one size around their middle.

    Pixels stay square where they are. Depth is that of the nearest pixel of the map. Photos of
    lenses are made those of pinholes, which look closer where they would see beyond the photo.

    Returns:
        A batch of this scene alone; without depth if the scene has none.

    Raises:
        SkippedError: Photos are smaller than that, or no pinhole sees what a lens shows.
        ValueError: A file cannot be decoded, or does not belong to its camera.
        OSError: A file cannot be read.
    """
    frames = [_load(scene, number, height, width) for number in numbers]
    depth = torch.stack([frame.depth for frame in frames])[None]
    is_valid = torch.stack([frame.is_valid for frame in frames])[None]
    return ViewBatch(
        images=torch.stack([frame.image for frame in frames])[None],
        intrinsics=torch.stack([frame.intrinsics for frame in frames])[None].float(),
        world_from_camera=scene.world_from_camera[list(numbers)][None].float(),
        depth=depth if scene.depths else None,
        is_valid=is_valid if scene.depths else None,
    )


def joined(batches: Sequence[ViewBatch]) -> ViewBatch:
    """Several batches of one size as one; nothing is known of depth where some have none."""
    has_depth = any(batch.depth is not None for batch in batches)
    depths = [_no_depth(batch) if b is None else b for batch in batches for b in [batch.depth]]
    valid = [
        torch.zeros_like(depth, dtype=torch.bool) if batch.is_valid is None else batch.is_valid
        for batch, depth in zip(batches, depths, strict=True)
    ]
    return ViewBatch(
        images=torch.cat([batch.images for batch in batches]),
        intrinsics=torch.cat([batch.intrinsics for batch in batches]),
        world_from_camera=torch.cat([batch.world_from_camera for batch in batches]),
        depth=torch.cat(depths) if has_depth else None,
        is_valid=torch.cat(valid) if has_depth else None,
    )


def canvas_of(width: int, height: int, columns: int, rows: int) -> Canvas:
    """Where a photo of a size lies on an image of another: its largest part of that shape.

    Raises:
        SkippedError: It would have to grow.
    """
    scale = max(columns / width, rows / height)
    if scale > 1 + _ROUNDING:
        raise SkippedError(
            TOO_SMALL, f"{width} x {height} pixels, expected at least {columns} x {rows}"
        )
    cut_x, cut_y = max(0.0, width - columns / scale) / 2, max(0.0, height - rows / scale) / 2
    box = (cut_x, cut_y, width - cut_x, height - cut_y)
    return Canvas(columns, rows, Placement(box, columns, rows, 0, 0), resampling="lanczos")


def _no_depth(batch: ViewBatch) -> Float[Tensor, "scene view height width"]:
    return torch.zeros_like(batch.images[:, :, 0])


def _load(scene: CapturedScene, number: int, height: int, width: int) -> _Frame:
    picture = _picture(scene, number)
    intrinsics = scene.intrinsics[number].double()
    if scene.sizes is not None:
        size = torch.tensor(picture.size, dtype=torch.float64)
        intrinsics = resize_intrinsics(intrinsics, size / scene.sizes[number])
    canvas = canvas_of(*picture.size, width, height)
    intrinsics = canvas.placement.map_from_photo.intrinsics_on_map(intrinsics)
    image = torch.from_numpy(paste(picture, canvas).copy()).permute(2, 0, 1).float() / 255
    places = pixel_centers(height, width, dtype=torch.float64)
    if scene.distortion is not None and bool(scene.distortion[number].any()):
        intrinsics, places = pinhole_of_lens(intrinsics, scene.distortion[number], height, width)
        sides = torch.tensor([width, height])
        grid = (2 * places / sides - 1)[None].float()
        image = grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]
    on_photo = canvas.placement.map_from_photo.on_photo(places.flatten(0, 1)).view_as(places)
    depth, is_valid = _depth(scene, number, picture.size, on_photo)
    return _Frame(image, intrinsics, depth, is_valid)


def _picture(scene: CapturedScene, number: int) -> "Image":
    """The photo in the pixels of its camera, 8-bit RGB."""
    photo, sizes = scene.photos[number], scene.sizes
    if sizes is None or isinstance(photo, bytes | Tensor) or bool((sizes[number] <= 1).all()):
        return scene.open(number)
    from PIL import Image

    camera = (int(sizes[number, 0]), int(sizes[number, 1]))
    fit, faults = fitted_photos([photo], [camera], downscale=scene.downscale)
    if faults:
        raise ValueError(
            f"{photo} {faults[0]}. Expected the photo of that camera ({scene.source}). Restore it, "
            "or drop its frame."
        )
    return on_white(Image.fromarray(fit.photos[0].read()))


def pinhole_of_lens(
    intrinsics: Float[Tensor, "3 3"], distortion: Float[Tensor, " 6"], height: int, width: int
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "height width 2"]]:
    """The pinhole that sees no more than a lens shows on an image, and where its pixels lie there.

    Raises:
        SkippedError: There is none, or the lens folds the picture over.
    """
    lens = distortion.double()
    along, down = torch.linspace(0, width, 33), torch.linspace(0, height, 33)
    zero = torch.zeros(33)
    border = torch.cat(
        [
            torch.stack([along, zero], -1), torch.stack([along, zero + height], -1),
            torch.stack([zero, down], -1), torch.stack([zero + width, down], -1),
        ]
    ).double()  # fmt: skip
    rays = normalize(border, intrinsics) / ZOOMS[:, None, None]
    lenses = lens.expand(len(rays), -1)
    seen = distort(rays, lenses)
    is_sound = (undistort(seen, lenses) - rays).abs().amax((1, 2)) < _ROUNDING
    found = denormalize(seen, intrinsics.expand(len(rays), -1, -1))
    sides = torch.tensor([width, height])
    is_within = ((found >= -_ROUNDING) & (found <= sides + _ROUNDING)).all(-1).all(-1)
    rows = (is_sound & is_within).nonzero().flatten()
    if not len(rows):
        raise SkippedError(LENS, f"distortion {[round(k, 4) for k in lens.tolist()]}")
    zoom = ZOOMS[rows[0]]
    closer = intrinsics.clone()
    closer[:2, :2] *= zoom
    centers = pixel_centers(height, width, dtype=torch.float64).flatten(0, 1)
    places = denormalize(distort(normalize(centers, closer), lens), intrinsics)
    return closer, places.view(height, width, 2)


def _depth(
    scene: CapturedScene,
    number: int,
    photo: tuple[int, int],
    places: Float[Tensor, "height width 2"],
) -> tuple[Float[Tensor, "height width"], Bool[Tensor, "height width"]]:
    """Depth at positions in the photo, and where it is known."""
    file = scene.depths[number] if scene.depths else None
    if file is None:
        unknown = torch.zeros(places.shape[:2])
        return unknown, unknown > 0
    values, is_known = read_depth(file)
    rows, columns = values.shape
    width, height = photo
    if abs(columns * height - rows * width) > width + height:
        raise ValueError(
            f"{file.path} is {columns} x {rows} but its photo {width} x {height}. Expected a map "
            "of the photo's proportions. Restore it, or drop its frame."
        )
    scaled = places * (torch.tensor([columns, rows]) / torch.tensor(photo))
    column, row = scaled.long().unbind(-1)
    at = row.clamp(0, rows - 1), column.clamp(0, columns - 1)
    return torch.from_numpy(values)[at], torch.from_numpy(is_known)[at]


def read_depth(
    file: DepthFile,
) -> tuple[Float[np.ndarray, "rows columns"], Bool[np.ndarray, "rows columns"]]:
    """A depth map in scene units, 0 where nothing is known, and where it is known.

    Raises:
        ValueError: The map or its mask is damaged.
        OSError: One of them cannot be read.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = file.read(file.path) * np.float32(file.unit)
    is_known = np.isfinite(values) & (values > 0)
    if file.mask is not None:
        rows, columns = values.shape
        is_known &= FittedPhoto(file.path, 1, False, (columns, rows)).read_mask(file.mask)
    return np.where(is_known, values, np.float32(0)), is_known
