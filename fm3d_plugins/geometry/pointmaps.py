"""Points from depth: of every pixel (a pointmap), or of some."""

from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.cameras import normalize, unproject
from fm3d_plugins.geometry.poses import transform_points
from fm3d_plugins.geometry.rays import pixel_centers


def pointmap_from_depth(
    depth: Float[Tensor, "*batch height width"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    world_from_camera: Float[Tensor, "*batch 4 4"] | None = None,
    distortion: Float[Tensor, "*batch 6"] | None = None,
) -> Float[Tensor, "*batch height width 3"]:
    """3D point seen at the centre of every pixel.

    Args:
        depth: z coordinate in the OpenCV camera frame (not distance), scene units.
        intrinsics: In pixels of the depth map.
        world_from_camera: OpenCV camera axes; none leaves the points in the camera frame.
        distortion: k1, k2, k3, k4, p1, p2 as in `cameras.distort`; none is a pinhole.
    """
    height, width = depth.shape[-2:]
    grid = pixel_centers(height, width, dtype=depth.dtype, device=depth.device).flatten(0, 1)
    pixels = grid.expand(*depth.shape[:-2], *grid.shape)
    points = points_at(pixels, depth.flatten(-2), intrinsics, world_from_camera, distortion)
    return points.unflatten(-2, (height, width))


def z_depth(
    distance: Float[Tensor, "height width"], intrinsics: Float[Tensor, "3 3"]
) -> Float[Tensor, "height width"]:
    """z in a pinhole's OpenCV axes of what lies at a distance along each pixel's ray."""
    pixels = pixel_centers(*distance.shape, dtype=distance.dtype, device=distance.device)
    across = normalize(pixels.flatten(0, 1), intrinsics)
    lengths = (1 + across.square().sum(-1)).sqrt()
    return distance / lengths.unflatten(0, distance.shape)


def points_at(
    pixels: Float[Tensor, "*batch point 2"],
    depth: Float[Tensor, "*batch point"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    world_from_camera: Float[Tensor, "*batch 4 4"] | None = None,
    distortion: Float[Tensor, "*batch 6"] | None = None,
) -> Float[Tensor, "*batch point 3"]:
    """3D points seen at some pixels only; arguments as of `pointmap_from_depth`."""
    points = unproject(pixels, depth, intrinsics, distortion)
    return points if world_from_camera is None else transform_points(world_from_camera, points)
