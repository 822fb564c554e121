"""Equality of the pieces around the network with the published code's."""

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.geometry.poses import rotation_from_6d, rotation_from_quaternion_wxyz
from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.rayzer.cameras import PosePredictor, PredictedCameras, grid_waves, waves


@pytest.fixture(scope="module")
def functions(shared):
    return load_file(shared / "golden" / "rayzer_functions.safetensors")


def test_rotations_are_the_published_ones(functions, assert_near):
    assert_near(rotation_from_6d(functions["rot6d.in"]), functions["rot6d.mat"], share=1e-6)
    ours = rotation_from_quaternion_wxyz(functions["quat.in_wxyz"])
    assert_near(ours, functions["quat.mat"], share=1e-6)


def test_cameras_of_thirteen_numbers_and_their_rays_are_the_published_ones(functions, assert_near):
    cameras = PredictedCameras(functions["cam13.in"][None])
    poses = cameras.world_from_camera()
    assert_near(poses, functions["cam13.c2w"], share=1e-6)
    intrinsics = cameras.intrinsics(1, 1)[..., [0, 1, 0, 1], [0, 1, 2, 2]]
    assert_near(intrinsics, functions["cam13.fxfycxcy"], share=1e-6)
    rays = plucker_maps(cameras.intrinsics(12, 20), poses, 12, 20)
    assert_near(rays, functions["plucker_12x20"], share=2e-6)


def test_waves_are_the_published_ones(functions, assert_near):
    assert_near(waves(torch.arange(6), 16), functions["pe.1d_dim16_pos0..5"], share=1e-6)


@pytest.mark.parametrize("name", ["pe.2d_dim32_grid4x4", "pe.2d_dim32_grid_h2_w3"])
def test_waves_on_grids_are_the_published_ones(name, functions, assert_near):
    """Also on a grid that is not square, where the published order is that of another grid."""
    rows, columns = {"pe.2d_dim32_grid4x4": (4, 4)}.get(name, (2, 3))
    expected = next(functions[key] for key in functions if key.startswith(name))
    assert_near(grid_waves(rows, columns, 32, torch.device("cpu")), expected, share=1e-6)


@pytest.mark.parametrize("canonical", ["first", "middle"])
@pytest.mark.parametrize(("rotation", "name"), [("6d", "6d"), ("quaternion", "quat")])
def test_predicted_cameras_are_the_published_ones(
    rotation, name, canonical, functions, golden_weights, assert_near
):
    expected = functions[f"posehead.{name}.{canonical}"]
    tokens = functions["posehead.tokens_b2_v5"].unflatten(0, (2, 5))
    predictor = PosePredictor(tokens.shape[-1], canonical, rotation)
    golden_weights.fill_(predictor.state_dict())
    assert_near(predictor(tokens).numbers, expected, share=1e-6)
