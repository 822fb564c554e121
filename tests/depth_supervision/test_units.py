"""Metres taken as millimetres are found by the scene's points, or by the cameras alone."""

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from fm3d_plugins.depth_supervision.units import check_depth_unit
from fm3d_plugins.io.depth_files import DepthFiles


def scene(folder, depth, scale, apart):
    """Five cameras in a row that look at a wall, and maps of its distance."""
    poses = torch.eye(4)[None, :3].repeat(5, 1, 1)
    poses[:, 0, 3] = apart * torch.arange(5)
    cameras = Cameras(poses, 60.0, 60.0, 32.0, 24.0, 64, 48)
    files = []
    for number in range(5):
        files.append(folder / f"{number}.npy")
        np.save(files[-1], np.full((12, 16), depth, np.float32))
    return DepthFiles([folder / "a.png"] * 5, files, (), scale), cameras


def wall(distance):
    """Points that all of the cameras see, OpenGL axes: they look along -z."""
    x, y = torch.meshgrid(torch.linspace(-1, 3, 30), torch.linspace(-1, 1, 20), indexing="ij")
    return torch.stack([x, y, torch.full_like(x, -distance)], -1).reshape(-1, 3)


@pytest.mark.parametrize(("depth", "scale"), [(3.0, 1.0), (3000.0, 1e-3)])
@pytest.mark.parametrize("points", [None, wall(3.0), wall(2.0)])
@pytest.mark.parametrize("apart", [0.01, 0.5, 5.0])
def test_depth_in_the_cameras_unit_passes(tmp_path, depth, scale, points, apart):
    check_depth_unit(*scene(tmp_path, depth, scale, apart), points)


@pytest.mark.parametrize("apart", [0.005, 0.5])
def test_metres_taken_as_millimetres_are_found_by_points(tmp_path, apart):
    with pytest.raises(ValueError, match="1000 times that.*--depth-unit-scale-factor 1.0"):
        check_depth_unit(*scene(tmp_path, 3.0, 1e-3, apart), wall(3.0))


def test_millimetres_taken_as_metres_are_found_by_points(tmp_path):
    with pytest.raises(ValueError, match="1/1000 of that"):
        check_depth_unit(*scene(tmp_path, 3000.0, 1.0, 0.5), wall(3.0))


@pytest.mark.parametrize("apart", [0.05, 0.5])
def test_metres_taken_as_millimetres_are_found_by_cameras_alone(tmp_path, apart):
    """The wall, 3 m away, would be 3 mm from cameras that are 5 cm apart."""
    with pytest.raises(ValueError, match=f"camera is {apart:.3g} scene units away"):
        check_depth_unit(*scene(tmp_path, 3.0, 1e-3, apart))


def test_photos_of_one_place_and_maps_without_depth_tell_nothing(tmp_path):
    check_depth_unit(*scene(tmp_path, 3.0, 1e-3, 0.0))
    check_depth_unit(*scene(tmp_path, 0.0, 1e-3, 1.0), wall(3.0))
