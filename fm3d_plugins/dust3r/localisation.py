"""Where a new photo was taken, from its pairs with photos of a scene that is already there."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.backends.opencv import absolute_pose
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.matching import pixel_positions, reciprocal_matches
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.geometry.poses import invert

LEAST_INLIERS, LEAST_SHARE = 30, 0.01
"""Fewer, or a smaller share of the matches, may agree by chance: of 100 000 random matches the best
of 10 000 poses met 27."""

THRESHOLD_PIXELS, THRESHOLD_MAP_PIXELS = 5.0, 2.0
"""Largest reprojection error of a right match: the authors', pixels of the photo, but no less than
so many of the network's, as matches are from centre to centre of those."""

LEAST_CONFIDENCE = 3.0
"""Of the network (from 1), that matched pixels of both photos must have."""

MOST_POINTS, ITERATIONS = 100_000, 10_000
"""Of more matches so many are drawn; and of RANSAC, at most."""


def localise(
    pairs: Iterable[PairPointmaps],
    query: int,
    intrinsics: Float[Tensor, "3 3"],
    map_from_photo: PixelMap,
    world_points_of: Callable[[int], Float[Tensor, "_rows _columns 3"]],
) -> Float[Tensor, "4 4"]:
    """Pose of a photo by what its pixels match in the scene's photos (DUSt3R, section 3.3).

    Within a pair both photos' points are in one frame, where nearest neighbours match. A pixel of
    the scene's photo has a point in the world; so its match in the new photo sees that point.

    Args:
        pairs: Of the new photo with photos of the scene, in either order.
        query: The new photo's number in the pairs.
        intrinsics: Of the new photo, a pinhole, in its pixels.
        map_from_photo: Where the new photo's pixels lie in the network's map.
        world_points_of: What the pixels of a photo of the scene see, by its number, in the frame
            of the scene and on the network's grid; nan where it is not known.

    Returns:
        `world_from_camera`: OpenCV axes, in the scene's frame and unit; float64.

    Raises:
        ValueError: A pair is not of this photo, there are too few matches, or they agree on no
            pose.
    """
    points, pixels = _matches(pairs, query, map_from_photo, world_points_of)
    if len(points) < LEAST_INLIERS:
        raise ValueError(
            f"{len(points)} pixels of the photo match points of the scene. Expected at least "
            f"{LEAST_INLIERS}. It may show another place: pair it with other photos of the scene, "
            f"or lower the confidence ({LEAST_CONFIDENCE:g}) that matches must have."
        )
    if len(points) > MOST_POINTS:
        rows = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:MOST_POINTS]
        points, pixels = points[rows], pixels[rows]
    pixel = 1 / float(map_from_photo.scale.min())
    threshold = max(THRESHOLD_PIXELS, THRESHOLD_MAP_PIXELS * pixel)
    camera_from_world, agrees = absolute_pose(
        points,
        pixels,
        intrinsics.double(),
        threshold=threshold,
        iterations=ITERATIONS,
        confidence=0.9999,
        seed=0,
    )
    expected = max(LEAST_INLIERS, round(LEAST_SHARE * len(points)))
    if int(agrees.sum()) < expected:
        raise ValueError(
            f"The best pose of the photo agrees with {int(agrees.sum())} of {len(points)} matches "
            f"within {threshold:.1f} pixels. Expected at least {expected}. Check its focal length "
            f"({float(intrinsics[0, 0]):.0f} pixels), or pair it with other photos."
        )
    return invert(camera_from_world)


def _matches(
    pairs: Iterable[PairPointmaps],
    query: int,
    map_from_photo: PixelMap,
    world_points_of: Callable[[int], Float[Tensor, "_rows _columns 3"]],
) -> tuple[Float[Tensor, "match 3"], Float[Tensor, "match 2"]]:
    """Points in the world that the new photo sees by any of the pairs, and the pixels that do."""
    points, pixels = [torch.zeros(0, 3).double()], [torch.zeros(0, 2).double()]
    for pair in pairs:
        if (pair.first == query) == (pair.second == query):
            raise ValueError(
                f"A pair is of the photos {pair.first} and {pair.second}. Expected the photo "
                f"{query} and another one in every pair. Leave the others out."
            )
        (_, own, own_sure), (other, others, other_sure) = (
            pair.sides if pair.first == query else pair.sides[::-1]
        )
        world = world_points_of(other).double()
        if world.shape != others.shape:
            raise ValueError(
                f"The scene's photo {other} has points on a grid of {list(world.shape[:2])}, but "
                f"{list(others.shape[:2])} in its pair with the photo. Expected equal grids: load "
                "the photo as when the scene was made."
            )
        known = (other_sure >= LEAST_CONFIDENCE) & world.isfinite().all(-1).to(other_sure.device)
        found = reciprocal_matches(own, others, own_sure >= LEAST_CONFIDENCE, known)
        points.append(world.flatten(0, 1).cpu()[found[:, 1]])
        on_map = pixel_positions(found[:, 0], own.shape[1])
        pixels.append(map_from_photo.on_photo(on_map))
    return torch.cat(points), torch.cat(pixels)
