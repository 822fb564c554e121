"""Synthetic rooms: shapes against closed forms, light against form factors, view against view."""

import math
from dataclasses import replace

import pytest
import torch

from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.pointmaps import pointmap_from_depth
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.synthetic_rooms.capture import (
    DRAFT,
    RenderQuality,
    capture_cameras,
    capture_intrinsics,
    light_room,
    render_views,
)
from fm3d_plugins.synthetic_rooms.rooms import random_room
from fm3d_plugins.synthetic_rooms.scene import Lamp, Room, Solid, Texture, Window

BARE = RenderQuality(samples_per_side=1, light_spacing=1.0, light_samples=1, bounce_rays=1)
"""For tests that look at geometry alone."""
GREY = Texture("plaster", ((0.5, 0.5, 0.5),) * 4)
BLACK = Texture("plaster", ((0.0, 0.0, 0.0),) * 4)
SIZE = (4.0, 3.6, 2.6)
WIDTH, HEIGHT = 40, 30


def make_room(solids=(), wall=GREY, lamps=(), sky=0.0, ambient=0.0):
    """A plain room; the window takes the middle of the -x wall, the sun is off."""
    window = Window(
        center=(-SIZE[0] / 2, 0.0, 1.3),
        inward=(1.0, 0.0, 0.0),
        half_width=0.6,
        half_height=0.4,
        sky_radiance=(sky, sky, sky),
        to_sun=(-1.0, 0.0, 0.0),
        sun_radiance=(0.0, 0.0, 0.0),
    )
    ambient = (ambient, ambient, ambient)
    return Room(SIZE, (wall,) * 6, tuple(solids), window, tuple(lamps), ambient)


def render_room(room, poses, intrinsics, width, height, quality, num_threads=None):
    lit = light_room(room, quality, num_threads)
    return render_views(lit, poses, intrinsics, width, height, num_threads=num_threads)


def camera_towards(target, eye=(0.1, -1.5, 1.2)):
    """world_from_camera that looks at a point."""
    eye, target = torch.tensor(eye).double(), torch.tensor(target).double()
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]).double())
    right = torch.nn.functional.normalize(right, dim=0)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = torch.stack([right, torch.linalg.cross(forward, right), forward, eye], dim=1)
    return pose


def seen_points(room, target):
    """World points of all pixels of one view [H * W, 3], and the charts they are on."""
    intrinsics, pose = capture_intrinsics(WIDTH, HEIGHT), camera_towards(target)
    views = render_room(room, pose[None], intrinsics, WIDTH, HEIGHT, quality=BARE)
    points = pointmap_from_depth(views.depth.double(), intrinsics[None], views.world_from_camera)
    return points.reshape(-1, 3), views.charts.reshape(-1)


def local_points(points, solid):
    """World points in the axes of a solid: undo its turn about z, then its tilt about x."""
    turn, tilt = math.radians(solid.turn_degrees), math.radians(solid.tilt_degrees)
    x, y, z = (points - torch.tensor(solid.center).double()).unbind(-1)
    x, y = math.cos(turn) * x + math.sin(turn) * y, -math.sin(turn) * x + math.cos(turn) * y
    y, z = math.cos(tilt) * y + math.sin(tilt) * z, -math.sin(tilt) * y + math.cos(tilt) * z
    return torch.stack([x, y, z], dim=-1)


def distance_to_shape(points, solid):
    """Zero on the surface, by the implicit equation of each shape."""
    a, b, c = solid.size
    x, y, z = points.unbind(-1)
    ring = torch.hypot(x, y)
    if solid.shape == "ellipsoid":
        return torch.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2) - 1.0
    if solid.shape == "torus":
        return torch.hypot(ring - a, z) - b
    if solid.shape == "frustum":
        side = ring - (a + (b - a) * (z + c) / (2 * c))
        return torch.maximum(side, z.abs() - c)
    inner = torch.tensor(solid.size).double() - solid.rounding
    out = points.abs() - inner
    outside = out.clamp_min(0.0).norm(dim=-1) + out.amax(-1).clamp_max(0.0)
    return outside - solid.rounding


SHAPES = [
    Solid("box", (0.0, 0.4, 0.9), (0.5, 0.3, 0.4), (GREY,), 25.0, 10.0),
    Solid("rounded_box", (0.0, 0.4, 0.9), (0.5, 0.3, 0.4), (GREY,), 25.0, 10.0, 0.15),
    Solid("ellipsoid", (0.0, 0.4, 0.9), (0.5, 0.3, 0.4), (GREY,), -30.0, 40.0),
    Solid("frustum", (0.0, 0.4, 0.9), (0.5, 0.3, 0.4), (GREY,), 0.0, 60.0),
    Solid("torus", (0.0, 0.4, 0.9), (0.4, 0.15, 1.0), (GREY,), 20.0, 50.0),
]


