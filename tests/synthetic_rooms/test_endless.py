"""Endless rooms: depth and normals against closed forms, view against view, seed against seed."""

import math

import numpy as np
import pytest
import torch

from fm3d_plugins.data.synthetic import EndlessRooms, mixed, scene_seeds
from fm3d_plugins.kernels.threads import set_num_threads
from fm3d_plugins.synthetic_rooms.endless.layout import (
    AXES,
    BOX,
    CENTER,
    CYLINDER,
    HALF,
    KIND,
    MOST_SOLIDS,
    ROOM_ENTRIES,
    SIZE,
    SOLID_COLUMNS,
    SPHERE,
)
from fm3d_plugins.synthetic_rooms.endless.rooms import RoomOptions, noise_tables, render_rooms
from fm3d_plugins.synthetic_rooms.endless.sheet import contact_sheet

SIZES = (6.0, 5.0, 3.0)
EYE = (1.0, -1.5, 1.2)


def traced(kind, half, center, directions, rotation=None):
    """Distances along rays from `EYE`, and numbers of what they meet."""
    from fm3d_plugins.synthetic_rooms.endless.tracing_kernels import (
        MAP_COLUMNS,
        map_solids,
        trace,
    )

    room, solids = np.zeros(ROOM_ENTRIES), np.zeros((MOST_SOLIDS, SOLID_COLUMNS))
    room[SIZE : SIZE + 3] = SIZES
    solids[0, KIND], solids[0, CENTER : CENTER + 3] = kind, center
    solids[0, HALF : HALF + 3] = half
    solids[0, AXES : AXES + 9] = (np.eye(3) if rotation is None else rotation).flatten()
    maps = np.zeros((MOST_SOLIDS, MAP_COLUMNS), np.float32)
    map_solids(solids, 1, EYE, maps)
    rays = np.ascontiguousarray(directions.T, np.float32)
    t, found = np.empty(len(directions), np.float32), np.empty(len(directions), np.float32)
    trace(room, maps, 1, EYE, rays, t, found)
    return torch.from_numpy(t).double(), torch.from_numpy(found)


@pytest.fixture
def directions():
    rng = np.random.default_rng(3)
    towards = np.array([-0.4, 0.9, -0.1]) + 0.3 * rng.normal(size=(256, 3))
    return np.float32(towards)


def to_walls(directions):
    """Nearest of the six planes before the ray."""
    eye = torch.tensor(EYE).double()
    low = torch.tensor([-SIZES[0] / 2, -SIZES[1] / 2, 0.0]).double()
    high = torch.tensor([SIZES[0] / 2, SIZES[1] / 2, SIZES[2]]).double()
    d = torch.from_numpy(directions).double()
    return torch.where(d > 0, (high - eye) / d, (low - eye) / d).amin(1)


def test_walls_are_met_where_planes_are(directions):
    t, found = traced(SPHERE, (1e-3,) * 3, (2.9, 2.4, 2.9), directions)
    assert (found == -1).all()
    # float32: 1e-6 of some metres.
    torch.testing.assert_close(t, to_walls(directions), atol=1e-5, rtol=0)


def test_a_sphere_is_met_at_the_root_of_its_quadratic(directions):
    radius, center = 0.8, (0.2, 0.5, 1.0)
    t, found = traced(SPHERE, (radius,) * 3, center, directions)
    d = torch.from_numpy(directions).double()
    offset = torch.tensor(EYE).double() - torch.tensor(center).double()
    a, b = d.square().sum(1), d @ offset
    under = b**2 - a * (offset @ offset - radius**2)
    is_met = under > 1e-3  # Rays that graze it may fall on either side.
    expected = (-b - under.clamp_min(0).sqrt()) / a
    assert is_met.sum() > 50 and (found[is_met] == 0).all() and (found[under < 0] == -1).all()
    torch.testing.assert_close(t[is_met], expected[is_met], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [BOX, CYLINDER])
def test_points_on_turned_solids_lie_on_their_surfaces(kind, directions):
    """Truth: at the distance found, the solid's implicit function is 1; before it, above 1."""
    turn = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    half, center = np.array([0.5, 0.5 if kind == CYLINDER else 0.3, 0.7]), np.array([0.2, 0.5, 1.0])
    t, found = traced(kind, half, center, directions, turn)
    is_met = found.numpy() == 0
    assert is_met.sum() > 30

    def implicit(distance):
        points = np.array(EYE) + distance[:, None] * directions.astype(float)
        q = (points - center) @ turn.T / half
        if kind == BOX:
            return np.abs(q).max(1)
        return np.maximum(np.hypot(q[:, 0], q[:, 1]), np.abs(q[:, 2]))

    np.testing.assert_allclose(implicit(t.numpy())[is_met], 1.0, atol=2e-5)
    for share in np.linspace(0.05, 0.99, 30):
        assert (implicit(share * t.numpy()) > 1).all()


@pytest.fixture(scope="module")
def batch():
    return EndlessRooms(5).batch(0, num_scenes=12, num_views=4, height=24, width=32)


