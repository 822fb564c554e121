"""Where a new photo was taken, from its pairs with photos of a scene that is already there."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.backends.opencv import absolute_pose
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.cameras import denormalize, straight
from fm3d_plugins.geometry.matching import pixel_positions, reciprocal_matches
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.geometry.poses import invert

LEAST_INLIERS, LEAST_SHARE = 30, 0.01
"""Fewer, or a smaller share of the matches, may agree by chance: of 100 000 random matches the best
of 10 000 poses met 27."""

THRESHOLD_PIXELS, THRESHOLD_MAP_PIXELS = 5.0, 2.0
"""Matches are from centre to centre of the network's pixels, which may be many of the photo's."""


@dataclass(frozen=True)
class QueryCamera:
    """What is known of the new photo's camera."""

    intrinsics: Float[Tensor, "3 3"]
    """In pixels of the photo."""
    map_from_photo: PixelMap
    """Where the photo's pixels lie in the network's map."""
    distortion: Float[Tensor, " 6"] | None = None
    """K1, k2, k3, k4, p1, p2 of the photo as it is stored; none for a pinhole."""


@dataclass(frozen=True)
class Localisation:
    """A pose, and what speaks for it."""

    world_from_camera: Float[Tensor, "4 4"]
    """OpenCV axes, in the scene's frame and unit; float64."""
    matches_by_photo: dict[int, int]
    """Matched points that entered, by number of the scene's photo."""
    inliers_by_photo: dict[int, int]
    """How many of them agree with the pose."""


def localise(
    pairs: Iterable[PairPointmaps],
    query: int,
    camera: QueryCamera,
    world_points_of: Callable[[int], Float[Tensor, "_rows _columns 3"]],
    *,
    least_confidence: float = 3.0,
    threshold: float | None = None,
    iterations: int = 10_000,
    most_points: int = 100_000,
    seed: int = 0,
) -> Localisation:
    """Pose of a photo by what its pixels match in the scene's photos (DUSt3R, section 3.3).

    Within a pair both photos' points are in one frame, where nearest neighbours match. A pixel of
    the scene's photo has a point in the world; so its match in the new photo sees that point.

    Args:
        pairs: Of the new photo with photos of the scene, in either order.
        query: The new photo's number in the pairs.
        world_points_of: What the pixels of a photo of the scene see, by its number, in the frame
            of the scene and on the network's grid; nan where it is not known.
        least_confidence: Of the network (from 1), that matched pixels of both photos must have.
        threshold: Largest reprojection error of a right match, in pixels of the new photo. None:
            5 as by the authors, but no less than 2 of the network's pixels.
        iterations: Of RANSAC, at most.
        most_points: Of more matches, so many are drawn.
        seed: Of what is drawn.

    Raises:
        ValueError: A pair is not of this photo, there are too few matches, or they agree on no
            pose.
    """
    found = _matches(pairs, query, camera, world_points_of, least_confidence)
    if len(found.points) < LEAST_INLIERS:
        raise ValueError(
            f"{len(found.points)} pixels of the photo match points of the scene. Expected at least "
            f"{LEAST_INLIERS}. It may show another place: pair it with other photos of the scene, "
            f"or lower the confidence ({least_confidence:g}) that matches must have."
        )
    if threshold is None:
        pixel = 1 / float(camera.map_from_photo.scale.min())
        threshold = max(THRESHOLD_PIXELS, THRESHOLD_MAP_PIXELS * pixel)
    drawn = found.drawn(most_points, seed)
    return _pose(drawn, camera.intrinsics.double(), threshold, iterations, seed)


@dataclass(frozen=True)
class _Matches:
    """What the new photo's pixels see."""

    points: Float[Tensor, "match 3"]
    """In the world."""
    pixels: Float[Tensor, "match 2"]
    """Of the new photo, with the lens's distortion undone."""
    photo: Int[Tensor, " match"]
    """Number of the scene's photo that knows each point."""

    def drawn(self, most: int, seed: int) -> "_Matches":
        """At most so many of them."""
        if len(self.points) <= most:
            return self
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(self.points), generator=generator)[:most]
        return _Matches(self.points[rows], self.pixels[rows], self.photo[rows])


def _pose(
    matches: _Matches,
    intrinsics: Float[Tensor, "3 3"],
    threshold: float,
    iterations: int,
    seed: int,
) -> Localisation:
    camera_from_world, agrees = absolute_pose(
        matches.points,
        matches.pixels,
        intrinsics,
        threshold=threshold,
        iterations=iterations,
        confidence=0.9999,
        seed=seed,
    )
    total = len(matches.points)
    expected = max(LEAST_INLIERS, round(LEAST_SHARE * total))
    if int(agrees.sum()) < expected:
        raise ValueError(
            f"The best pose of the photo agrees with {int(agrees.sum())} of {total} matches "
            f"within {threshold:.1f} pixels. Expected at least {expected}. Check its focal length "
            f"({float(intrinsics[0, 0]):.0f} pixels), or pair it with other photos."
        )
    photo = matches.photo
    return Localisation(invert(camera_from_world), _counts(photo), _counts(photo[agrees]))


def _matches(
    pairs: Iterable[PairPointmaps],
    query: int,
    camera: QueryCamera,
    world_points_of: Callable[[int], Float[Tensor, "_rows _columns 3"]],
    least_confidence: float,
) -> _Matches:
    """Over all pairs."""
    points, pixels = [torch.zeros(0, 3).double()], [torch.zeros(0, 2).double()]
    photos = [torch.zeros(0, dtype=torch.long)]
    for pair in pairs:
        maps = [
            (pair.first, pair.points_first, pair.confidence_first),
            (pair.second, pair.points_second_in_first, pair.confidence_second),
        ]
        if (pair.first == query) == (pair.second == query):
            raise ValueError(
                f"A pair is of the photos {pair.first} and {pair.second}. Expected the photo "
                f"{query} and another one in every pair. Leave the others out."
            )
        (_, own, own_sure), (other, others, other_sure) = (
            maps if pair.first == query else maps[::-1]
        )
        world = world_points_of(other).double()
        if world.shape != others.shape:
            raise ValueError(
                f"The scene's photo {other} has points on a grid of {list(world.shape[:2])}, but "
                f"{list(others.shape[:2])} in its pair with the photo. Expected equal grids: load "
                "the photo as when the scene was made."
            )
        known = (other_sure >= least_confidence) & world.isfinite().all(-1).to(other_sure.device)
        found = reciprocal_matches(own, others, own_sure >= least_confidence, known)
        points.append(world.flatten(0, 1).cpu()[found[:, 1]])
        pixels.append(_photo_pixels(found[:, 0], own.shape[1], camera))
        photos.append(torch.full((len(found),), other))
    return _Matches(torch.cat(points), torch.cat(pixels), torch.cat(photos))


def _photo_pixels(
    pixel_index: Int[Tensor, " match"], width: int, camera: QueryCamera
) -> Float[Tensor, "match 2"]:
    """Centres of pixels of the network's map in the photo, with the lens's distortion undone."""
    pixels = camera.map_from_photo.on_photo(pixel_positions(pixel_index, width))
    if camera.distortion is None:
        return pixels
    intrinsics = camera.intrinsics.double()
    return denormalize(straight(pixels, intrinsics, camera.distortion.double()), intrinsics)


def _counts(photo: Int[Tensor, " match"]) -> dict[int, int]:
    number, count = torch.unique(photo, return_counts=True)
    return dict(zip(number.tolist(), count.tolist(), strict=True))
