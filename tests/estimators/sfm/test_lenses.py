"""How many numbers a lens gets, from correspondences of rings around a thing and of a room."""

import math
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

from fm3d_plugins.backends.pycolmap.database import write_database
from fm3d_plugins.backends.pycolmap.mapping import (
    LensDeviations,
    MapperSettings,
    lens_deviations,
    map_incrementally,
    refine_apart,
    refine_model,
)
from fm3d_plugins.backends.pycolmap.verification import CameraGuess, VerifiedMatches
from fm3d_plugins.estimators.sfm import estimator
from fm3d_plugins.estimators.sfm import lenses as lenses_module
from fm3d_plugins.estimators.sfm.attempts import Search
from fm3d_plugins.estimators.sfm.estimator import Sfm
from fm3d_plugins.estimators.sfm.lenses import (
    are_told,
    explains_as_much,
    is_bent,
    refine_by_evidence,
    untold,
    with_told_focal,
)
from fm3d_plugins.estimators.sfm.result import Found
from fm3d_plugins.estimators.sfm.zooms import relative_focals

WIDTH, HEIGHT, FOCAL = 720, 1280, 1013.0
UNCALIBRATED = 3
"""COLMAP's number of two views that any fundamental matrix explains."""

NOISE = 0.4
"""Of keypoints, pixels: what SIFT has."""


def camera(azimuth, elevation, distance, roll):
    """Position and axes (right, down, forward) of a camera that looks at the origin; radians."""
    level = np.array([math.cos(azimuth), math.sin(azimuth), 0.0]) * math.cos(elevation)
    position = distance * (level + [0, 0, math.sin(elevation)])
    forward = -position / distance
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    turned = math.cos(roll) * right + math.sin(roll) * down
    return position, np.stack([turned, np.cross(forward, turned), forward])