def test_the_same_point_has_the_same_colour_in_another_view(batch):
    """Truth: of what two views see, colours differ by shine and sampling alone."""
    places, is_seen = batch.correspondences(0, 1)
    assert is_seen.float().mean() > 0.4
    grid = 2 * places / places.new_tensor([32, 24]) - 1
    there = torch.nn.functional.grid_sample(batch.images[:, 1], grid, align_corners=False)
    difference = (there - batch.images[:, 0]).abs().mean(1)
    others = (batch.images[:, 1] - batch.images[:, 0]).abs().mean(1)
    assert difference[is_seen].mean() < 0.5 * others[is_seen].mean()


def test_correspondences_lead_to_the_same_point(batch):
    places, is_seen = batch.correspondences(0, 2)
    columns, rows = places.long().clamp_min(0).unbind(-1)
    points = batch.points()
    found = (
        points[:, 2]
        .flatten(1, 2)
        .gather(
            1,
            (rows.clamp_max(23) * 32 + columns.clamp_max(31))
            .flatten(1)[..., None]
            .expand(-1, -1, 3),
        )
    )
    apart = (found - points[:, 0].flatten(1, 2)).norm(dim=-1)[is_seen.flatten(1)]
    # Half a pixel at 4 m and a focal length of 25 pixels is 0.1 m; more where surfaces slant.
    assert apart.median() < 0.1


def test_normals_are_those_of_the_depth():
    """Truth: on plane surfaces, the cross product of neighbouring points' differences."""
    from fm3d_plugins.geometry.pointmaps import pointmap_from_depth

    views = render_rooms(torch.arange(6), 2, 24, 24)
    points = pointmap_from_depth(views.depth, views.intrinsics, views.world_from_camera)
    across = points[..., :-1, 1:, :] - points[..., :-1, :-1, :]
    down = points[..., 1:, :-1, :] - points[..., :-1, :-1, :]
    normals = torch.nn.functional.normalize(torch.linalg.cross(down, across), dim=-1)
    agreement = (normals * views.normals[..., :-1, :-1, :]).sum(-1)
    assert agreement.median() > 0.999 and (agreement > 0.99).float().mean() > 0.6
    torch.testing.assert_close(views.normals.norm(dim=-1), torch.ones_like(views.depth))


def test_cameras_are_rotations_within_rooms_that_see_something(batch):
    rotations = batch.world_from_camera[..., :3, :3]
    identity = torch.eye(3).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.mT, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(12, 4), atol=1e-5, rtol=0)
    assert batch.depth.amin() > 0.3
    # Neither black nor white, and not of one colour.
    brightness = batch.images.mean((2, 3, 4))
    assert 0.08 < brightness.min() and brightness.max() < 0.95
    assert batch.images.std((3, 4)).mean() > 0.05


def test_a_batch_follows_from_seed_and_step_for_any_number_of_threads(batch):
    set_num_threads(3)
    again = EndlessRooms(5).batch(0, num_scenes=12, num_views=4, height=24, width=32)
    set_num_threads(None)
    assert torch.equal(again.images, batch.images) and torch.equal(again.depth, batch.depth)
    other = EndlessRooms(5).batch(1, num_scenes=1, num_views=4, height=24, width=32)
    assert not torch.equal(other.images[0], batch.images[0])


def test_seeds_of_steps_workers_and_splits_never_meet():
    drawn = [
        seed
        for split in ("training", "held-out")
        for step in range(20)
        for worker in range(3)
        for seed in scene_seeds(split, 1, step, worker, 16).tolist()
    ]
    assert len(set(drawn)) == len(drawn)
    assert (scene_seeds("training", 1, 0, 0, 64) >= 0).all()
    assert (scene_seeds("held-out", 1, 0, 0, 64) < 0).all()
    assert mixed(1, 2) != mixed(2, 1)


def test_focal_lengths_keep_to_the_fields_of_view():
    options = RoomOptions(min_fov_degrees=50.0, max_fov_degrees=60.0)
    views = render_rooms(torch.arange(32), 1, 16, 24, options)
    focal = views.intrinsics[:, 0, 0, 0]
    fov = 2 * torch.atan(24 / (2 * focal)) * 180 / math.pi
    assert 50 <= fov.min() and fov.max() <= 60 and fov.max() - fov.min() > 5


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="Expected 1 <= least"):
        RoomOptions(min_fov_degrees=80.0)
    with pytest.raises(ValueError, match="at least one"):
        render_rooms(torch.arange(2), 0, 16, 16)
    with pytest.raises(ValueError, match="expected 1 to"):
        contact_sheet(0, 0)


def test_noise_tiles_and_uses_its_range():
    tables = noise_tables().astype(float)
    steps = np.abs(np.diff(tables, axis=2)).max((1, 2))
    seam = np.abs(tables[:, :, 0] - tables[:, :, -1]).max(1)
    assert (seam <= steps + 1).all() and (tables.std((1, 2)) > 40).all()


def test_a_contact_sheet_has_a_room_in_each_row():
    assert contact_sheet(2, 1).size == (8 * 96, 2 * 96)
