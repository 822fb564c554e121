"""A new photo's pose in a scene that is there."""

from dataclasses import replace

import pytest
import torch

from fm3d_plugins.backends.opencv import absolute_pose
from fm3d_plugins.dust3r import localisation
from fm3d_plugins.dust3r.localisation import localise
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.poses import (
    invert,
    pose_from_rotation_translation,
    rotation_angle_degrees,
    so3_exp,
    transform_points,
)
from fm3d_plugins.geometry.rays import camera_rays, pixel_centers
from fm3d_plugins.photos.canvas import plan_own_canvases

SIZE, QUERY = (1201, 901), 9
FRAMES = plan_own_canvases([SIZE], resolution=96)
MAP_FROM_PHOTO = FRAMES.map_from_photo[0]
FOCAL, MIDDLE = 1000.0, (590.0, 470.0)
PLANES = torch.tensor([[0, 0, -1.0, 6], [0, -1, -0.2, 2.5], [-0.7, 0, -0.7, 5]]).double()
"""A scene: the space where n.x + d > 0 for all three."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def matrix():
    values = [torch.tensor(value).double() for value in (FOCAL, FOCAL, *MIDDLE)]
    return intrinsics_matrix(*values)


def pose(x, y, turn):
    rotation = so3_exp(torch.tensor([0.03, turn, -0.02]).double())
    return pose_from_rotation_translation(rotation, torch.tensor([x, y, 0.3 * x]).double())


CAMERA = matrix(), MAP_FROM_PHOTO


def seen_points(world_from_camera):
    """World points behind the centres of the network's pixels: where rays meet the first plane."""
    grid = pixel_centers(*FRAMES.shapes[0], dtype=torch.float64).flatten(0, 1)
    pixels = MAP_FROM_PHOTO.on_photo(grid)
    origins, directions = camera_rays(pixels, matrix(), world_from_camera)
    away = -(origins @ PLANES[:, :3].T + PLANES[:, 3]) / (directions @ PLANES[:, :3].T)
    distance = away.masked_fill(away <= 0, torch.inf).amin(-1, keepdim=True)
    return (origins + distance * directions).unflatten(0, FRAMES.shapes[0])


def pair(first, second, poses, points, unit=0.37):
    """What a perfect network says of an ordered pair, in a unit of its own."""
    local = [
        transform_points(invert(poses[first]), points[photo].flatten(0, 1)).float()
        for photo in (first, second)
    ]
    maps = [unit * one.unflatten(0, FRAMES.shapes[0]) for one in local]
    confidence = torch.full(FRAMES.shapes[0], 5.0)
    return PairPointmaps(first, second, maps[0], confidence, maps[1], confidence)


POSES = {0: pose(-0.4, 0.1, 0.1), 1: pose(0.5, -0.1, -0.1), QUERY: pose(0.1, 0.05, 0.02)}


def errors(found, truth):
    """Rotation in degrees, and distance of the centres."""
    turn = rotation_angle_degrees(found[:3, :3], truth[:3, :3])
    return float(turn), float((found[:3, 3] - truth[:3, 3]).norm())


def test_a_photo_taken_where_one_of_the_scene_was_is_found_exactly():
    """Truth: every pixel matches itself, so that crop and half pixels must be right."""
    poses = {0: POSES[0], QUERY: POSES[0]}
    points = {photo: seen_points(one) for photo, one in poses.items()}
    pairs = [pair(QUERY, 0, poses, points)]
    found = localise(pairs, QUERY, *CAMERA, lambda photo: points[photo])
    turn, shift = errors(found, POSES[0])
    # Single precision of the pair's points matters only to which pixels match.
    assert turn < 1e-4 and shift < 1e-5
    matched, _ = localisation._matches(pairs, QUERY, MAP_FROM_PHOTO, lambda photo: points[photo])
    assert len(matched) == points[0][..., 0].numel()


@pytest.mark.parametrize("order", ["query first", "query second"])
def test_a_photo_is_found_from_pairs_in_either_order(order):
    """A match is off by up to half of the network's pixels, 6 of the photo's and 0.36 degrees.

    The mean of thousands is off by less, but not by nothing: both grids are regular.
    """
    points = {photo: seen_points(one) for photo, one in POSES.items()}
    names = [(QUERY, 0), (QUERY, 1)] if order == "query first" else [(0, QUERY), (1, QUERY)]
    pairs = [pair(i, j, POSES, points, unit) for (i, j), unit in zip(names, (0.4, 3), strict=True)]
    found = localise(iter(pairs), QUERY, *CAMERA, lambda photo: points[photo])
    turn, shift = errors(found, POSES[QUERY])
    assert turn < 0.2 and shift < 0.02
    matched, _ = localisation._matches(pairs, QUERY, MAP_FROM_PHOTO, lambda photo: points[photo])
    assert len(matched) > 2000


