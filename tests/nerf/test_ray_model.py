"""What both models do with rays, photos and backgrounds."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox

from fm3d_plugins.camera_photos import GIVEN_CAMERAS
from fm3d_plugins.geometry.poses import se3_exp
from fm3d_plugins.nerf.ray_model import SHORTEST_NEAR, composited, moved_across, nearest_in_view
from fm3d_plugins.nerf.vanilla_model import VanillaNerfModelConfig


def cameras(count):
    return Cameras(
        camera_to_worlds=se3_exp(torch.randn(count, 6) / 2)[:, :3],
        fx=torch.full((count, 1), 20.0),
        fy=torch.full((count, 1), 22.0),
        cx=15.0,
        cy=11.0,
        width=30,
        height=22,
    )


def make_model(given, mode):
    config = VanillaNerfModelConfig(width=8, num_layers=3)
    config.camera_optimizer.mode = mode
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    metadata = {GIVEN_CAMERAS: given}
    return config.setup(scene_box=box, num_train_data=len(given), metadata=metadata)


@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
def test_corrected_rays_are_those_of_the_corrected_cameras(mode):
    """Pose and focal length move together, as they do when a whole camera is rendered."""
    given = cameras(4)
    model = make_model(given, mode)
    optimizer = model.camera_optimizer
    with torch.no_grad():
        optimizer.pose_adjustment.normal_()
        optimizer.focal_adjustment.fill_(3.0)
        index = torch.randint(4, (50, 1))
        coords = torch.rand(50, 2) * torch.tensor([22.0, 30.0])
        rays = model.corrected(given.generate_rays(camera_indices=index, coords=coords))
        poses = []
        for row in range(4):
            camera = given[row : row + 1]
            camera.metadata = {"cam_idx": row}
            poses.append(optimizer.apply_to_camera(camera).reshape(1, 3, 4))
        factors = optimizer.focal_factors()[:, None]
        moved = Cameras(
            torch.cat(poses), given.fx * factors, given.fy * factors, given.cx, given.cy, 30, 22
        )
        truth = moved.generate_rays(camera_indices=index, coords=coords)
    assert (factors - 1).abs().min() > 1e-3
    torch.testing.assert_close(rays.origins, truth.origins)
    torch.testing.assert_close(rays.directions, truth.directions)


def test_rays_stay_as_given_in_evaluation_and_where_cameras_are_off():
    given = cameras(2)
    rays = given.generate_rays(
        camera_indices=torch.zeros(3, 1, dtype=torch.long), coords=torch.rand(3, 2)
    )
    assert make_model(given, "off").corrected(rays) is rays
    assert make_model(given, "SO3xR3").eval().corrected(rays) is rays


def test_transparent_pixels_show_the_background():
    image = torch.tensor([[0.8, 0.4, 0.0, 1.0], [0.8, 0.4, 0.0, 0.25]])
    background = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    expected = torch.tensor([[0.8, 0.4, 0.0], [0.95, 0.1, 0.75]])
    torch.testing.assert_close(composited(image, background), expected)
    assert composited(image[:, :3], background).data_ptr() == image.data_ptr()


def test_random_background_is_black_in_evaluation():
    model = make_model(cameras(1), "off")
    like = torch.zeros(1000, 3)
    assert model.background(like).std() > 0.2
    assert torch.equal(model.eval().background(like), like)


def one_camera():
    """At (0, 0, 2), looking down the world's -z (OpenGL axes), 90 degrees wide and high."""
    pose = torch.eye(4)[None, :3].clone()
    pose[:, 2, 3] = 2.0
    return Cameras(camera_to_worlds=pose, fx=10.0, fy=10.0, cx=10.0, cy=10.0, width=20, height=20)


def test_the_nearest_point_in_view_is_neither_behind_nor_beside_the_camera():
    """Distances 3, 1.5 and 4 lie ahead; (0, 0, 3) lies behind, (5, 0, 1) beside."""
    points = torch.tensor([[0, 0, -1.0], [0, 0, 0.5], [0, 0, -2], [0, 0, 3], [5, 0, 1]])
    assert nearest_in_view(points, one_camera()) == pytest.approx(1.5)
    assert nearest_in_view(points[3:], one_camera()) == 0.0


def test_a_stray_point_does_not_decide_what_is_nearest():
    """One point in 200 at distance 0.1, the others at 2: the first percentile is 2."""
    points = torch.zeros(200, 3)
    points[0, 2] = 1.9
    assert nearest_in_view(points, one_camera()) == pytest.approx(2.0)


def test_rays_begin_halfway_to_the_points_if_there_are_any():
    given = one_camera()
    config = VanillaNerfModelConfig(width=8, num_layers=3, near_plane=None)
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    near = []
    for points in ({}, {"points3D_xyz": torch.zeros(9, 3)}):
        metadata = {GIVEN_CAMERAS: given, **points}
        model = config.setup(scene_box=box, num_train_data=1, metadata=metadata)
        near.append(model.near_plane)
    assert near == pytest.approx([SHORTEST_NEAR, 1.0])


def test_origins_learn_nothing_of_where_along_their_rays_they_are():
    """A gradient keeps its parts across the ray, and the origins their values."""
    origins = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    directions = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=-1)
    given = torch.randn(5, 3, dtype=torch.float64)
    moved = moved_across(origins, directions)
    assert torch.equal(moved, origins)
    (gradient,) = torch.autograd.grad(moved, origins, given)
    torch.testing.assert_close((gradient * directions).sum(-1), torch.zeros(5).double())
    taken = given - gradient
    torch.testing.assert_close(torch.linalg.cross(taken, directions), torch.zeros(5, 3).double())


def test_colours_of_a_model_move_cameras_across_their_rays_alone():
    """Truth: a ray that begins farther back on its own line sees the same."""
    given = cameras(2)
    rays = given.generate_rays(camera_indices=torch.tensor([[1]] * 6), coords=3 * torch.rand(6, 2))
    rays.origins = rays.origins.clone().requires_grad_()
    colors = make_model(given, "SO3xR3").get_outputs(rays)["rgb"]
    (gradient,) = torch.autograd.grad(colors.sum(), rays.origins)
    along = (gradient * rays.directions).sum(-1)
    assert gradient.norm(dim=-1).min() > 0
    torch.testing.assert_close(along / gradient.norm(dim=-1), torch.zeros(6), rtol=0, atol=1e-4)
