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

from fm3d_plugins.backgrounds.parts import lies_behind
from fm3d_plugins.backgrounds.regions import Regions, connected, frame_of, grown, resized
from fm3d_plugins.backgrounds.sights import ALIKE, FRAME, Sight
from fm3d_plugins.backgrounds.surroundings import smoothly_filled
from fm3d_plugins.dense_points import evenly_chosen, in_floats
from fm3d_plugins.geometry.poses import rotation_angle_degrees

LEAST_PHOTOS = 5
"""Of fewer, the middle colour of a pixel is one photo's own too often."""

LEAST_TURN = 10.0
"""Degrees between some two of the cameras. While none turns, what is far away stands still, too."""

WINDOW = 31
"""Pixels of a small copy along the side of the squares that are compared."""

LEAST_SHARE = 0.2
"""Share of the frames' squares that stand still, of those with detail: pictures that stand still
have 0.29 to 0.99, as things leave the photos; photos of scenes up to 0.04."""

LEAST_DETAILED = 0.03
"""Share of the frames' squares that have detail."""


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
    sights = [Sight.of(images[row], masks[row]) for row in rows]
    middle = _middle(sights)
    if not _stands_still(sights, middle):
        return None
    sights = [sight.without_gain(sight.gain(middle)) for sight in sights]
    picture = _most_common(sights, _middle(sights))
    is_picture = torch.from_numpy(lies_behind(sights, picture))
    regions, may_be, gains = [], [], []
    for image, mask in zip(images, masks, strict=True):
        sight = Sight.of(image, mask)
        gains.append(sight.gain(middle))
        alike = torch.from_numpy(sight.without_gain(gains[-1]).alike(picture)) & is_picture
        regions.append(connected(alike, frame_of(*alike.shape)))
        may_be.append(grown(alike))
    return StillBackground(
        regions, may_be, _colors_behind(images, regions, gains), torch.tensor(gains)
    )


def _colors_behind(
    images: Sequence[Shaped[Tensor, "_ _ 3"]],
    regions: Sequence[Bool[Tensor, "_ _"]],
    gains: Sequence[float],
) -> UInt8[Tensor, "height width 3"]:
    """The mean of what photos show in their regions, less their gains; smooth where none does."""
    height, width = images[0].shape[:2]
    sums = torch.zeros(height, width, 4)
    for image, region, gain in zip(images, regions, gains, strict=True):
        weight = resized(region, height, width)
        sums += torch.cat([in_floats(image) / gain * weight, weight], -1)
    return (smoothly_filled(sums).clamp(0, 1) * 255).round().to(torch.uint8)


def _middle(sights: Sequence[Sight]) -> Float[np.ndarray, "h w 3"]:
    return np.median([sight.colors for sight in sights], axis=0)


def _stands_still(sights: Sequence[Sight], picture: Float[np.ndarray, "h w 3"]) -> bool:
    """Whether so much of the frames is the same in most photos that no scene can explain it."""
    along = frame_of(*picture.shape[:2], share=FRAME).numpy()
    found = [sight.same(picture, WINDOW) for sight in sights]
    detailed = sum(int((has_detail & along).sum()) for has_detail, _ in found)
    same = sum(int((is_same & along).sum()) for _, is_same in found)
    is_enough = detailed >= LEAST_DETAILED * int(along.sum()) * len(sights)
    return is_enough and same >= LEAST_SHARE * detailed


def _most_common(
    sights: Sequence[Sight], middle: Float[np.ndarray, "h w 3"]
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
