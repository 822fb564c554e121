"""Whether a picture stands still behind a thing that turns, and what of the photos shows it.

A turntable, or a photo that was put behind a thing: the cameras say that the room turns, and the
picture does not. No place in the scene explains it, so that gaussians of its colours would come to
hang before each of the cameras.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from fm3d_plugins.backgrounds.regions import (
    Regions,
    connected,
    counted,
    frame_of,
    grown,
    resized,
    small,
)
from fm3d_plugins.backgrounds.surroundings import smoothly_filled
from fm3d_plugins.dense_points import evenly_chosen, in_floats
from fm3d_plugins.geometry.poses import rotation_angle_degrees

LEAST_PHOTOS = 5
"""Of fewer, the middle colour of a pixel is one photo's own too often."""

LEAST_TURN = 10.0
"""Degrees between some two of the cameras. While none turns, what is far away stands still, too."""

WINDOW, SMALL_WINDOW = 31, 15
"""Pixels of a small copy along the side of the squares that are compared: to tell whether a picture
stands still, and what of it is behind the thing."""

LEAST_DETAIL = 0.004
"""Deviation of a square's colours, beside what is the same along its rows or columns."""

SAME = 0.8
"""Correlation of two squares that show the same."""

FRAME = 0.12
"""Width of the frame that is compared, as a share of a photo's side."""

LEAST_SHARE = 0.2
"""Share of the frames' squares that stand still, of those with detail: pictures that stand still
have 0.29 to 0.99, as things leave the photos; photos of scenes up to 0.04."""

LEAST_DETAILED = 0.03
"""Share of the frames' squares that have detail."""

ALIKE = 0.06
"""By how much a colour may differ from the picture's there, in each of its channels."""

DARKEST, MOST_GAIN = 0.1, 2.0
"""Brightness of pixels that tell a photo's exposure, and how far it may be from the others'."""

LEAST_SEEN = 0.25
"""Share of the photos that show a pixel of the picture. The thing is before all others."""

EDGE, FAINT_EDGE = 0.03, 0.012
"""Change of colour from pixel to pixel between two parts of the picture, and where it goes on."""

MOVING = 0.8
"""A pixel that a smaller share of the photos shows is sometimes before the thing or behind it."""


@dataclass(frozen=True)
class StillBackground(Regions):
    """The picture behind the thing of all photos."""

    picture: UInt8[Tensor, "height width 3"]
    """As large as the photos, and as bright as their middle."""
    gains: Float[Tensor, " view"]
    """How much brighter each photo is."""

    def colors(self, photo: int, height: int, width: int) -> Float[Tensor, "_ _ 3"]:
        """The picture behind a photo, [height, width, 3]."""
        return (self.gains[photo] * at_size(self.picture, height, width)).clamp(0, 1)


def at_size(
    picture: UInt8[Tensor, "_ _ 3"], height: int, width: int
) -> Float[Tensor, "{height} {width} 3"]:
    """A picture's colours in [0, 1] in so many pixels."""
    if picture.shape[:2] == (height, width):
        return picture / 255
    planes = (picture / 255).permute(2, 0, 1)[None]
    is_smaller = height <= picture.shape[0] and width <= picture.shape[1]
    mode = "area" if is_smaller else "bilinear"
    return interpolate(planes, (height, width), mode=mode)[0].permute(1, 2, 0)


def at_places(
    picture: UInt8[Tensor, "_ _ 3"], place: Float[Tensor, "*ray 2"]
) -> Float[Tensor, "*ray 3"]:
    """A picture's colours in [0, 1] in its pixels at some places.

    Args:
        place: Across and down, from 0 to 1 along its sides.
    """
    row, column = (place.flip(-1) * place.new_tensor(picture.shape[:2])).long().unbind(-1)
    return picture[row, column] / 255


