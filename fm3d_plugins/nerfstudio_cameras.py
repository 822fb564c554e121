"""nerfstudio's cameras in this package's terms, and back: the two conventions meet here alone.

nerfstudio's poses are the three upper rows of camera-to-world with OpenGL axes. Here they are rigid
4x4 matrices `world_from_camera` with OpenCV axes. Pixels agree: (0, 0) is a corner in both.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.cameras import (
    denormalize,
    distort,
    intrinsics_matrix,
    normalize,
    opencv_from_opengl,
    opengl_from_opencv,
)
from fm3d_plugins.geometry.lenses import fisheye_distort
from fm3d_plugins.geometry.poses import invert, pose_from_rotation_translation
from fm3d_plugins.geometry.rays import camera_rays, pixel_centers
from fm3d_plugins.scene import SceneGeometry


def world_from_cameras(cameras: Cameras) -> Float[Tensor, "*batch 4 4"]:
    """Poses of cameras, in their precision and on their device; differentiable."""
    return world_from_opengl(cameras.camera_to_worlds)


def world_from_opengl(camera_to_world: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Poses of nerfstudio's `camera_to_worlds`."""
    rows = opencv_from_opengl(camera_to_world)
    return pose_from_rotation_translation(rows[..., :3], rows[..., 3])