def test_a_wrong_pair_is_outvoted():
    points = {photo: seen_points(one) for photo, one in POSES.items()}
    moved = dict(points)
    moved[1] = transform_points(pose(2.0, 1.0, 0.9), points[1].flatten(0, 1)).reshape(
        points[1].shape
    )
    pairs = [pair(QUERY, photo, POSES, points) for photo in (0, 1)]
    found = localise(pairs, QUERY, *CAMERA, lambda photo: moved[photo])
    turn, shift = errors(found, POSES[QUERY])
    assert turn < 0.2 and shift < 0.02


def test_few_points_that_are_drawn_suffice_and_are_always_the_same(monkeypatch):
    monkeypatch.setattr(localisation, "MOST_POINTS", 300)
    points = {photo: seen_points(one) for photo, one in POSES.items()}
    pairs = [pair(QUERY, photo, POSES, points) for photo in (0, 1)]
    found, again = (localise(pairs, QUERY, *CAMERA, lambda photo: points[photo]) for _ in range(2))
    assert torch.equal(found, again)
    assert errors(found, POSES[QUERY])[0] < 0.36  # Half a network pixel.


def test_unsure_pixels_and_unknown_points_do_not_match():
    points = {photo: seen_points(one) for photo, one in POSES.items()}
    known = points[0].clone()
    known[:, :40] = torch.nan
    seen = pair(QUERY, 0, POSES, points)
    every, some = (
        len(localisation._matches([seen], QUERY, MAP_FROM_PHOTO, lambda _, them=them: them)[0])
        for them in (points[0], known)
    )
    assert 0.3 * every < some < 0.8 * every
    with pytest.raises(ValueError, match="0 pixels of the photo match .* lower the confidence"):
        unsure = replace(seen, confidence_first=seen.confidence_first * 0.58)
        localise([unsure], QUERY, *CAMERA, lambda _: points[0])
    with pytest.raises(ValueError, match="0 pixels of the photo match"):
        unsure = replace(seen, confidence_second=seen.confidence_second * 0.58)
        localise([unsure], QUERY, *CAMERA, lambda _: points[0])


def test_what_cannot_be_localised_is_said(monkeypatch):
    points = {photo: seen_points(one) for photo, one in POSES.items()}
    with pytest.raises(ValueError, match="0 pixels"):
        localise([], QUERY, *CAMERA, lambda _: points[0])
    with pytest.raises(ValueError, match="photos 0 and 1. Expected the photo 9"):
        localise([pair(0, 1, POSES, points)], QUERY, *CAMERA, lambda _: points[0])
    with pytest.raises(ValueError, match="Expected equal grids"):
        localise([pair(QUERY, 0, POSES, points)], QUERY, *CAMERA, lambda _: points[0][:-1])
    scattered = torch.randn(points[0].shape, generator=torch.Generator().manual_seed(0)).double()
    monkeypatch.setattr(localisation, "ITERATIONS", 200)
    with pytest.raises(ValueError, match="agrees with|No camera pose"):
        localise([pair(QUERY, 0, POSES, points)], QUERY, *CAMERA, lambda _: scattered)


def test_the_threshold_follows_the_networks_pixels(monkeypatch):
    """Truth: 96 of the network's pixels are 1201 of the photo's; at 5 pixels most right matches,
    each off by up to 6.3 on either axis, would be lost."""
    points = {photo: seen_points(one) for photo, one in POSES.items()}
    pairs = [pair(QUERY, photo, POSES, points) for photo in (0, 1)]
    agreeing = []

    def watched(*arguments, threshold, **options):
        pose, agrees = absolute_pose(*arguments, threshold=threshold, **options)
        agreeing.append((threshold, float(agrees.double().mean())))
        return pose, agrees

    monkeypatch.setattr(localisation, "absolute_pose", watched)
    localise(pairs, QUERY, *CAMERA, lambda photo: points[photo])
    monkeypatch.setattr(localisation, "THRESHOLD_MAP_PIXELS", 0.0)
    localise(pairs, QUERY, *CAMERA, lambda photo: points[photo])
    (threshold, share), (strict_threshold, strict_share) = agreeing
    assert threshold == pytest.approx(2 * 1201 / 96, rel=1e-3) and strict_threshold == 5.0
    assert strict_share < 0.7 * share and share > 0.95