def still_background(
    images: Sequence[Shaped[Tensor, "_ _ 3"]],
    masks: Sequence[Tensor | None],
    world_from_camera: Float[Tensor, "view 4 4"],
) -> StillBackground | None:
    """The picture before which all photos show their thing, or None.

    Args:
        images: Colours in [0, 1], or bytes.
        masks: [H, W, 1] each, above one half where a photo counts; None: everywhere.
        world_from_camera: Cameras that the thing turns before: it stands in their world.
    """
    rows = evenly_chosen(len(images))
    turns = world_from_camera[rows, :3, :3]
    if len(rows) < LEAST_PHOTOS or len({image.shape for image in images}) > 1:
        return None
    if rotation_angle_degrees(turns, turns[:1].expand_as(turns)).max() < LEAST_TURN:
        return None
    sights = [_Sight.of(images[row], masks[row]) for row in rows]
    middle = _middle(sights)
    if not _stands_still(sights, middle):
        return None
    sights = [sight.without_gain(sight.gain(middle)) for sight in sights]
    picture = _most_common(sights, _middle(sights))
    is_picture = torch.from_numpy(_is_background(sights, picture))
    along = frame_of(*is_picture.shape)
    regions, may_be, gains, sums = [], [], [], 0
    for image, mask in zip(images, masks, strict=True):
        sight = _Sight.of(image, mask)
        gains.append(sight.gain(middle))
        alike = torch.from_numpy(sight.without_gain(gains[-1]).alike(picture)) & is_picture
        regions.append(connected(alike, along))
        may_be.append(grown(alike))
        weight = resized(regions[-1], *image.shape[:2])
        sums = sums + torch.cat([in_floats(image) / gains[-1] * weight, weight], -1)
    filled = smoothly_filled(torch.as_tensor(sums)).clamp(0, 1)
    as_bytes = (filled * 255).round().to(torch.uint8)
    return StillBackground(regions, may_be, as_bytes, torch.tensor(gains))