def capture(folder, cameras, *, lens=(0, 0, 0, 0), aspect=1.0, walls=False, held=False, strays=0):
    """A model joined from the correspondences of cameras around a lump, and a room if wanted.

    A point is seen from the front, and matched between photos that see it under similar angles.

    Args:
        strays: Matches between each photo and the next that agree on another lens, whose focal
            length is nine tenths.
    """
    rng = np.random.default_rng(0)
    out = rng.normal(size=(1500, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    points = 0.3 * out * (1 + 0.25 * np.sin(5 * out[:, :1] + 3 * out[:, 1:2]))
    if walls:
        room = rng.uniform(-2.5, 2.5, (1500, 3))
        room[np.arange(1500), rng.integers(0, 3, 1500)] = 2.5 * rng.choice([-1, 1], 1500)
        points, out = np.concatenate([points, room]), np.concatenate([out, -room / 2.5])
    k1, k2, p1, p2 = lens
    seen, rays, features = [], [], []
    for position, axes in cameras:
        local = (points - position) @ axes.T
        x, y = (local[:, :2] / local[:, 2:]).T
        r2 = x * x + y * y
        radial = 1 + k1 * r2 + k2 * r2 * r2
        u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        pixels = np.stack([FOCAL * u + WIDTH / 2, aspect * FOCAL * v + HEIGHT / 2], axis=1)
        pixels += NOISE * rng.normal(size=pixels.shape)
        ray = position - points
        ray /= np.linalg.norm(ray, axis=1, keepdims=True)
        inside = (pixels > 0).all(1) & (pixels < [WIDTH, HEIGHT]).all(1) & (local[:, 2] > 0.1)
        seen.append(inside & ((ray * out).sum(1) > 0.25) & (rng.random(len(ray)) < 0.75))
        rays.append(ray)
        keypoints = np.zeros((int(seen[-1].sum()), 6), np.float32)
        keypoints[:, :2], keypoints[:, 2], keypoints[:, 5] = pixels[seen[-1]], 1, 1
        features.append(keypoints)
    first_stray = [len(each) for each in features]
    if strays:
        features = with_strays(cameras, features, points[rng.choice(1500, strays)])
    guess = CameraGuess(
        WIDTH, HEIGHT, (WIDTH / 2, HEIGHT / 2), 1.2 * HEIGHT, False,
        "SIMPLE_PINHOLE" if held else "SIMPLE_RADIAL",
    )  # fmt: skip
    matches = {}
    for a in range(len(cameras)):
        for b in range(a + 1, len(cameras)):
            near = (rays[a] * rays[b]).sum(1) > math.cos(math.radians(35))
            rows = np.flatnonzero(seen[a] & seen[b] & near)
            if len(rows) >= 15:
                ends = np.stack([np.cumsum(seen[view])[rows] - 1 for view in (a, b)], axis=1)
                if strays and (b - a) % (len(cameras) - 2) == 1:
                    one, two = (a, b) if b == a + 1 else (b, a)
                    further = {one: first_stray[one], two: first_stray[two] + strays}
                    more = np.stack([np.arange(strays) + further[view] for view in (a, b)], axis=1)
                    ends = np.concatenate([ends, more])
                matches[a, b] = VerifiedMatches(ends, UNCALIBRATED, None, None, None)
    path = folder / "scene.db"
    write_database(path, [guess], [0] * len(cameras), features, matches)
    settings = MapperSettings(
        refines_focal=not held,
        keeps_two_view_points=held or strays > 0,
        start_angle_degrees=4.0 if held else 16.0,
    )
    return max(map_incrementally(path, folder / "out", settings, seed=0), key=len)


def with_strays(cameras, features, points):
    """Keypoints, and those in which a lens with nine tenths of the focal length sees points: first
    those that are matched with the next photo, then those with the last."""
    found = []
    for (position, axes), own in zip(cameras, features, strict=True):
        local = (points - position) @ axes.T
        more = np.zeros((2 * len(points), 6), np.float32)
        pixels = 0.9 * FOCAL * local[:, :2] / local[:, 2:] + [WIDTH / 2, HEIGHT / 2]
        more[:, :2], more[:, 2], more[:, 5] = np.tile(pixels, (2, 1)), 1, 1
        found.append(np.concatenate([own, more]))
    return found


def ring(num=16, elevation=0.0, roll=90.0):
    """Cameras at one height and distance, all around."""
    angles = (math.tau * n / num for n in range(num))
    return [camera(angle, math.radians(elevation), 1.1, math.radians(roll)) for angle in angles]


def walk(num=16):
    """Cameras around the same at varying heights, distances and rolls."""
    rng = np.random.default_rng(1)
    return [
        camera(math.tau * n / num, rng.uniform(0, 0.5), rng.uniform(1, 1.3), rng.uniform(0, 0.8))
        for n in range(num)
    ]


SIZES = [(WIDTH, HEIGHT)] * 16
GROUPS = [0] * 16


def adjusted(model, tmp_path):
    return refine_by_evidence(model, GROUPS, SIZES, tmp_path / "refined")


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A ring at the height of the thing: the ratio of focal lengths is open."""
    return capture(tmp_path_factory.mktemp("flat"), ring())


def test_a_ring_gets_one_focal_length_and_no_distortion_that_it_does_not_tell(flat, tmp_path):
    """Truth: 1013 px on both axes, no distortion; 1 % is five of its standard deviations."""
    found = adjusted(flat, tmp_path)
    assert len(found) == 16
    np.testing.assert_array_equal(found.intrinsics[:, 0, 0], found.intrinsics[:, 1, 1])
    assert found.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=0.01)
    np.testing.assert_array_equal(found.distortion, 0)


def test_matches_of_two_photos_alone_do_not_move_a_ring(tmp_path):
    """Truth: 1013 px, though each photo has 200 matches with the next that say 912."""
    model = capture(tmp_path, ring(elevation=12), strays=200)
    assert (np.bincount(model.track_point) == 2).sum() > 1000
    found = adjusted(model, tmp_path)
    assert found.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=0.01)
    assert len(found.points) == len(model.points)


@pytest.mark.parametrize("roll", [0.0, 90.0])
def test_a_ring_does_not_tell_the_ratio_of_focal_lengths(flat, tmp_path, roll):
    """Truth: a world stretched along the ring's axis looks the same through a stretched lens."""
    model = flat if roll == 90 else capture(tmp_path, ring(roll=0.0))
    deviation = lens_deviations(model, {0: "OPENCV"})[0]
    assert deviation.aspect > 0.1
    assert deviation.focal < 0.01 if roll == 90 else deviation.focal > 0.01
    assert untold(model, GROUPS, "OPENCV")[0] == "fy / fx"
    assert untold(model, GROUPS, "SIMPLE_RADIAL") == []


def test_the_radial_distortion_of_a_ring_is_found(tmp_path):
    found = adjusted(capture(tmp_path, ring(elevation=5), lens=(-0.15, 0, 0, 0)), tmp_path)
    # Four standard deviations, which are 0.01 here.
    assert found.distortion[0, 0] == pytest.approx(-0.15, abs=0.04)
    assert found.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=0.01)


def test_a_lens_that_photos_tell_is_found_whole(tmp_path):
    """Four of the standard deviations that the equations give."""
    lens, aspect = (-0.15, 0.08, 0.003, -0.003), 1.03
    model = capture(tmp_path, walk(), lens=lens, aspect=aspect, walls=True)
    found = adjusted(model, tmp_path)
    told = lens_deviations(found, {0: "OPENCV"})[0]
    fx, fy = found.intrinsics[0, (0, 1), (0, 1)]
    assert abs(math.log(fy / fx / aspect)) < 4 * told.aspect < 0.02
    values = found.distortion[0, [0, 1, 4, 5]]
    for name, value, truth in zip(("k1", "k2", "p1", "p2"), values, lens, strict=True):
        assert abs(value - truth) < 4 * told.distortion[name], name


def test_square_pixels_stay_square_where_photos_tell(tmp_path):
    found = adjusted(capture(tmp_path, walk(), walls=True), tmp_path)
    np.testing.assert_array_equal(found.intrinsics[:, 0, 0], found.intrinsics[:, 1, 1])
    np.testing.assert_array_equal(found.distortion, 0)


def test_deviations_grow_with_the_noise_and_shrink_with_a_simpler_lens(flat):
    pinhole = lens_deviations(flat, {0: "SIMPLE_PINHOLE"})[0]
    radial = lens_deviations(flat, {0: "SIMPLE_RADIAL"})[0]
    assert pinhole.aspect == radial.aspect == 0 and pinhole.distortion == {}
    assert pinhole.focal < radial.focal < 0.01


def test_numbers_are_told_only_if_all_of_them_are():
    sure = {"k1": 0.01, "k2": 0.01, "p1": 1e-4, "p2": 1e-4}
    assert are_told(LensDeviations(0.1, 0.001, sure), ("k2", "p1", "aspect"))
    assert not are_told(LensDeviations(0.1, 0.3, sure), ("k2", "p1", "aspect"))
    assert not are_told(LensDeviations(0.1, 0.0, sure | {"p2": math.inf}), ("p1", "p2"))


def two(*, distances):
    return [camera(0.3 * n, 0.2, far, 0.0) for n, far in enumerate(distances)]


def test_two_photos_from_one_distance_tell_no_focal_length(tmp_path):
    """Truth: with axes that meet at equal distances it is open (Bougnoux 1998)."""
    model = capture(tmp_path, two(distances=(1.1, 1.1)), held=True)
    assert with_told_focal(model, GROUPS, SIZES, tmp_path / "refined") is None


def test_two_photos_from_two_distances_tell_their_focal_length(tmp_path):
    model = capture(tmp_path, two(distances=(1.0, 1.6)), held=True, walls=True)
    found = with_told_focal(model, GROUPS, SIZES, tmp_path / "refined")
    assert found is not None
    assert found.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=0.05)


