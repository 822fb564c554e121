"""Pairs of views that show the same, told by depth, by points and by directions."""

import math
from dataclasses import replace

import pytest
import torch

from fm3d_plugins.estimators.refinement import covisibility
from fm3d_plugins.estimators.refinement.covisibility import covisible_pairs
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.geometry.poses import so3_exp
from fm3d_plugins.scene import SceneGeometry, Tracks
from fm3d_plugins.view_depth import ViewDepth

WIDTH, HEIGHT, FOCAL = 200, 150, 150.0


def scene_of(headings, centers=None):
    """Views that look in these directions (degrees about the vertical), 67 degrees wide."""
    count = len(headings)
    turns = torch.tensor([[0.0, math.radians(each), 0.0] for each in headings]).double()
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, :3, :3] = so3_exp(turns)
    if centers is not None:
        poses[:, :3, 3] = torch.tensor(centers).double()
    matrix = [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]
    return SceneGeometry(
        names=tuple(f"{row:03d}.jpg" for row in range(count)),
        image_sizes=torch.tensor([[WIDTH, HEIGHT]] * count),
        world_from_camera=poses,
        intrinsics=torch.tensor(matrix).double().expand(count, 3, 3),
        distortion=torch.zeros(count, 6),
        camera_index=torch.zeros(count, dtype=torch.long),
        points=torch.zeros(0, 3),
        point_colors=torch.zeros(0, 3, dtype=torch.uint8),
        point_confidence=torch.zeros(0),
    )


def with_depth(scene, depth):
    """All see a sphere of this radius about them, more or less."""
    maps = torch.full((len(scene), 15, 20), float(depth))
    placed = PixelMap(torch.full((len(scene), 2), 0.1), torch.zeros(len(scene), 2))
    return replace(scene, depth=ViewDepth(maps, torch.ones_like(maps), placed))


def test_neighbours_on_a_turntable_see_the_same_and_opposites_do_not():
    scene = with_depth(scene_of([0, 30, 60, 180]), 5)
    # Half of the view is 33.7 degrees: at 60 degrees a strip of 7 degrees and the margin is left.
    assert covisible_pairs(scene) == [(0, 1), (0, 2), (1, 2)]


def test_two_sides_of_a_thing_are_no_pair_though_both_see_it():
    """Face to face, everything that one shows lies in the other's frame, seen from behind."""
    scene = scene_of([0, 180], [[0, 0, -5], [0, 0, 5]])
    assert covisible_pairs(with_depth(scene, 5)) == []
    near = scene_of([0, 40], [[0, 0, -5], [-5 * math.sin(0.7), 0, -5 * math.cos(0.7)]])
    assert covisible_pairs(with_depth(near, 5)) == [(0, 1)]


def test_points_tell_where_there_is_no_depth():
    wide = torch.tensor([[math.sin(a), 0.0, math.cos(a)] for a in torch.linspace(-0.5, 1.1, 60)])
    scene = scene_of([0, 30, 180])
    seen = replace(
        scene,
        points=5 * wide.double(),
        point_colors=torch.zeros(60, 3, dtype=torch.uint8),
        point_confidence=torch.ones(60),
    )
    assert (0, 1) in covisible_pairs(seen)
    assert (0, 2) not in covisible_pairs(seen)
    none_shared = Tracks(
        torch.arange(60), torch.tensor([0] * 12 + [1] * 48), torch.zeros(60, 2).double()
    )
    tracked = replace(
        seen, points=torch.cat([seen.points[:12], -seen.points[12:]]), tracks=none_shared
    )
    assert (0, 1) not in covisible_pairs(tracked)


def test_directions_alone_must_do_where_nothing_else_is_known():
    assert covisible_pairs(scene_of([0, 30, 180])) == [(0, 1)]


def test_of_very_many_views_each_keeps_its_nearest(monkeypatch):
    monkeypatch.setattr(covisibility, "ALL_UP_TO", 5)
    monkeypatch.setattr(covisibility, "NEIGHBOURS", 2)
    scene = with_depth(scene_of(range(0, 40, 4)), 5)
    pairs = covisible_pairs(scene)
    assert {(row, row + 1) for row in range(9)} <= set(pairs)
    assert max(b - a for a, b in pairs) <= 2


@pytest.mark.parametrize("count", [1, 2])
def test_depth_that_is_known_nowhere_is_no_obstacle(count):
    scene = with_depth(scene_of([0] * count), 0)
    assert covisible_pairs(scene) == [(0, 1)][: count - 1]


def test_of_very_many_views_of_unknown_depth_the_near_ones_are_compared(monkeypatch):
    """A walk straight on, all looking the same way."""
    monkeypatch.setattr(covisibility, "ALL_UP_TO", 5)
    monkeypatch.setattr(covisibility, "NEIGHBOURS", 4)
    order = [3, 0, 7, 1, 5, 2, 9, 4, 8, 6]
    pairs = covisible_pairs(scene_of([0] * 10, [[float(place), 0, 0] for place in order]))
    assert max(abs(order[a] - order[b]) for a, b in pairs) <= 4
    assert all(
        (min(a, b), max(a, b)) in pairs
        for a in range(10) for b in range(10) if abs(order[a] - order[b]) == 1
    )  # fmt: skip