@dataclass(frozen=True)
class _Sight:
    """A small copy of a photo, and which of its pixels count."""

    colors: Float[np.ndarray, "h w 3"]
    counts: Bool[np.ndarray, "h w"]

    @staticmethod
    def of(image: Shaped[Tensor, "_ _ 3"], mask: Tensor | None) -> "_Sight":
        counts = counted(mask, *image.shape[:2])
        return _Sight(small(image).numpy(), counts.numpy())

    def gain(self, picture: Float[np.ndarray, "h w 3"]) -> float:
        """How much brighter the photo is along its border; 1 where a picture is black there."""
        along = frame_of(*self.counts.shape, share=FRAME).numpy() & self.counts
        bright = picture[along].mean(-1)
        seen = bright > DARKEST
        if not seen.any():
            return 1.0
        ratio = float(np.median(self.colors[along].mean(-1)[seen] / bright[seen]))
        return min(max(ratio, 1 / MOST_GAIN), MOST_GAIN)

    def without_gain(self, gain: float) -> "_Sight":
        return _Sight(self.colors / np.float32(gain), self.counts)

    def alike(self, picture: Float[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
        """Where most pixels around have the picture's colours."""
        near = (np.abs(self.colors - picture).max(-1) <= ALIKE) & self.counts
        return _mean(near.astype(np.float32), 3) > 0.5  # noqa: PLR2004

    def same(
        self, picture: Float[np.ndarray, "h w 3"], window: int
    ) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """Where the square around a pixel has detail, and where that is the picture's, too."""
        own, other = _detail(self.colors, window), _detail(picture, window)
        power, others = (_mean(each * each, window).clip(0) for each in (own, other))
        has_detail = (power > LEAST_DETAIL**2) & self.counts
        agreement = _mean(own * other, window) >= SAME * np.sqrt(power * others)
        return has_detail, has_detail & agreement


def _middle(sights: Sequence[_Sight]) -> Float[np.ndarray, "h w 3"]:
    return np.median([sight.colors for sight in sights], axis=0)


def _stands_still(sights: Sequence[_Sight], picture: Float[np.ndarray, "h w 3"]) -> bool:
    """Whether so much of the frames is the same in most photos that no scene can explain it."""
    along = frame_of(*picture.shape[:2], share=FRAME).numpy()
    found = [sight.same(picture, WINDOW) for sight in sights]
    detailed = sum(int((has_detail & along).sum()) for has_detail, _ in found)
    same = sum(int((is_same & along).sum()) for _, is_same in found)
    is_enough = detailed >= LEAST_DETAILED * int(along.sum()) * len(sights)
    return is_enough and same >= LEAST_SHARE * detailed


def _most_common(
    sights: Sequence[_Sight], middle: Float[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "h w 3"]:
    """Of each pixel the colour that most photos have: the picture's where the thing often hides it,
    as a thing that turns has other colours in each."""
    picture = middle.copy()
    near = np.stack([np.abs(sight.colors - middle).max(-1) <= ALIKE for sight in sights])
    hidden = near.mean(0) < 1 / 2
    colors = np.stack([sight.colors[hidden] for sight in sights])
    best = np.zeros(colors.shape[1])
    for own in colors.copy():
        alike = np.abs(colors - own).max(-1) <= ALIKE
        count = alike.sum(0)
        mean = (colors * alike[..., None]).sum(0) / count[:, None]
        picture[hidden] = np.where((count > best)[:, None], mean, picture[hidden])
        best = np.maximum(best, count)
    return picture


def _is_background(
    sights: Sequence[_Sight], picture: Float[np.ndarray, "h w 3"]
) -> Bool[np.ndarray, "h w"]:
    """What of the picture is behind the thing, and not a part of the thing that always looks alike.

    A vase of one colour in the middle, or the turntable itself, stand as still as the wall. So a
    part between edges counts only if it reaches the photo's border, if most of it has detail, which
    on a thing would turn, or if nothing moves beside it.
    """
    from scipy import ndimage

    alike = np.stack([sight.alike(picture) for sight in sights])
    same = np.stack([sight.same(picture, SMALL_WINDOW)[1] for sight in sights])
    seen = alike.mean(0)
    # A pixel more, as outlines have gaps.
    outline = ndimage.binary_dilation(_edges(picture))
    parts = np.empty(seen.shape, np.int32)
    ndimage.label((seen >= LEAST_SEEN) & (outline == 0), output=parts)
    if not parts.any():
        return parts > 0
    numbers = np.arange(parts.max() + 1)
    beside = ndimage.binary_dilation(seen < MOVING, iterations=3)
    has_detail = (same & alike).sum(0) >= np.maximum(1, alike.sum(0)) / 2
    at_border = frame_of(*parts.shape, share=0.01).numpy()
    is_behind = ndimage.maximum(at_border, parts, numbers) > 0
    # Of a part that is wide enough, its core: squares at its edge show what is beyond.
    to_edge = ndimage.distance_transform_edt(parts > 0)
    is_core = to_edge > np.minimum(
        SMALL_WINDOW / 2, ndimage.maximum(to_edge, parts, numbers)[parts] / 2
    )
    is_behind |= ndimage.mean(has_detail, np.where(is_core, parts, 0), numbers) >= 1 / 2
    is_behind |= ndimage.maximum(beside, parts, numbers) == 0
    is_behind[0] = False
    # Edges belong to the part that is nearest.
    nearest = np.empty((2, *parts.shape), np.int32)
    ndimage.distance_transform_edt(
        parts == 0, return_distances=False, return_indices=True, indices=nearest
    )
    return is_behind[parts[tuple(nearest)]] & (seen >= LEAST_SEEN)


def _edges(picture: Float[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Where the colour changes at once, and fainter lines that go on from there."""
    from scipy import ndimage

    down, across = np.gradient(picture, axis=(0, 1))
    slope = np.sqrt(down**2 + across**2).max(-1)
    is_line = (slope > FAINT_EDGE) & (slope > 1.5 * _mean(slope, SMALL_WINDOW))
    return ndimage.binary_propagation(slope > EDGE, np.ones((3, 3)), is_line | (slope > EDGE))


def _detail(colors: Float[np.ndarray, "h w 3"], window: int) -> Float[np.ndarray, "h w"]:
    """Brightness without what is the same along the rows or the columns of a square: the light's
    fall, and a floor's straight end, which stand still while a camera goes around."""
    from scipy import ndimage

    bright = ndimage.gaussian_filter(colors.mean(-1), 1.0)
    along, across = (ndimage.uniform_filter1d(bright, window, axis) for axis in (1, 0))
    return bright - along - across + _mean(bright, window)


def _mean(values: Float[np.ndarray, "h w"], side: int) -> Float[np.ndarray, "h w"]:
    from scipy import ndimage

    return ndimage.uniform_filter(values, side)
