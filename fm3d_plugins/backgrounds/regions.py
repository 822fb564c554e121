"""Which pixels of photos show what lies behind a thing, and points that are none of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from fm3d_plugins.dense_points import in_floats
from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.poses import invert, transform_points

WORKING_SIZE = 320
"""Long side in pixels at which photos are looked at: noise is averaged away."""

BORDER = 0.03
"""Width of the frame from which a background is followed, as a share of a photo's side."""

LEAST_LOOKS = 0.5
"""Share of the photos that have a point of the thing within their frame, of what is usual. Fewer
have what is close before one of the cameras."""


@dataclass(frozen=True)
class Regions:
    """Of each photo, in the pixels of a small copy."""

    is_shown: Sequence[Bool[Tensor, "_ _"]]
    """Where it shows the background, up to the thing."""
    may_be_shown: Sequence[Bool[Tensor, "_ _"]]
    """Where else it has its colour, and a pixel around, as outlines are mixed."""


def resized(region: Bool[Tensor, "_ _"], height: int, width: int) -> Float[Tensor, "_ _ 1"]:
    """1 inside a region of a small copy, 0 outside, at a photo's size."""
    return interpolate(region[None, None].float(), (height, width), mode="nearest")[0, 0, ..., None]


def without(entry: Mapping[str, Any], region: Bool[Tensor, "_ _"]) -> dict[str, Any]:
    """A photo as nerfstudio's batches hold it, whose mask leaves out a region of a small copy."""
    kept = 1 - resized(region, *entry["image"].shape[:2])
    mask = entry.get("mask")
    return {**entry, "mask": kept if mask is None else kept * mask.float().cpu()}


def may_be_things(
    points: Float[Tensor, "point 3"],
    is_shown: Sequence[Bool[Tensor, "_ _"]],
    intrinsics: Float[Tensor, "view 3 3"],
    world_from_camera: Float[Tensor, "view 4 4"],
    sizes: Int[Tensor, "view 2"],
) -> Bool[Tensor, " point"]:
    """Whether points lie where no photo shows its background and as many look as elsewhere.

    Args:
        points: World frame.
        is_shown: Of the photos' `Regions`.
        intrinsics: Pixels of the photos.
        world_from_camera: OpenCV cameras.
        sizes: Width and height of the photos.
    """
    seen = torch.zeros(len(points), dtype=torch.int64)
    is_before = torch.zeros(len(points), dtype=torch.bool)
    cameras = zip(is_shown, intrinsics, world_from_camera, sizes, strict=True)
    for region, matrix, pose, size in cameras:
        local = transform_points(invert(pose.float()), points)
        place = project(local, matrix.float()) / size
        inside = (local[:, 2] > 0) & ((place >= 0) & (place < 1)).all(-1)
        column, row = (place[inside] * place.new_tensor(region.T.shape)).long().unbind(-1)
        seen += inside
        # A pixel of the small copy aside, as cameras are not exact.
        is_before[inside.nonzero()[:, 0]] |= ~grown(~region)[row, column]
    if bool(is_before.all()):
        return ~is_before
    return (seen >= LEAST_LOOKS * seen[~is_before].median()) & ~is_before


def connected(inside: Bool[Tensor, "h w"], start: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """What of a region touches, by way of its pixels and their eight neighbours, those to start."""
    from scipy import ndimage

    parts = np.empty(inside.shape, np.int32)
    ndimage.label(inside.numpy(), structure=np.ones((3, 3)), output=parts)
    is_reached = np.zeros(parts.max(initial=0) + 1, bool)
    is_reached[parts[(inside & start).numpy()]] = True
    return torch.from_numpy(is_reached[parts])


def grown(region: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """A region and the pixels that touch it."""
    return max_pool2d(region[None].float(), 3, stride=1, padding=1)[0] > 0


def frame_of(height: int, width: int, share: float = BORDER) -> Bool[Tensor, "{height} {width}"]:
    """Pixels along the border, so wide as a share of either side."""
    rows, columns = (max(1, round(share * side)) for side in (height, width))
    along = torch.ones(height, width, dtype=torch.bool)
    along[rows : height - rows, columns : width - columns] = False
    return along


def small(image: Shaped[Tensor, "_ _ 3"]) -> Float[Tensor, "_ _ 3"]:
    """A copy in floats with no side longer than `WORKING_SIZE`."""
    return _shrunk(in_floats(image))


def counted(mask: Tensor | None, height: int, width: int) -> Bool[Tensor, "_ _"]:
    """Where a mask of that many pixels is above one half, in the pixels of `small`; everywhere if
    there is none."""
    if mask is None:
        return _shrunk(torch.ones(height, width, 1))[..., 0] > 0
    return _shrunk(mask.float().cpu().reshape(height, width, 1))[..., 0] > 0.5  # noqa: PLR2004


def _shrunk(image: Float[Tensor, "_ _ channel"]) -> Float[Tensor, "_ _ channel"]:
    factor = min(1.0, WORKING_SIZE / max(image.shape[:2]))
    size = [max(1, round(side * factor)) for side in image.shape[:2]]
    planes = image.permute(2, 0, 1)[None]
    return interpolate(planes, size, mode="area")[0].permute(1, 2, 0)
