"""Test-pose protocols on a model whose best pose is known."""

import math
from dataclasses import replace

import pytest
import torch

from fm3d_plugins.camera_optimization.held_out_poses import (
    TestPoseProtocol,
    place_held_out,
    refine,
    training_cameras,
)
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.looked_at import distance_looked_at
from fm3d_plugins.geometry.poses import rotation_angle_degrees, so3_exp
from fm3d_plugins.nerfstudio_cameras import world_from_cameras, world_from_opengl


class PointModel(torch.nn.Module):
    """Loss: squared distance in pixels between where points are seen and where a photo has them."""

    def __init__(self, optimizer, points):
        super().__init__()
        self.camera_optimizer, self.points = optimizer, points
        self.calls = 0

    def pixels(self, camera):
        pose = world_from_cameras(camera)[0]
        x, y, z = ((self.points.to(pose) - pose[:3, 3]) @ pose[:3, :3]).unbind(-1)
        return torch.stack([camera.fx[0] * x / z, camera.fy[0] * y / z], dim=-1)

    def render_loss(self, camera, batch):
        assert not self.training  # A model in training corrects cameras and changes.
        self.calls += 1
        return (self.pixels(camera) - batch["pixels"]).square().mean()


@pytest.fixture
def points():
    return 0.6 * torch.randn(60, 3, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("text", ["none", "sim3", "photometric:1", "photometric:50"])
def test_protocols_are_read_and_named_alike(text):
    assert TestPoseProtocol.parse(text).name == text


@pytest.mark.parametrize(
    "text",
    ["", "None", "sim3:4", "photometric", "photometric:0", "photometric:-1", "photometric:x"],
)
def test_other_protocols_are_refused(text):
    with pytest.raises(ValueError, match="none, sim3, or photometric:K"):
        TestPoseProtocol.parse(text)


def test_training_cameras_are_the_optimisers_cameras(ring, make_optimizer, disturb):
    cameras = ring()
    optimizer = disturb(make_optimizer(cameras))
    trained = training_cameras(cameras, optimizer)
    for i in range(5):
        camera = cameras[i : i + 1]
        camera.metadata = {"cam_idx": i}
        expected = world_from_opengl(optimizer.apply_to_camera(camera).detach().double())
        torch.testing.assert_close(trained.optimised[i : i + 1], expected, atol=1e-6, rtol=0)
    assert torch.equal(trained.initial, world_from_cameras(cameras).double())


def test_none_returns_the_given_views(ring, make_optimizer, disturb, points):
    cameras = ring()
    model = PointModel(disturb(make_optimizer(cameras)), points)
    views = [(cameras[:1], {})]
    trained = training_cameras(cameras, model.camera_optimizer)
    assert place_held_out(model, views, TestPoseProtocol("none"), trained, torch.ones(1)) is views


def test_sim3_moves_held_out_cameras_as_the_training_cameras_moved(ring, make_optimizer, points):
    """Where all cameras of a scene moved by one similarity, its held-out ones did too."""
    cameras = ring(9)
    similarity = Similarity(
        torch.tensor(1.7, dtype=torch.float64),
        so3_exp(torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)),
        torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64),
    )
    given = world_from_cameras(cameras).double()
    moved = similarity.apply_to_pose(given)
    model = PointModel(make_optimizer(cameras[:6]), points)
    views = [(cameras[i : i + 1], {}) for i in range(6, 9)]
    factors = torch.tensor([1.0, 1.1, 0.9])
    trained = training_cameras(cameras[:6], model.camera_optimizer)
    trained = replace(trained, optimised=moved[:6])
    placed = place_held_out(model, views, TestPoseProtocol("sim3"), trained, factors)
    for i, (camera, _) in enumerate(placed):
        pose = world_from_cameras(camera).double()
        torch.testing.assert_close(pose, moved[6 + i : 7 + i], atol=1e-5, rtol=0)
        assert float(camera.fx) == pytest.approx(40.0 * float(factors[i]))
        assert float(camera.fy) == pytest.approx(44.0 * float(factors[i]))
    assert torch.equal(
        cameras.camera_to_worlds.double(), given[:, :3] * given.new_tensor([1, -1, -1, 1])
    )


def test_photometric_steps_find_the_pose_of_the_photo(ring, make_optimizer, points):
    cameras = ring()
    model = PointModel(make_optimizer(cameras), points)
    true, wrong = cameras[2:3], ring()[2:3]
    tangent = torch.tensor([0.03, -0.02, 0.02, 0.02, -0.01, 0.015])
    wrong.camera_to_worlds[0, :, :3] = so3_exp(tangent[3:]) @ wrong.camera_to_worlds[0, :, :3]
    wrong.camera_to_worlds[0, :, 3] += tangent[:3]
    batch = {"pixels": model.pixels(true)}
    before = float(model.eval().render_loss(wrong, batch))
    reach = distance_looked_at(world_from_cameras(cameras))
    found = refine(model, wrong, batch, 100, reach)
    assert float(model.render_loss(found, batch)) < 1e-3 * before
    error = rotation_angle_degrees(
        found.camera_to_worlds[0, :, :3], true.camera_to_worlds[0, :, :3]
    )
    assert error < 0.1 * math.degrees(float(tangent[3:].norm()))
    assert not found.camera_to_worlds.requires_grad


def test_photometric_takes_as_many_steps_as_it_says(ring, make_optimizer, points):
    cameras = ring()
    model = PointModel(make_optimizer(cameras), points)
    batch = {"pixels": model.pixels(cameras[1:2])}
    trained = training_cameras(cameras, model.camera_optimizer)
    views = [(cameras[1:2], batch), (cameras[1:2], batch)]
    model.calls = 0
    protocol = TestPoseProtocol.parse("photometric:7")
    place_held_out(model, views, protocol, trained, torch.ones(2))
    assert model.calls == 14


@pytest.mark.parametrize("is_training", [True, False])
def test_the_scene_is_frozen_while_a_pose_is_found(ring, make_optimizer, points, is_training):
    """PointModel's loss cannot be had in training mode, which comes back afterwards."""
    cameras = ring()
    model = PointModel(make_optimizer(cameras), points).train(is_training)
    batch = {"pixels": model.pixels(cameras[1:2])}
    reach = distance_looked_at(world_from_cameras(cameras))
    refine(model, cameras[1:2], batch, 2, reach)
    assert model.training == is_training
    assert model.calls == 2
