"""What both models do with rays, photos and backgrounds."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox

from fm3d_plugins.camera_optimization.camera_optimizer import GIVEN_CAMERAS
from fm3d_plugins.geometry.poses import se3_exp
from fm3d_plugins.nerf.ray_model import composited
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