def test_every_pixel_of_an_empty_room_lies_on_the_wall_that_its_ray_meets_first():
    """Truth: the ray leaves a box at the smallest of the three distances to the far planes."""
    intrinsics, pose = capture_intrinsics(WIDTH, HEIGHT), camera_towards((0.7, 1.2, 0.4))
    views = render_room(make_room(), pose[None], intrinsics, WIDTH, HEIGHT, quality=BARE)
    x, y = torch.meshgrid(torch.arange(WIDTH), torch.arange(HEIGHT), indexing="xy")
    focal = intrinsics[0, 0]
    rays = torch.stack([x + 0.5 - WIDTH / 2, y + 0.5 - HEIGHT / 2, torch.full_like(x, 1)], dim=-1)
    rays = (rays.double() / torch.stack([focal, focal, torch.ones_like(focal)])) @ pose[:3, :3].T
    eye, half = pose[:3, 3], torch.tensor([SIZE[0] / 2, SIZE[1] / 2, 0.0]).double()
    low, high = -half, half + torch.tensor([0.0, 0.0, SIZE[2]]).double()
    expected = ((torch.where(rays > 0, high, low) - eye) / rays).amin(-1)
    # Depth is stored in float32: half an ulp is 6e-8 of the value.
    torch.testing.assert_close(views.depth[0].double(), expected, rtol=1e-7, atol=0.0)


def test_depth_of_a_ball_is_the_root_of_the_quadratic():
    """Truth: |o + t d - c|^2 = r^2, solved in float64."""
    radius, center = 0.6, torch.tensor([0.0, 0.4, 0.9]).double()
    ball = Solid("ellipsoid", tuple(center.tolist()), (radius,) * 3, (GREY,))
    intrinsics, pose = capture_intrinsics(WIDTH, HEIGHT), camera_towards(ball.center)
    views = render_room(make_room([ball]), pose[None], intrinsics, WIDTH, HEIGHT, quality=BARE)
    flat = torch.ones(1, HEIGHT, WIDTH, dtype=torch.float64)
    rays = pointmap_from_depth(flat, intrinsics[None], pose[None])[0] - pose[:3, 3]
    offset = pose[:3, 3] - center
    a, b = (rays * rays).sum(-1), rays @ offset
    rest = b * b - a * (offset @ offset - radius**2)
    hit = rest > 0
    expected = (-b[hit] - rest[hit].sqrt()) / a[hit]
    assert hit.sum() > 100
    torch.testing.assert_close(views.depth[0][hit].double(), expected, rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("solid", SHAPES, ids=lambda solid: solid.shape)
def test_seen_points_satisfy_the_equation_of_the_shape(solid):
    points, charts = seen_points(make_room([solid]), solid.center)
    distance = distance_to_shape(local_points(points, solid), solid)
    on_solid = charts >= 6  # the first six charts are the room's own
    assert on_solid.sum() > 80
    # Float32 depth: 2 m x 6e-8; a marched surface may be a grazing micrometre off.
    assert distance[on_solid].abs().max() < 3e-6
    assert distance[~on_solid].min() > 0.0


def test_depth_of_many_solids_is_the_least_depth_of_each_alone():
    """The tree over the solids overlooks none: an oracle that has no tree to walk."""
    generator = torch.Generator().manual_seed(3)
    solids = []
    for index in range(24):
        place = torch.rand(3, generator=generator) * torch.tensor([2.4, 1.6, 1.8])
        place = place + torch.tensor([-1.2, -0.4, 0.3])
        size = tuple((0.05 + 0.15 * torch.rand(3, generator=generator)).tolist())
        shape = ("box", "ellipsoid", "frustum")[index % 3]
        solids.append(
            Solid(shape, tuple(place.tolist()), size, (GREY,), 37.0 * index, 11.0 * index)
        )
    intrinsics, pose = capture_intrinsics(WIDTH, HEIGHT), camera_towards((0.0, 0.5, 1.2))[None]

    def depth_of(some):
        return render_room(make_room(some), pose, intrinsics, WIDTH, HEIGHT, quality=BARE).depth

    alone = torch.stack([depth_of([solid]) for solid in solids]).amin(0)
    # Equal up to the order of operations: boxes are entered with the nearest hit so far in hand.
    torch.testing.assert_close(depth_of(solids), alone, rtol=1e-7, atol=0.0)


def floor_light(room, quality):
    """The light map of the floor: positions x, y of its nodes [J, I, 2], and light [J, I]."""
    tables = light_room(room, quality).tables
    floor = tables.charts[4]  # -x, +x, -y, +y, floor
    first, nu, nv = int(floor[0]), int(floor[1]), int(floor[2])
    light = torch.from_numpy(tables.light[first : first + nu * nv, 0]).reshape(nv, nu)
    x = torch.linspace(-0.498, 0.498, nu, dtype=torch.float64) * SIZE[0]
    y = torch.linspace(-0.498, 0.498, nv, dtype=torch.float64) * SIZE[1]
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1), light


