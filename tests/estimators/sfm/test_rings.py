"""One camera around an axis, found from matches of neighbours."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fm3d_plugins.estimators.sfm.rings import fitted_ring, nearest_ring
from fm3d_plugins.geometry.poses import rotation_angle_degrees
from tests.estimators.sfm.ring_pictures import (
    CENTER,
    COUNT,
    FOCAL,
    GUESS,
    pictures,
    ring,
    turned_away,
)


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
