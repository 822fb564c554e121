"""Multi-view consistency and voxel thinning."""

import math

import pytest
import torch

from fm3d_plugins.geometry import point_filtering
from fm3d_plugins.geometry.point_filtering import (
    DepthViews,
    consistent_mask,
    overlapping_views,
    thin_to_voxels,
)
from fm3d_plugins.geometry.poses import pose_from_rotation_translation, so3_exp

HEIGHT, WIDTH, FOCAL = 40, 60, 50.0
FAR, NEAR = 4.0, 2.0


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def two_planes(num_views=5, step=0.2):
    """Cameras side by side that look at a wall at 4 with a board at 2 before its left half.

    The board is where the world's x is below 0. Depth is exact: a ray (u, v, 1) from x0 meets the
    board if x0 + 2 u < 0, and the wall otherwise.
    """
    x = torch.arange(num_views) * step - (num_views - 1) * step / 2
    poses = torch.eye(4).repeat(num_views, 1, 1)
    poses[:, 0, 3] = x
    u = (torch.arange(WIDTH) + 0.5 - WIDTH / 2) / FOCAL
    depth = torch.where(x[:, None] + NEAR * u < 0, NEAR, FAR)
    depth = depth[:, None].expand(-1, HEIGHT, -1).clone()
    intrinsics = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return depth, torch.ones_like(depth), intrinsics.repeat(num_views, 1, 1), poses


def all_others(num_views):
    rows = [[other for other in range(num_views) if other != view] for view in range(num_views)]
    return torch.tensor(rows)


def consistent_masks(depth, confidence, intrinsics, poses, neighbours, **options):
    views = DepthViews(depth, confidence, intrinsics, poses)
    each = (consistent_mask(views, row, neighbours[row], **options) for row in range(len(depth)))
    return torch.stack(list(each))


def test_exact_planes_are_kept_but_for_what_no_other_view_sees():
    """Truth: a step of 0.2 is 5 pixels on the board, so view 0 alone sees its first 5 columns."""
    depth, confidence, intrinsics, poses = two_planes()
    mask = consistent_masks(depth, confidence, intrinsics, poses, all_others(5), least_views=1)
    on_board = depth == NEAR
    assert not bool(mask[0, :, :5].any())
    on_board[0, :, :5] = False
    assert bool(mask[on_board].all())
    assert float(mask[depth == FAR].float().mean()) > 0.9


def test_floater_in_front_is_dropped_and_does_not_pull_others_down():
    depth, confidence, intrinsics, poses = two_planes()
    clean = consistent_masks(depth, confidence, intrinsics, poses, all_others(5))
    assert bool(clean[2, 10:14, 40:44].all())
    depth[2, 10:14, 40:44] = 1.0
    mask = consistent_masks(depth, confidence, intrinsics, poses, all_others(5))
    assert not bool(mask[2, 10:14, 40:44].any())
    elsewhere = torch.ones_like(mask)
    elsewhere[2, 10:14, 40:44] = False
    # The wall behind loses one supporter of four, which leaves enough.
    assert float(mask[elsewhere].float().mean()) > float(clean.float().mean()) - 0.01


def test_floater_behind_the_wall_has_no_support():
    depth, confidence, intrinsics, poses = two_planes()
    depth[2, 10:14, 40:44] = 6.0
    mask = consistent_masks(depth, confidence, intrinsics, poses, all_others(5))
    assert not bool(mask[2, 10:14, 40:44].any())


def test_point_hidden_from_some_views_is_kept_if_enough_others_see_it():
    """Truth: a wall point just right of the board's edge is hidden from the cameras to the right.

    From x0 the board hides the wall from x = -x0 on to the left (similar triangles: it stands
    halfway), so the wall at x = 0.1 is visible for x0 > -0.1 only.
    """
    depth, confidence, intrinsics, poses = two_planes()
    x = poses[:, 0, 3]
    column = [math.floor((0.1 - float(x0)) / FAR * FOCAL + WIDTH / 2) for x0 in x]
    visible = [float(x0) > -0.1 for x0 in x]
    assert visible == [False, False, True, True, True]
    for least_views, kept in ((2, True), (3, False)):
        mask = consistent_masks(
            depth, confidence, intrinsics, poses, all_others(5), least_views=least_views
        )
        assert depth[3, 20, column[3]] == FAR
        assert bool(mask[3, 20, column[3]]) == kept


