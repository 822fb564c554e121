"""nerfstudio's cameras against this package's geometry: rays and frames agree."""

import pytest
import torch
from nerfstudio.cameras import camera_utils
from nerfstudio.cameras.cameras import Cameras, CameraType

from fm3d_plugins.geometry.cameras import intrinsics_matrix, opengl_from_opencv, project
from fm3d_plugins.geometry.poses import se3_exp, transform_points
from fm3d_plugins.geometry.rays import camera_rays
from fm3d_plugins.nerfstudio_cameras import (
    calibrations,
    cameras_of_scene,
    dataparser_frame,
    image_sizes,
    intrinsics_matrices,
    lens_distortion,
    opengl_rows,
    pinhole,
    world_from_cameras,
    world_from_opengl,
)
from fm3d_plugins.scene import SceneGeometry

LENS = torch.tensor([0.05, -0.02, 0.0, 0.0, 0.003, -0.002])


def poses(count):
    generator = torch.Generator().manual_seed(count)
    return se3_exp(torch.randn(count, 6, generator=generator, dtype=torch.float64))


def scene(count=3):
    ones = torch.ones(count, dtype=torch.float64)
    return SceneGeometry(
        names=tuple(f"{row}.png" for row in range(count)),
        image_sizes=torch.tensor([[64, 48]] * count),
        world_from_camera=poses(count),
        intrinsics=intrinsics_matrix(50 * ones, 52 * ones, 31 * ones, 25 * ones),
        distortion=LENS.double().repeat(count, 1),
        camera_index=torch.zeros(count, dtype=torch.long),
        points=torch.zeros(0, 3),
        point_colors=torch.zeros(0, 3, dtype=torch.uint8),
        point_confidence=torch.zeros(0),
    )


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_poses_come_back_from_nerfstudios_rows(batch):
    pose = poses(6)[: max(1, torch.Size(batch).numel())].reshape(*batch, 4, 4)
    rows = opengl_rows(pose)
    assert rows.shape == (*batch, 3, 4)
    torch.testing.assert_close(world_from_opengl(rows), pose)


def test_rays_of_a_scenes_cameras_are_nerfstudios():
    """The same pixels, through the lens, by nerfstudio's own ray generator."""
    original = scene()
    cameras = cameras_of_scene(original, original.world_from_camera)
    pixels = torch.tensor([[3.5, 7.5], [60.5, 40.5], [31.0, 25.0]])
    for row in range(len(original)):
        theirs = cameras.generate_rays(
            torch.full((3, 1), row), coords=pixels.flip(-1), keep_shape=True
        )
        origins, directions = camera_rays(
            pixels.double(),
            original.intrinsics[row],
            original.world_from_camera[row],
            original.distortion[row],
        )
        torch.testing.assert_close(theirs.origins.double(), origins, atol=1e-6, rtol=0)
        torch.testing.assert_close(theirs.directions.double(), directions, atol=1e-5, rtol=0)


def test_numbers_of_cameras_are_those_of_the_scene():
    original = scene()
    cameras = cameras_of_scene(original, original.world_from_camera)
    torch.testing.assert_close(
        world_from_cameras(cameras).double(), original.world_from_camera, atol=1e-6, rtol=0
    )
    assert torch.equal(image_sizes(cameras), original.image_sizes.int())
    expected = torch.tensor([64.0, 48, 50, 52, 31, 25, *LENS.tolist()], dtype=torch.float64)
    torch.testing.assert_close(calibrations(cameras), expected.float().double().repeat(3, 1))


def test_intrinsics_are_those_that_nerfstudio_makes():
    made = scene()
    cameras = cameras_of_scene(made, made.world_from_camera)
    assert torch.equal(intrinsics_matrices(cameras), cameras.get_intrinsics_matrices())
    assert torch.equal(intrinsics_matrices(cameras[1]), cameras[1].get_intrinsics_matrices())


def test_cameras_without_a_lens_have_no_distortion():
    camera = Cameras(torch.eye(4)[None, :3], 50.0, 50.0, 32.0, 24.0, 64, 48)
    assert not lens_distortion(camera).any() and lens_distortion(camera).shape == (1, 6)
    assert camera.camera_type.item() == CameraType.PERSPECTIVE.value


def test_a_pinhole_sees_points_where_nerfstudios_rays_point():
    original = scene()
    plain = cameras_of_scene(original, original.world_from_camera)[:1]
    plain.distortion_params = None
    seen = pinhole(plain, downscale=2, focal_factor=1.5)
    assert (seen.width, seen.height) == (32, 24)
    pixels = torch.tensor([[3.0, 7.0], [20.0, 12.0]])
    wide = pinhole(plain)
    rays = plain.generate_rays(torch.zeros(2, 1, dtype=torch.long), coords=2 * pixels.flip(-1))
    points = transform_points(wide.camera_from_world, rays.origins + 3 * rays.directions)
    torch.testing.assert_close(project(points, wide.intrinsics), 2 * pixels, atol=1e-3, rtol=0)
    centre = torch.tensor([31.0, 25.0])
    expected = ((2 * pixels - centre) * 1.5 + centre) / 2
    torch.testing.assert_close(project(points, seen.intrinsics), expected, atol=1e-3, rtol=0)


def test_the_dataparsers_frame_is_nerfstudios_turn_and_scale():
    """`auto_orient_and_center_poses` turns and centres; nerfstudio then scales the centres."""
    given = poses(5)
    turned, transform = camera_utils.auto_orient_and_center_poses(
        opengl_from_opencv(given).float(), method="up", center_method="poses"
    )
    turned[:, :3, 3] *= 0.25
    frame = dataparser_frame(transform, 0.25)
    moved = frame.apply_to_pose(given)
    torch.testing.assert_close(opengl_rows(moved).float(), turned[:, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(frame.inverse().apply_to_pose(moved), given)