def opengl_rows(world_from_camera: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 3 4"]:
    """nerfstudio's `camera_to_worlds` of poses, inverse of `world_from_opengl`."""
    return opengl_from_opencv(world_from_camera[..., :3, :])


def image_sizes(cameras: Cameras) -> Int[Tensor, "*batch 2"]:
    """Width and height in pixels."""
    return torch.cat([cameras.width, cameras.height], dim=-1)


def fovs_and_aspects(cameras: Cameras) -> Float[Tensor, "view 2"]:
    """Vertical field of view in radians, and width over height, as viewers draw cameras."""
    width, height = image_sizes(cameras).float().reshape(-1, 2).unbind(-1)
    fov = 2 * torch.atan(height / 2 / cameras.fy.flatten())
    return torch.stack([fov, width / height], dim=-1).cpu()


def intrinsics_matrices(cameras: Cameras) -> Float[Tensor, "*batch 3 3"]:
    """Calibration matrices on the cameras' device; nerfstudio's method makes them on the CPU."""
    numbers = (cameras.fx, cameras.fy, cameras.cx, cameras.cy)
    return intrinsics_matrix(*(values.squeeze(-1) for values in numbers))


def lens_distortion(cameras: Cameras) -> Float[Tensor, "*batch 6"]:
    """k1, k2, k3, k4, p1, p2; zeros where nerfstudio has none. Fisheye lenses have k1 to
    k4, of another formula."""
    if cameras.distortion_params is None:
        return cameras.fx.new_zeros(*cameras.shape, 6)
    return cameras.distortion_params


def positions_in_photo(
    pixels: Float[Tensor, "pixel 2"], pinhole_intrinsics: Float[Tensor, "3 3"], given: Cameras
) -> Float[Tensor, "pixel 2"]:
    """Where pixels of a pinhole lie in the photo as its lens took it from the same place.

    Args:
        pixels: x and y in the pinhole's picture.
        pinhole_intrinsics: In pixels.
        given: The photo's camera, a single one.

    Raises:
        ValueError: Its lens is neither perspective nor fisheye.
    """
    kind = CameraType(int(given.camera_type.flatten()[0]))
    normalized = normalize(pixels, pinhole_intrinsics.to(pixels))
    coefficients = lens_distortion(given).flatten().to(pixels)
    if kind == CameraType.PERSPECTIVE:
        distorted = distort(normalized, coefficients)
    elif kind == CameraType.FISHEYE:
        distorted = fisheye_distort(normalized, coefficients[:4])
    else:
        raise ValueError(
            f"A photo of the type {kind.name} was to be seen through a pinhole. Expected "
            "perspective or fisheye photos. Use the method nerf."
        )
    return denormalize(distorted, intrinsics_matrices(given).reshape(3, 3).to(pixels))


def calibrations(cameras: Cameras) -> Float[Tensor, "view 12"]:
    """Width, height, fx, fy, cx, cy and distortion of each camera, float64 on the CPU.

    Cameras with equal rows are one physical camera, as far as the numbers tell.
    """
    columns = [
        image_sizes(cameras),
        *(cameras.fx, cameras.fy, cameras.cx, cameras.cy),
        lens_distortion(cameras),
    ]
    return torch.cat([column.double().cpu().reshape(len(cameras), -1) for column in columns], -1)


@dataclass(frozen=True)
class Pinhole:
    """One camera as rasterisers take it."""

    camera_from_world: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    """Pixels of the picture that is asked for."""
    width: int
    height: int


def pinhole(
    camera: Cameras,
    *,
    camera_to_world: Float[Tensor, "*batch 3 4"] | None = None,
    focal_factor: Float[Tensor, ""] | float = 1.0,
    downscale: int = 1,
) -> Pinhole:
    """One camera without its distortion, at 1/downscale of its resolution; differentiable.

    Args:
        camera: A single one.
        camera_to_world: Its pose, OpenGL axes, where it is not the camera's own.
        focal_factor: Multiplies the focal lengths.
    """
    given = camera.camera_to_worlds if camera_to_world is None else camera_to_world
    camera_from_world = invert(world_from_opengl(given.reshape(3, 4)))
    intrinsics = intrinsics_matrices(camera).reshape(3, 3).to(camera_from_world) / downscale
    factors = torch.ones_like(intrinsics)
    factors[0, 0] = factors[1, 1] = focal_factor
    intrinsics[2, 2] = 1.0
    # Together, as a GPU is waited for.
    width, height = image_sizes(camera).flatten().tolist()
    return Pinhole(camera_from_world, intrinsics * factors, width // downscale, height // downscale)


def pixel_directions(camera: Pinhole) -> Float[Tensor, "height width 3"]:
    """Unit vectors in the world, along which the camera's pixels look."""
    pixels = pixel_centers(camera.height, camera.width).to(camera.intrinsics)
    pose = invert(camera.camera_from_world)
    _, directions = camera_rays(pixels.reshape(-1, 2), camera.intrinsics, pose)
    return directions.reshape(camera.height, camera.width, 3)


def cameras_of_scene(scene: SceneGeometry, world_from_camera: Float[Tensor, "view 4 4"]) -> Cameras:
    """nerfstudio's cameras of a scene's views, single precision.

    Args:
        world_from_camera: Poses of the views in the frame that nerfstudio is to see.
    """
    intrinsics, sizes = scene.intrinsics.float(), scene.image_sizes.int()
    return Cameras(
        camera_to_worlds=opengl_rows(world_from_camera).float(),
        fx=intrinsics[:, 0, 0],
        fy=intrinsics[:, 1, 1],
        cx=intrinsics[:, 0, 2],
        cy=intrinsics[:, 1, 2],
        width=sizes[:, 0],
        height=sizes[:, 1],
        distortion_params=scene.distortion.float(),
        camera_type=CameraType.PERSPECTIVE,
    )


def pinhole_cameras(
    world_from_camera: Float[Tensor, "view 4 4"],
    intrinsics: Float[Tensor, "view 3 3"],
    height: int,
    width: int,
) -> Cameras:
    """nerfstudio's cameras without distortion, of pictures of one size.

    Args:
        intrinsics: In pixels of the pictures.
    """
    fx, fy = intrinsics[:, 0, 0], intrinsics[:, 1, 1]
    cx, cy = intrinsics[:, 0, 2], intrinsics[:, 1, 2]
    poses = opengl_rows(world_from_camera)
    return Cameras(poses, fx, fy, cx, cy, width, height, camera_type=CameraType.PERSPECTIVE)


def with_pinholes(
    cameras: Cameras,
    world_from_camera: Float[Tensor, "view 4 4"],
    intrinsics: Float[Tensor, "view 3 3"],
    sizes: Int[Tensor, "view 2"],
) -> Cameras:
    """Perspective cameras, and behind them others that have no lens distortion.

    Args:
        sizes: Width and height in pixels of the latter.
    """

    def joined(first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second.reshape(-1, *first.shape[1:]).to(first)])

    distortion = cameras.distortion_params
    if distortion is not None:
        none = distortion.new_zeros(len(sizes), distortion.shape[-1])
        distortion = joined(distortion, none)
    return Cameras(
        camera_to_worlds=joined(cameras.camera_to_worlds, opengl_rows(world_from_camera)),
        fx=joined(cameras.fx, intrinsics[:, 0, 0]),
        fy=joined(cameras.fy, intrinsics[:, 1, 1]),
        cx=joined(cameras.cx, intrinsics[:, 0, 2]),
        cy=joined(cameras.cy, intrinsics[:, 1, 2]),
        width=joined(cameras.width, sizes[:, 0]),
        height=joined(cameras.height, sizes[:, 1]),
        distortion_params=distortion,
        camera_type=CameraType.PERSPECTIVE,
    )


def dataparser_frame(transform: Float[Tensor, "3 4"], scale: float) -> Similarity:
    """From the world of a dataparser's input into the frame of its cameras, float64.

    Args:
        transform: `dataparser_transform`: how the scene was turned and centred.
        scale: `dataparser_scale`, applied after that.
    """
    turned, factor = transform.double().cpu(), torch.tensor(float(scale), dtype=torch.float64)
    return Similarity(factor, turned[:, :3], factor * turned[:, 3])