def test_free_space_violation_outweighs_fewer_supporters():
    """Two views share a floater; three see the wall behind it."""
    depth, confidence, intrinsics, poses = two_planes(5, step=0.0)
    depth[:2, 20, 45] = 3.0
    mask = consistent_masks(depth, confidence, intrinsics, poses, all_others(5), least_views=1)
    assert not bool(mask[:2, 20, 45].any())
    assert bool(mask[2:, 20, 45].all())
    confidence[2:, 20, 45] = 0.1
    mask = consistent_masks(depth, confidence, intrinsics, poses, all_others(5), least_views=1)
    assert bool(mask[:2, 20, 45].all())


def test_view_without_neighbours_keeps_all_it_knows():
    depth, confidence, intrinsics, poses = two_planes(1)
    depth[0, 0, 0], depth[0, 0, 1], confidence[0, 0, 2] = 0.0, torch.nan, 0.0
    expected = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    expected[0, 0, :3] = False
    for neighbours in (torch.zeros(1, 0, dtype=torch.long), torch.tensor([[-1, -1]])):
        mask = consistent_masks(depth, confidence, intrinsics, poses, neighbours)
        assert torch.equal(mask, expected)


def test_neighbour_without_depth_or_confidence_has_no_say():
    depth, confidence, intrinsics, poses = two_planes(3, step=0.0)
    depth[0] = 3.0
    depth[1] = 0.0
    confidence[2] = 0.0
    mask = consistent_masks(depth, confidence, intrinsics, poses, all_others(3), least_views=0)
    assert bool(mask[0].all()) and not bool(mask[1:].any())


def test_the_mask_does_not_depend_on_how_many_pixels_are_compared_at_once(monkeypatch):
    depth, confidence, intrinsics, poses = two_planes()
    depth[2, 9:15, 39:45] = 1.0
    whole = consistent_masks(depth, confidence, intrinsics, poses, all_others(5))
    monkeypatch.setattr("fm3d_plugins.geometry.point_filtering.PIXELS_AT_ONCE", 100)
    again = consistent_masks(depth, confidence, intrinsics, poses, all_others(5))
    assert torch.equal(again, whole)


def test_half_precision_maps_and_a_moved_world_give_the_same_mask(generator):
    depth, confidence, intrinsics, poses = two_planes()
    depth[2, 10:14, 40:44] = 1.0
    turn = so3_exp(torch.randn(3, generator=generator))
    world = pose_from_rotation_translation(turn, torch.tensor([1.0, -2.0, 0.5]))
    expected = consistent_masks(depth, confidence, intrinsics, poses, all_others(5))
    found = consistent_masks(
        depth.half(), confidence.half(), intrinsics, world @ poses, all_others(5)
    )
    # Rounding may move a point across a pixel's border, at the board's edge.
    assert float((found != expected).float().mean()) < 0.01


@pytest.mark.parametrize("wrong", [{"relative_tolerance": 0}, {"least_views": -1}])
def test_senseless_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        consistent_masks(*two_planes(2), all_others(2), **wrong)


def test_overlapping_views_are_the_nearest_of_a_row():
    depth, _, intrinsics, poses = two_planes(6, step=0.5)
    depth = torch.full_like(depth, FAR)
    found = overlapping_views(DepthViews(depth, depth, intrinsics, poses), 2)
    assert set(found[0].tolist()) == {1, 2}
    assert all(set(found[view].tolist()) == {view - 1, view + 1} for view in range(1, 5))


def test_views_that_share_nothing_are_not_neighbours():
    depth, _, intrinsics, poses = two_planes(3, step=0.2)
    poses[2, 0, 3] = 100.0
    found = overlapping_views(DepthViews(depth, depth, intrinsics, poses), 4)
    assert found.tolist() == [[1, -1, -1, -1], [0, -1, -1, -1], [-1, -1, -1, -1]]


