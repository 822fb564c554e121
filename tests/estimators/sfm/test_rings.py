"""One camera around an axis: found from matches of neighbours, and left where photos say so."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fm3d_plugins.backends.pycolmap.verification import CameraGuess
from fm3d_plugins.estimators.refinement.rounds import Evidence
from fm3d_plugins.estimators.sfm.ring_cameras import EVEN_DEGREES, TOLD, _doubt, leave_ring
from fm3d_plugins.estimators.sfm.rings import Ring, _first_rotation, fitted_ring, nearest_ring
from fm3d_plugins.geometry.poses import rotation_angle_degrees, so3_exp
from fm3d_plugins.kernels.bundle_adjustment import Observations, reprojection_errors

COUNT, SIZE, FOCAL = 12, (640, 480), 800.0
CENTER = (320.0, 240.0)
GUESS = CameraGuess(*SIZE, CENTER, 768.0, False, "SIMPLE_PINHOLE")


def ring(elevation=20.0, roll=0.0, backwards=False):
    """Slightly past the axis, as no camera is aimed exactly."""
    rotation = _first_rotation(np.radians(elevation), np.radians(roll))
    past = so3_exp(torch.tensor([0.02, -0.03, 0.05], dtype=torch.float64)).numpy()
    return Ring(past @ rotation, FOCAL)


def pictures(cameras, noise=0.3, per_pair=60, wrong=0):
    """Keypoints and matches of neighbours alone: no point is seen by three photos."""
    generator = np.random.default_rng(0)
    count = len(cameras.centers)
    keypoints, matches = [[] for _ in range(count)], {}
    for first in range(count):
        second = (first + 1) % count
        points = generator.normal(size=(per_pair, 3))
        points *= 0.18 / np.linalg.norm(points, axis=1, keepdims=True)
        rows = []
        for view in (first, second):
            seen = Observations(
                np.full(per_pair, view), np.arange(per_pair), np.zeros((per_pair, 2))
            )
            pixels = reprojection_errors(cameras, points, seen)
            pixels = pixels + generator.normal(scale=noise, size=pixels.shape)
            pixels[:wrong] = generator.uniform(0, 480, size=(wrong, 2))
            start = len(keypoints[view])
            keypoints[view].extend(pixels)
            rows.append(np.arange(start, start + per_pair))
        pair = np.stack(rows, axis=1)
        matches[min(first, second), max(first, second)] = pair if first < second else pair[:, ::-1]
    return Evidence([SIZE] * count, [np.array(each) for each in keypoints], matches)


def turned_away(cameras, other):
    """Degrees between relative rotations of neighbours, the largest."""
    relative = [
        torch.from_numpy(one.camera_from_world[1:] @ one.camera_from_world[:-1].transpose(0, 2, 1))
        for one in (cameras, other)
    ]
    return float(rotation_angle_degrees(*relative).max())


def test_cameras_of_a_ring_turn_by_equal_steps_about_its_axis():
    """Truth: R_i = R_0 Rz(-a i), and its centre is (1, 0, 0) turned by a i."""
    cameras = ring().cameras(8, CENTER)
    np.testing.assert_allclose(cameras.centers[2], [0, 1, 0], atol=1e-12)
    step = cameras.camera_from_world[1] @ cameras.camera_from_world[0].T
    assert rotation_angle_degrees(torch.eye(3, dtype=torch.float64), torch.from_numpy(step)) == (
        pytest.approx(45)
    )
    # What the axis looks like to a camera is the same from everywhere.
    axis = cameras.camera_from_world @ np.array([0.0, 0.0, 1.0])
    np.testing.assert_allclose(axis, np.tile(axis[0], (8, 1)), atol=1e-12)


@pytest.mark.parametrize("elevation, roll", [(20, 0), (-10, 0), (35, 90), (20, -90), (20, 180)])
def test_a_ring_is_found_by_matches_of_neighbours_a_third_of_them_wrong(elevation, roll):
    """A degree: noise of 0.3 px in 40 matches of a pair is 0.02 degrees, and 12 pairs agree; what
    is left is what a wrong focal length does."""
    truth = ring(elevation, roll)
    evidence = pictures(truth.cameras(COUNT, CENTER), wrong=20)
    found = fitted_ring(evidence.keypoints, evidence.matches, GUESS)
    between = torch.from_numpy(found.camera_from_ring @ truth.camera_from_ring.T)
    assert rotation_angle_degrees(torch.eye(3, dtype=torch.float64), between) < 1
    assert found.focal == pytest.approx(FOCAL, rel=0.1)


def test_photos_named_the_other_way_round_are_a_ring_seen_upside_down():
    """Truth: relative rotations are those of the cameras in that order."""
    cameras = ring().cameras(COUNT, CENTER)
    back = replace(
        cameras,
        camera_from_world=np.ascontiguousarray(cameras.camera_from_world[::-1]),
        centers=np.ascontiguousarray(cameras.centers[::-1]),
    )
    evidence = pictures(back)
    found = fitted_ring(evidence.keypoints, evidence.matches, GUESS).cameras(COUNT, CENTER)
    assert turned_away(found, back) < 1


def test_a_focal_length_that_is_known_is_kept():
    """2 % are believed of EXIF."""
    evidence = pictures(ring().cameras(COUNT, CENTER))
    known = replace(GUESS, focal=1200.0, is_known=True)
    found = fitted_ring(evidence.keypoints, evidence.matches, known)
    assert found.focal == pytest.approx(1200, rel=0.1)


def test_the_ring_of_its_own_cameras_is_itself():
    truth = ring()
    found = nearest_ring(truth.cameras(COUNT, CENTER))
    np.testing.assert_allclose(found.camera_from_ring, truth.camera_from_ring, atol=1e-12)
    assert found.focal == FOCAL


def test_even_steps_are_found_to_be_even_though_the_ring_began_elsewhere():
    """The ring that they begin in is two degrees off, which many matches tell."""
    truth = ring()
    cameras = truth.cameras(COUNT, CENTER)
    off = so3_exp(torch.tensor([0.035, 0.0, 0.0], dtype=torch.float64)).numpy()
    begun = Ring(off @ truth.camera_from_ring, FOCAL)
    left = leave_ring(begun, pictures(cameras), GUESS)
    assert left.deviation_degrees < EVEN_DEGREES
    assert left.untold < TOLD
    assert turned_away(left.solution.cameras, cameras) < 0.3
    model = left.model()
    assert len(model) == COUNT
    assert model.mean_error < 1
    assert _doubt(left, share=0.0) is None


def test_uneven_steps_are_found_where_matches_tell_and_said():
    """Steps of 30 degrees, 4 more and less in turn: 4 degrees from even, about the axis alone,
    and as many of the turn that goes with it."""
    cameras = ring().cameras(COUNT, CENTER)
    angles = np.radians(4.0) * np.array([1.0, -1.0] * (COUNT // 2))
    turn = so3_exp(torch.from_numpy(np.stack([0 * angles, 0 * angles, angles], axis=1))).numpy()
    uneven = replace(
        cameras,
        camera_from_world=cameras.camera_from_world @ turn.transpose(0, 2, 1),
        centers=(turn @ cameras.centers[..., None])[..., 0],
    )
    left = leave_ring(ring(), pictures(uneven, noise=0.1, per_pair=150), GUESS)
    assert left.deviation_degrees > EVEN_DEGREES
    assert "from even steps" in str(_doubt(left, share=0.0))


def test_few_matches_leave_the_steps_untold_and_it_is_said():
    """Six matches of a pair, of a thing that is far away for its size."""
    left = leave_ring(ring(), pictures(ring().cameras(COUNT, CENTER), per_pair=6), GUESS)
    assert left.untold > TOLD
    doubt = _doubt(left, share=0.0)
    assert doubt is not None and doubt.is_of_cameras
    assert "too few matches" in str(doubt)


def test_photos_that_see_too_few_points_get_no_camera_from_a_ring():
    evidence = pictures(ring().cameras(COUNT, CENTER))
    without = {pair: rows for pair, rows in evidence.matches.items() if 3 not in pair}
    model = leave_ring(ring(), replace(evidence, matches=without), GUESS).model()
    assert 3 not in model.image_index
    assert len(model) == COUNT - 1
    assert (model.track_view < len(model)).all() and (model.track_point < len(model.points)).all()


def test_matches_that_contradict_a_ring_are_said():
    left = leave_ring(ring(), pictures(ring().cameras(COUNT, CENTER)), GUESS)
    assert "30 % of the matches of neighbours contradict" in str(_doubt(left, share=0.3))