def test_floor_under_a_glowing_ball_gets_radius_squared_times_cosine_over_distance_squared():
    """Truth: a ball of radiance L gives irradiance pi L r^2 cos / d^2; stored divided by pi."""
    height, radius, radiance = 2.0, 0.2, 10.0
    lamp = Lamp((0.0, 0.0, height), radius, (radiance,) * 3)
    where, light = floor_light(make_room(wall=BLACK, lamps=[lamp]), DRAFT)
    squared = where.square().sum(-1) + height**2
    expected = radiance * radius**2 * height / squared**1.5
    # Nodes are lifted 2 mm off the floor: up to 0.2 % nearer the lamp.
    torch.testing.assert_close(light, expected, rtol=3e-3, atol=0.0)


def test_floor_before_a_window_gets_the_form_factor_of_the_rectangle():
    """Truth: the integral of cos cos / (pi d^2) over the window, on a fine grid of its own."""
    where, light = floor_light(make_room(wall=BLACK, sky=5.0), replace(DRAFT, light_samples=8))
    line = (torch.arange(60, dtype=torch.float64) + 0.5) / 30.0 - 1.0
    y, z = torch.meshgrid(0.6 * line, 1.3 + 0.4 * line, indexing="ij")
    # Light leaves from 3 cm before the pane, past the glazing bars.
    towards_window = where[..., None, None, 0] + SIZE[0] / 2 - 0.03
    squared = towards_window**2 + (where[..., None, None, 1] - y) ** 2 + z**2
    factor = (towards_window * z / (math.pi * squared**2)).mean((-1, -2)) * 1.2 * 0.8
    far = where[..., 0] > -SIZE[0] / 2 + 0.5
    # A sample lies anywhere in its cell: half a cell is 7 cm in 50 cm, a fifth of the light or so;
    # 64 of them average to 2.5 % at most, and 130 nodes to 0.3 %. Twice that is allowed.
    torch.testing.assert_close(light[far], 5.0 * factor[far], rtol=0.05, atol=0.0)
    assert (light[far] / (5.0 * factor[far])).mean() == pytest.approx(1.0, abs=0.006)


def test_a_solid_between_lamp_and_floor_casts_its_shadow():
    lamp = Lamp((0.0, 0.0, 2.0), 0.05, (10.0,) * 3)
    shade = Solid("box", (0.0, 0.0, 1.0), (0.5, 0.5, 0.01), (BLACK,))
    where, light = floor_light(make_room([shade], BLACK, [lamp]), DRAFT)
    reach = where.abs().amax(-1)
    # The edge at 0.5 m, half-way up, is thrown to 1 m; the lamp's width blurs it by 5 cm.
    assert light[reach < 0.9].max() == 0.0
    assert light[reach > 1.1].min() > 0.0


def test_walls_of_one_colour_return_their_colour_times_the_ambient_light():
    """Truth: in a closed room every gathered ray sees the same wall."""
    _, light = floor_light(make_room(wall=GREY, ambient=0.8), DRAFT)
    linear = ((0.5 + 0.055) / 1.055) ** 2.4  # sRGB 0.5
    torch.testing.assert_close(light, torch.full_like(light, 0.8 * linear))


def capture(seed, num_views, width, height, quality=DRAFT):
    room = random_room(seed)
    lit = light_room(room, quality)
    cameras = capture_cameras(room, 24)[:num_views]
    return render_views(lit, cameras, capture_intrinsics(width, height), width, height)


