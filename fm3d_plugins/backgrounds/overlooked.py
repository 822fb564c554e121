"""Points of things before a plain backdrop that comparing photos in windows overlooks.

Legs of a table, wires, handles: where no gaussian begins none comes, as nothing pulls those of
other things so far.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from fm3d_plugins.backgrounds.regions import counted, grown, may_be_things, small
from fm3d_plugins.dense_points import PosedPhotos
from fm3d_plugins.geometry.cameras import is_in_picture, project, resize_intrinsics
from fm3d_plugins.geometry.pointmaps import points_at
from fm3d_plugins.geometry.poses import invert, transform_points

NUM_DEPTHS = 96
"""Places along a pixel's ray that are tried, evenly in inverse depth."""

MOST_PIXELS = 500
"""Of a photo that get a point; of more, so many at random."""

ALIKE = 0.08
"""Mean difference of colours, in [0, 1], up to which two photos may show the same point."""


def overlooked_points(
    photos: PosedPhotos,
    is_shown: Sequence[Bool[Tensor, "_ _"]],
    points: Float32[Tensor, "point 3"],
    generator: torch.Generator,
) -> tuple[Float32[Tensor, "overlooked 3"], Float32[Tensor, "overlooked 3"]]:
    """Points for pixels that show things but none of the known points, and colours in [0, 1].

    A pixel of a small copy gets one at that place on its ray where most other photos show its
    colour, and none their background. Where no other photo shows it, it gets none.

    Args:
        is_shown: Of the photos' `Regions`.
        points: Of the things, world frame; they tell which depths to try.
        generator: Chooses pixels where a photo has too many, and among equal places.
    """
    copies = _small(photos)
    sizes = torch.tensor([image.shape[1::-1] for image in copies.images])
    cameras = copies.intrinsics, copies.world_from_camera
    found, colors = [points.new_zeros(0, 3)], [points.new_zeros(0, 3)]
    for view, image in enumerate(copies.images):
        _, place, depth = _seen(copies, view, points)
        pixels = _bare(copies, view, is_shown[view], place, generator)
        if not len(depth) or not len(pixels):
            continue
        near, far = depth.quantile(depth.new_tensor([0.01, 0.99])).tolist()
        depths = (1 / torch.linspace(1 / far, 1 / near, NUM_DEPTHS)).repeat(len(pixels))
        centers = (pixels.flip(-1) + 0.5).repeat_interleave(NUM_DEPTHS, 0)
        tried = points_at(centers, depths, cameras[0][view], cameras[1][view])
        shown = image[pixels.unbind(-1)]
        votes = _votes(copies, view, tried, shown.repeat_interleave(NUM_DEPTHS, 0))
        votes[~may_be_things(tried, is_shown, *cameras, sizes)] = 0
        draw = torch.rand(votes.shape, generator=generator) / 2
        most, best = (votes + draw).unflatten(0, (-1, NUM_DEPTHS)).max(-1)
        rows = (most >= 1).nonzero()[:, 0]
        found.append(tried.unflatten(0, (-1, NUM_DEPTHS))[rows, best[rows]])
        colors.append(shown[rows])
    return torch.cat(found), torch.cat(colors)


def _small(photos: PosedPhotos) -> PosedPhotos:
    """The copies in which regions are told."""
    images = [small(image) for image in photos.images]
    old, new = (
        torch.tensor([image.shape[1::-1] for image in some]) for some in (photos.images, images)
    )
    masks = [
        counted(mask, *image.shape[:2])[..., None]
        for mask, image in zip(photos.masks, photos.images, strict=True)
    ]
    intrinsics = resize_intrinsics(photos.intrinsics.float(), new / old)
    return PosedPhotos(images, intrinsics, photos.world_from_camera.float(), masks)


def _seen(
    copies: PosedPhotos, view: int, points: Float32[Tensor, "point 3"]
) -> tuple[Bool[Tensor, " point"], Int64[Tensor, "seen 2"], Float32[Tensor, " seen"]]:
    """Which points lie in a photo, in which row and column of its pixels, and how deep."""
    local = transform_points(invert(copies.world_from_camera[view]), points)
    is_seen = is_in_picture(local, copies.intrinsics[view], *copies.images[view].shape[:2])
    pixels = project(local[is_seen], copies.intrinsics[view]).long()
    return is_seen, pixels.flip(-1), local[is_seen, 2]


def _bare(
    copies: PosedPhotos,
    view: int,
    is_shown: Bool[Tensor, "_ _"],
    place: Int64[Tensor, "seen 2"],
    generator: torch.Generator,
) -> Int64[Tensor, "pixel 2"]:
    """Rows and columns of pixels of things that touch none in which a point lies."""
    has_point = torch.zeros(copies.images[view].shape[:2], dtype=torch.bool)
    has_point[place.unbind(-1)] = True
    mask = copies.masks[view]
    assert mask is not None
    pixels = (mask[..., 0] & ~is_shown & ~grown(has_point)).nonzero()
    return pixels[torch.randperm(len(pixels), generator=generator)[:MOST_PIXELS]]


def _votes(
    copies: PosedPhotos,
    view: int,
    points: Float32[Tensor, "point 3"],
    colors: Float32[Tensor, "point 3"],
) -> Float32[Tensor, " point"]:
    """How many photos other than one show points in their colours."""
    votes = points.new_zeros(len(points))
    for other, image in enumerate(copies.images):
        if other != view:
            is_seen, place, _ = _seen(copies, other, points)
            difference = (image[place.unbind(-1)] - colors[is_seen]).abs().mean(-1)
            votes[is_seen] += difference < ALIKE
    return votes