def test_a_lens_that_was_asked_for_is_adjusted_from_the_simple_one(flat, tmp_path):
    found = refine_model(flat, tmp_path / "radial", {0: "RADIAL"})
    assert len(found) == 16 and found.distortion[0, 1] != 0
    assert found.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=0.02)


@pytest.fixture
def last_lens(working, tmp_path, capsys):
    """What `sfm` makes of a joined model with some options, and what it says."""

    def adjust(model, *, holds_focal=False, focal_deviation=None, **options):
        place = Path(mkdtemp(dir=tmp_path))
        search = Search(place / "scene.db", place, SIZES, 16, 0, holds_focal=holds_focal)
        joined = Found(working, GROUPS, {}, search, None, "", focal_deviation)
        found = Sfm(**options)._adjusted(model, joined)
        return found, " ".join(capsys.readouterr().out.split())

    return adjust


@pytest.mark.parametrize("deviation, word", [(0.005, ""), (0.03, "do not tell exactly")])
def test_cameras_that_are_adjusted_already_stay_and_their_focal_length_is_said(
    flat, last_lens, deviation, word
):
    found, said = last_lens(flat, focal_deviation=deviation)
    assert found is flat
    assert word in said and bool(said) is bool(word)


def test_numbers_that_a_ring_leaves_open_are_named_where_the_lens_was_asked_for(flat, last_lens):
    """Truth: a ring leaves the ratio of the focal lengths open, and tells one of them."""
    found, said = last_lens(flat, camera_model="OPENCV")
    assert found is not flat
    assert "do not tell fy / fx" in said and "of --camera-model OPENCV" in said
    assert "--camera-model auto leaves them out" in said
    _, said = last_lens(flat, camera_model="SIMPLE_RADIAL")
    assert said == ""


@pytest.mark.parametrize("lens", ["PINHOLE", "OPENCV"])
def test_focal_lengths_whose_ratio_a_ring_leaves_open_stay_equal(lens, flat, last_lens):
    """Truth: square pixels. Without that, as much is explained by fy / fx of 0.8."""
    found, said = last_lens(flat, camera_model=lens)
    fx, fy = found.intrinsics[0, (0, 1), (0, 1)]
    assert fx == fy == pytest.approx(FOCAL, rel=0.02)
    assert "Both focal lengths are kept equal." in said


