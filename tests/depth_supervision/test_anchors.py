"""Depth maps aligned by points of the scene."""

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from fm3d_plugins.depth_supervision.anchors import (
    MIN_ANCHORS,
    align_to_points,
    nearest_of_cell,
    project_points,
)
from fm3d_plugins.depth_supervision.depth_maps import DepthMaps
from fm3d_plugins.io.depth_files import DepthFiles

torch.set_num_threads(1)
WIDTH, HEIGHT, FOCAL = 64, 48, 50.0


def cameras(count=2, **options):
    """At the origin, looking along -z (OpenGL); photo i stands i units to the right."""
    poses = torch.eye(4)[None, :3].repeat(count, 1, 1)
    poses[:, 0, 3] = torch.arange(count).float()
    size = {"width": WIDTH, "height": HEIGHT, "cx": WIDTH / 2, "cy": HEIGHT / 2}
    return Cameras(poses, fx=FOCAL, fy=FOCAL, **size, **options)


def plane_points(count=600, seed=0):
    """On the plane z = -4 + x / 2, where both photos see it."""
    generator = torch.Generator().manual_seed(seed)
    x, y = 6 * torch.rand(2, count, generator=generator) - 3
    return torch.stack([x, y, -4 + x / 2], dim=-1)


def plane_depth(photo):
    """z-depth of the plane at pixel centres: a camera at c sees d = 4 - (c + d u) / 2."""
    u = (torch.arange(WIDTH) + 0.5 - WIDTH / 2) / FOCAL
    return ((4 - photo / 2) / (1 + u / 2)).expand(HEIGHT, WIDTH).numpy()


def maps_of(folder, arrays):
    files = [folder / f"{i}.npy" for i in range(len(arrays))]
    for file, values in zip(files, arrays, strict=True):
        np.save(file, values)
    sizes = torch.tensor([[WIDTH, HEIGHT]]).expand(len(files), 2)
    return DepthMaps(
        DepthFiles([f.with_suffix(".jpg") for f in files], files, (), 1.0), sizes, "cpu"
    )


def test_points_fall_where_the_cameras_rays_meet_them():
    """(0.4, 0.2, -2) is at u = 0.2 to the right and 0.1 up."""
    points = torch.tensor([[0.0, 0.0, 3.0], [0.4, 0.2, -2.0], [50.0, 0.0, -2.0]])
    rows, positions, depth = project_points(points, cameras()[0])
    assert rows.tolist() == [1]
    torch.testing.assert_close(positions, torch.tensor([[32 + 10.0, 24 - 5.0]]))
    torch.testing.assert_close(depth, torch.tensor([2.0]))


def test_distorted_points_fall_where_nerfstudios_rays_meet_them():
    parameters = torch.tensor([0.1, -0.05, 0.0, 0.0, 0.01, -0.02]).repeat(2, 1)
    lens = cameras(distortion_params=parameters)
    _, positions, depth = project_points(plane_points(), lens[1])
    assert len(positions) > 100
    index = torch.ones(len(positions), 1, dtype=torch.long)
    rays = lens.generate_rays(camera_indices=index, coords=positions.flip(-1))
    norm = rays.metadata["directions_norm"]
    found = rays.origins + rays.directions * norm * depth[:, None]
    # Newton's iterations of nerfstudio's undistortion end near 1e-4.
    torch.testing.assert_close(found[:, 2], -4 + found[:, 0] / 2, atol=1e-3, rtol=0)


def test_points_behind_others_do_not_count():
    positions = torch.tensor([[10.0, 10.0], [10.5, 10.5], [10.5, 10.2], [40.0, 40.0]])
    depth = torch.tensor([2.0, 2.1, 3.0, 9.0])
    found = nearest_of_cell(positions, depth, cameras()[0])
    assert found.tolist() == [True, True, False, True]


def test_every_map_finds_its_own_scale_and_shift(tmp_path):
    scale, shift = torch.tensor([0.5, 3.0]), torch.tensor([1.0, -2.0])
    wrong = [(plane_depth(i) - float(shift[i])) / float(scale[i]) for i in range(2)]
    found = align_to_points(plane_points(), cameras(), maps_of(tmp_path, wrong), "scale-shift")
    # A map's pixel is up to half a pixel from the point: 0.5 / 50 / 2 of the depth.
    torch.testing.assert_close(found.scale.float(), scale, rtol=0.02, atol=0)
    torch.testing.assert_close(found.shift.float(), shift, rtol=0, atol=0.08)
    assert (found.trust > 0.99).all()


def test_hidden_points_and_wrong_pixels_change_little(tmp_path):
    """A tenth of the points lie behind the plane, where they are hidden."""
    points = plane_points()
    hidden = points[:60] * torch.tensor([2.0, 2.0, 2.0])
    maps = maps_of(tmp_path, [2 * plane_depth(i) for i in range(2)])
    clean = align_to_points(points, cameras(), maps, "scale")
    found = align_to_points(torch.cat([points, hidden]), cameras(), maps, "scale")
    torch.testing.assert_close(found.scale, clean.scale, rtol=0.01, atol=0)
    torch.testing.assert_close(found.scale.float(), torch.tensor([0.5, 0.5]), rtol=0.01, atol=0)


@pytest.mark.parametrize("reason", ["few points", "contradiction", "lens"])
def test_photos_that_points_cannot_align_are_left_to_the_render(tmp_path, reason):
    points, lens = plane_points(), cameras()
    depths = [plane_depth(i) for i in range(2)]
    if reason == "few points":
        points = points[: MIN_ANCHORS - 1]
    elif reason == "contradiction":
        depths = [9 - depth for depth in depths]
    else:
        lens = cameras(camera_type=CameraType.FISHEYE)
    found = align_to_points(points, lens, maps_of(tmp_path, depths), "scale-shift")
    assert not found.trust.any()