def test_view_from_behind_is_no_neighbour():
    """A wall seen from both sides: its points lie in both pictures, but on other sides."""
    depth, _, intrinsics, poses = two_planes(3, step=0.0)
    depth = torch.full_like(depth, FAR)
    poses[2, :3, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    poses[2, 2, 3] = 2 * FAR
    assert overlapping_views(DepthViews(depth, depth, intrinsics, poses), 2).tolist()[2] == [-1, -1]


def surface(num_points, generator):
    points = torch.rand(num_points, 3, generator=generator)
    points[:, 2] = 0.1 * (5 * points[:, 0]).sin()
    return points


def test_thinning_keeps_at_most_the_cap_and_nearly_as_many(generator):
    points = surface(20_000, generator)
    for cap in (1, 7, 500, 5000):
        kept = thin_to_voxels(points, torch.rand(20_000, generator=generator), cap)
        # Sides within 1 % and a surface: counts within a few percent; few voxels come in jumps.
        assert (0.9 * cap if cap > 100 else 1) <= len(kept) <= cap
        assert torch.equal(kept, kept.unique())


def test_thinning_keeps_the_surest_point_of_each_voxel(generator):
    """Clusters far apart beside their size: each is one voxel, whatever the grid's place."""
    centers = 10 * torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1)
    centers = centers.flatten(0, 2) + 5.0
    points = (centers[:, None] + 1e-9 * torch.randn(64, 50, 3, generator=generator)).flatten(0, 1)
    confidence = torch.rand(3200, generator=generator)
    confidence[::50] = torch.nan
    kept = thin_to_voxels(points, confidence, 64)
    best = confidence.unflatten(0, (64, 50)).nan_to_num(-1.0).argmax(1) + 50 * torch.arange(64)
    assert set(kept.tolist()) <= set(best.tolist())
    assert len(kept) > 40


def test_far_outliers_do_not_change_the_thinning(generator):
    """Three points a million rooms away cost three voxels of the cap, and nothing else."""
    points = surface(20_000, generator)
    confidence = torch.rand(20_000, generator=generator)
    far = torch.tensor([[1e6, 0.0, 0.0], [0.0, -3e6, 1.0], [1e12, 1e12, 1e12]])
    alone = thin_to_voxels(points, confidence, 1000)
    both = thin_to_voxels(torch.cat([points, far]), torch.cat([confidence, torch.ones(3)]), 1003)
    assert {20_000, 20_001, 20_002} <= set(both.tolist())
    assert abs(len(both) - len(alone)) < 60


def test_thinning_does_not_depend_on_the_order_of_the_points(generator):
    points, confidence = surface(5000, generator), torch.rand(5000, generator=generator)
    order = torch.randperm(5000, generator=generator)
    kept = thin_to_voxels(points, confidence, 300)
    shuffled = thin_to_voxels(points[order], confidence[order], 300)
    assert set(order[shuffled].tolist()) == set(kept.tolist())


def test_few_points_are_returned_whole():
    assert thin_to_voxels(torch.zeros(0, 3), torch.zeros(0), 5).tolist() == []
    assert thin_to_voxels(torch.zeros(4, 3), torch.zeros(4), 4).tolist() == [0, 1, 2, 3]


def test_equal_points_leave_the_earliest_of_the_surest():
    kept = thin_to_voxels(torch.full((9, 3), 2.5), torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 0, 0]), 3)
    assert kept.tolist() == [1]


def test_cap_below_one_and_infinite_points_are_refused():
    with pytest.raises(ValueError, match="cap is 0"):
        thin_to_voxels(torch.zeros(2, 3), torch.zeros(2), 0)
    with pytest.raises(ValueError, match="1 of 2 points"):
        thin_to_voxels(torch.tensor([[0.0, 0, 0], [torch.inf, 0, 0]]), torch.zeros(2), 1)


def test_a_flat_surface_fills_one_layer_of_voxels():
    """Truth: rounding moves points of a plane to both sides of it, but not into two layers."""
    x, y = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="xy")
    noise = 1e-6 * torch.randn(60, 60, generator=torch.Generator().manual_seed(0))
    points = torch.stack([x, y, 5.0 + noise], dim=-1).flatten(0, 1)
    kept = points[thin_to_voxels(points, torch.ones(3600), 400)]
    distances = torch.cdist(kept, kept).fill_diagonal_(torch.inf).amin(1)
    # Cells of three pixels: no two of what is kept are next to each other.
    assert float(distances.min()) > 1.5


def test_mirrored_voxels_are_different_ones():
    """Truth: a symmetric cloud, one point per unit cell, thinned at a cap just below its size."""
    grid = torch.arange(-10.0, 11.0)
    points = torch.cartesian_prod(grid, grid, grid)
    keys = point_filtering._voxel_keys(points.double(), 1.0)
    assert len(keys.unique()) == len(points)
    assert len(thin_to_voxels(points, torch.ones(len(points)), 9000)) > 0.1 * 9000