def test_a_lens_that_cannot_be_right_is_refused_though_it_was_asked_for(
    flat, last_lens, monkeypatch
):
    monkeypatch.setattr(estimator, "implausibility", lambda *_: "a focal length of 3 px")
    found, said = last_lens(flat, camera_model="OPENCV")
    assert found is flat
    assert "--camera-model OPENCV ended at a focal length of 3 px, which is not believed" in said


def test_a_focal_length_that_nothing_tells_is_said_to_be_a_guess(tmp_path, last_lens):
    """Truth: 1.2 times the longer side, where two photos look from one distance."""
    model = capture(tmp_path, two(distances=(1.1, 1.1)), held=True)
    found, said = last_lens(model, holds_focal=True)
    assert found is model
    assert "neither EXIF nor these photos tell the focal length" in said
    assert f"a guess ({1.2 * HEIGHT:.0f} px)" in said


def test_a_focal_length_that_two_photos_tell_is_taken_without_a_word(tmp_path, last_lens):
    model = capture(tmp_path, two(distances=(1.0, 1.6)), held=True, walls=True)
    found, said = last_lens(model, holds_focal=True)
    assert said == ""
    assert found.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=0.05)


@pytest.mark.parametrize(
    ("distance", "words"), [(6.0, "hardly tell"), (4.0, "do not tell exactly"), (1.1, None)]
)
def test_a_focal_length_that_many_photos_do_not_tell_is_said_to_be_unsure(
    distance, words, tmp_path, last_lens
):
    """Truth: the farther away a thing of 0.6 units, the more alike are a longer lens and a larger
    distance; 16 photos from six units have a standard deviation above 5 %, from four above 1 %."""
    far = [camera(math.tau * n / 16, 0.2, distance, 0.0) for n in range(16)]
    _, said = last_lens(capture(tmp_path, far))
    assert said == "" if words is None else f"{words} the focal length of 1 of their" in said


@pytest.mark.parametrize(
    ("k1", "expected"),
    [(0.0, False), (-0.05, False), (-0.2, True), (0.2, True)],
)
def test_a_lens_is_bent_where_its_corner_moves(flat, k1, expected):
    """Truth: the corner is 734 px, 0.725 focal lengths, from the centre: moved by 0.53 k1."""
    lens = np.zeros_like(flat.distortion)
    lens[:, 0] = k1
    matrices = flat.intrinsics.copy()
    matrices[:, (0, 1), (0, 1)] = FOCAL
    assert is_bent(replace(flat, distortion=lens, intrinsics=matrices), SIZES) == expected


def test_a_simpler_lens_wins_only_with_as_many_photos_and_about_the_same_error(flat):
    worse = replace(flat, point_errors=1.2 * flat.point_errors)
    parts = ("image_index", "world_from_camera", "intrinsics", "distortion")
    fewer = replace(flat, **{name: getattr(flat, name)[:-1] for name in parts})
    assert explains_as_much(flat, flat) and explains_as_much(flat, None)
    assert not explains_as_much(worse, flat) and not explains_as_much(fewer, flat)
    assert not explains_as_much(None, flat)
    assert not explains_as_much(worse, fewer)


def test_a_lens_that_no_adjustment_brings_back_is_adjusted_without_distortion(
    flat, tmp_path, monkeypatch
):
    """A tin's k1 went to 1.09, and its cameras stayed as they were joined, 8 % off."""
    asked = []

    def refine(model, _folder, lenses, **_options):
        asked.append(lenses[0])
        bent = np.zeros_like(model.distortion)
        bent[:, 0] = 1.09 if lenses[0] == "SIMPLE_RADIAL" else 0.0
        return replace(model, distortion=bent)

    monkeypatch.setattr(lenses_module, "refine_model", refine)
    found = refine_by_evidence(flat, GROUPS, SIZES, tmp_path)
    assert asked == ["SIMPLE_RADIAL", "SIMPLE_PINHOLE"]
    np.testing.assert_array_equal(found.distortion, 0)


def test_photos_of_a_small_thing_do_not_tell_their_own_focal_lengths(tmp_path):
    """From 3 units away its standard deviation is 4 % and more, so that 16 photos seemed to have 16
    zooms; in a room it is less than 0.4 %."""
    far = [camera(math.tau * n / 16, 0.2, 3.0, 0.0) for n in range(16)]
    for name, cameras, walls, share in (("small", far, False, 0.0), ("room", walk(), True, 1.0)):
        place = tmp_path / name
        place.mkdir()
        apart = refine_apart(capture(place, cameras, walls=walls), place / "apart")
        assert len(relative_focals(apart, SIZES)) == share * len(apart)
