"""Meshes and points of views with depth: a plane, and a room whose depth is known."""

import pytest
import torch

from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.surfaces.fusion import fused_mesh, plan_fusion, surface_points
from fm3d_plugins.surfaces.views import DepthView
from fm3d_plugins.synthetic_rooms.capture import (
    DRAFT,
    capture_cameras,
    capture_intrinsics,
    light_room,
    render_views,
)
from fm3d_plugins.synthetic_rooms.rooms import random_room

HALVES = torch.tensor([[1.0, 0, 0], [0, 0, 1]])


@pytest.fixture(scope="module")
def wall():
    """Two cameras before the plane z = 2, red where x < 0 and blue elsewhere."""
    intrinsics = intrinsics_matrix(*torch.tensor([60.0, 60.0, 32.0, 24.0]))
    views = []
    for shift in (-0.1, 0.1):
        pose = torch.eye(4)
        pose[0, 3] = shift
        x = (torch.arange(64) + 0.5 - 32) / 60 * 2 + shift
        rgb = HALVES[(x > 0).long()].expand(48, 64, 3)
        views.append(DepthView(rgb, torch.full((48, 64), 2.0), intrinsics, pose))
    return views


def test_a_wall_lies_where_it_is_with_its_colours_and_faces_the_cameras(wall):
    plan = plan_fusion(wall, voxel=0.02)
    mesh = fused_mesh(wall, plan)
    assert len(mesh.faces) > 1000
    assert float((mesh.vertices[:, 2] - 2).abs().max()) < 0.002
    for half, color in ((mesh.vertices[:, 0] < -0.05, 0), (mesh.vertices[:, 0] > 0.05, 2)):
        assert (mesh.colors[half].argmax(-1) == color).all() and half.any()
    # Both see x from -0.97 + 0.1 to 0.97 - 0.1, and one of them 0.2 more on its side.
    assert float(mesh.vertices[:, 0].abs().max()) == pytest.approx(1.17, abs=0.05)
    assert float(mesh.normals()[:, 2].median()) < -0.99


def test_voxels_follow_the_extent_and_depth_the_median(wall):
    plan = plan_fusion(wall)
    diagonal = float(torch.tensor([2.13, 1.6]).norm())
    assert plan.extent == pytest.approx(diagonal, rel=0.07)
    assert plan.voxel == pytest.approx(plan.extent / 320)
    assert plan.farthest == pytest.approx(8.0)


def test_what_is_too_far_or_too_large_is_refused(wall):
    with pytest.raises(ValueError, match="depth up to 1.*--max-depth"):
        plan_fusion(wall, farthest=1.0)
    with pytest.raises(ValueError, match=r"GB of memory.*--voxel-size"):
        plan_fusion(wall, voxel=1e-5)
    with pytest.raises(ValueError, match="No view"):
        plan_fusion([])


def test_points_lie_on_the_wall_and_are_thinned_out(wall):
    points, colors = surface_points(wall, 10.0, 500)
    assert 100 < len(points) <= 500
    assert float((points[:, 2] - 2).abs().max()) < 1e-5
    assert (colors[points[:, 0] < 0] == torch.tensor([255, 0, 0], dtype=torch.uint8)).all()


@pytest.fixture(scope="module")
def room():
    """Views of a room with true depth: six to fuse, others whose points are the truth."""
    lit = light_room(random_room(0), DRAFT, 1)
    width, height = 120, 90
    intrinsics = capture_intrinsics(width, height)
    cameras = capture_cameras(lit.room, 18)
    seen = render_views(lit, cameras, intrinsics, width, height, num_threads=1)
    return [
        DepthView(rgb, depth.float(), intrinsics.float(), pose.float())
        for rgb, depth, pose in zip(seen.rgb, seen.depth, cameras, strict=True)
    ]


def test_a_mesh_of_true_depth_lies_on_the_room(room):
    """The bar for exported meshes: 80 % of the vertices within 1 % of the extent."""
    from scipy.spatial import cKDTree

    plan = plan_fusion(room[::3])
    plan = plan_fusion(room[::3], voxel=2 * plan.voxel)
    mesh = fused_mesh(room[::3], plan)
    truth = torch.cat([view.points() for view in room])
    distances = torch.from_numpy(cKDTree(truth.numpy()).query(mesh.vertices.numpy())[0])
    assert float((distances < 0.01 * plan.extent).double().mean()) > 0.95
    # And the mesh is all of what is seen.
    back, _ = cKDTree(mesh.vertices.numpy()).query(truth[::50].numpy())
    assert (back < 0.02 * plan.extent).mean() > 0.8
