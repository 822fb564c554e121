"""Depth of rendered views: what it is measured along, and where it is no surface's."""

from types import SimpleNamespace

import torch
from nerfstudio.cameras.cameras import Cameras

from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.pointmaps import z_depth
from fm3d_plugins.surfaces.views import DepthView, depth_views, is_smooth

INTRINSICS = intrinsics_matrix(*torch.tensor([20.0, 25.0, 8.0, 6.0]))


def test_distance_to_a_wall_across_the_axis_becomes_one_depth():
    """Truth: the ray ((x - 8) / 20, (y - 6) / 25, 1) meets z = 3 at three times its length."""
    y, x = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    distance = 3 * torch.sqrt(((x - 8) / 20) ** 2 + ((y - 6) / 25) ** 2 + 1)
    torch.testing.assert_close(z_depth(distance, INTRINSICS), torch.full((12, 16), 3.0))


def test_pixels_beside_a_step_of_depth_are_not_smooth():
    depth = torch.full((6, 8), 2.0)
    depth[:, 5:] = 3.0
    expected = torch.ones(6, 8, dtype=torch.bool)
    expected[:, 4:6] = False
    torch.testing.assert_close(is_smooth(depth), expected)
    torch.testing.assert_close(is_smooth(depth.T), expected.T)


def test_points_are_those_of_pixels_with_depth():
    depth = torch.zeros(12, 16)
    depth[6, 8] = 4.0
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([1.0, 2, 3])
    view = DepthView(torch.zeros(12, 16, 3), depth, INTRINSICS, pose)
    # Half a pixel right and below of the principal point: (0.5 / 20, 0.5 / 25, 1) * 4.
    torch.testing.assert_close(view.points(), torch.tensor([[1.1, 2.08, 7.0]]))


def test_masked_pixels_see_no_surface():
    """A wall, rendered at half the size of photos whose left half is masked, and of whole ones."""
    depth = torch.full((12, 16), 3.0)
    wall = {"rgb": torch.ones(12, 16, 3), "accumulation": torch.ones(12, 16, 1)}
    model = SimpleNamespace(
        device="cpu",
        get_outputs_for_camera=lambda camera: wall,
        surface_depth=lambda camera, outputs: depth,
    )
    cameras = Cameras(torch.eye(4)[None, :3].repeat(2, 1, 1), 20.0, 25.0, 8.0, 6.0, 16, 12)
    mask = torch.zeros(24, 32, 1, dtype=torch.bool)
    mask[:, 16:] = True
    half, whole = depth_views(model, cameras, [mask, None])
    assert (half.depth[:, :8] == 0).all() and (half.depth[:, 8:] == 3).all()
    assert (whole.depth == 3).all()