@pytest.mark.parametrize("seed", [0, 5])
def test_neighbouring_views_agree_on_depth_and_colour_of_what_both_see(seed):
    width, height = 160, 120
    views = capture(seed, 2, width, height, replace(DRAFT, samples_per_side=3))
    points = pointmap_from_depth(
        views.depth[:1].double(), views.intrinsics[None], views.world_from_camera[:1]
    )
    other = transform_points(invert(views.world_from_camera[1]), points.reshape(-1, 3))
    x, y = project(other, views.intrinsics).unbind(-1)
    inside = (other[:, 2] > 0) & (x > 0) & (x < width) & (y > 0) & (y < height)
    column, row = x[inside].long(), y[inside].long()
    same = views.charts[0].flatten()[inside] == views.charts[1][row, column]
    assert same.sum() > 0.6 * width * height  # what the next photo sees again
    # Half a pixel off its centre, on a surface at a slant: two percent.
    depth = views.depth[1][row, column][same]
    agrees = (depth / other[inside, 2][same] - 1).abs() < 0.02
    assert agrees.float().mean() > 0.95
    difference = (views.rgb[0].flatten(0, 1)[inside] - views.rgb[1][row, column])[same].abs()
    # Patterns change within the half pixel, and some surfaces mirror: most of it agrees closely.
    assert difference.median() < 0.03
    assert difference.mean() < 0.06


def test_pictures_do_not_depend_on_the_number_of_threads():
    room, quality = random_room(2), DRAFT
    cameras, intrinsics = capture_cameras(room, 5), capture_intrinsics(WIDTH, HEIGHT)
    one, three = (
        render_room(room, cameras, intrinsics, WIDTH, HEIGHT, quality=quality, num_threads=threads)
        for threads in (1, 3)
    )
    assert torch.equal(one.rgb, three.rgb)
    assert torch.equal(one.depth, three.depth)


def test_a_seed_names_one_room_and_another_seed_another():
    assert random_room(4) == random_room(4)
    assert random_room(4) != random_room(5)


def test_fewer_samples_per_pixel_give_the_same_mean_colour():
    """Patterns finer than a pixel fade to their mean, so nothing brightens or darkens."""
    room, width, height = random_room(1), 96, 72
    cameras, intrinsics = capture_cameras(room, 24)[::8], capture_intrinsics(width, height)
    lit = light_room(room, DRAFT)

    def mean_color(side):
        quality = replace(DRAFT, samples_per_side=side)
        views = render_views(replace(lit, quality=quality), cameras, intrinsics, width, height)
        return views.rgb.mean((0, 1, 2))

    # The tone curve is concave, so what is left unblurred within a pixel darkens it a little.
    torch.testing.assert_close(mean_color(2), mean_color(6), rtol=0.01, atol=0.0)


def test_colours_are_within_range_and_every_pixel_has_depth():
    views = capture(6, 3, WIDTH, HEIGHT)
    assert views.rgb.min() >= 0.0 and views.rgb.max() <= 1.0
    assert views.rgb.isfinite().all()
    assert views.depth.min() > 0.1 and views.depth.max() < 8.0


@pytest.mark.parametrize("seed", range(6))
def test_capture_cameras_are_upright_rigid_and_clear_of_the_furniture(seed):
    room = random_room(seed)
    cameras = capture_cameras(room, 24)
    rotations = cameras[:, :3, :3]
    identity = torch.eye(3, dtype=torch.float64).expand(24, 3, 3)
    torch.testing.assert_close(rotations @ rotations.mT, identity, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(24).double())
    assert rotations[:, 2, 0].abs().max() < 1e-12  # the x axis is level
    assert (rotations[:, 2, 1] < 0).all()  # the y axis points down
    depth = capture(seed, 24, 16, 12, BARE).depth
    assert depth.amin((1, 2)).min() > 0.25


def test_a_camera_outside_the_room_is_refused():
    pose = camera_towards((0.0, 0.0, 1.0), eye=(0.1, -1.9, 1.2))
    with pytest.raises(ValueError, match=r"Camera 0 is at .* outside the room \|x\| < 2.00"):
        render_room(make_room(), pose[None], capture_intrinsics(8, 6), 8, 6, quality=BARE)


def test_intrinsics_with_skew_are_refused():
    intrinsics = capture_intrinsics(8, 6)
    intrinsics[0, 1] = 0.5
    with pytest.raises(ValueError, match="The intrinsics are .* Correct them"):
        pose = camera_towards((0.0, 0.0, 1.0))
        render_room(make_room(), pose[None], intrinsics, 8, 6, quality=BARE)


def test_descriptions_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="pattern is 'tartan'"):
        Texture("tartan", GREY.colors)
    with pytest.raises(ValueError, match="shape 'cone' and 1 textures"):
        Solid("cone", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (GREY,))
    with pytest.raises(ValueError, match="rounding of at most the smallest"):
        Solid("rounded_box", (0.0, 0.0, 0.0), (1.0, 1.0, 0.1), (GREY,), rounding=0.2)
