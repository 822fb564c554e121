"""Cameras that contradict matches, or stand where another does."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.backends.pycolmap.verification import VerifiedMatches
from fm3d_plugins.estimators.sfm.look_alikes import (
    MOST_CONTRADICTED,
    contradicted,
    doubt,
    fitting,
    goes_around,
    is_closed,
    near_in_order,
    num_in_one_place,
)

COUNT, POINTS = 16, 40


def ring(turns=1.0, count=COUNT):
    """Cameras around points, each of which every camera sees at its exact pixel."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(POINTS, 3)) * 0.3
    poses, keypoints = np.tile(np.eye(4), (count, 1, 1)), []
    for view in range(count):
        angle = math.tau * turns * view / count
        center = 3 * np.array([math.cos(angle), math.sin(angle), 0.3])
        forward = -center / np.linalg.norm(center)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(forward, right), forward])
        poses[view, :3, :3], poses[view, :3, 3] = axes.T, center
        local = (points - center) @ axes.T
        pixels = 600 * local[:, :2] / local[:, 2:] + [320, 240]
        keypoints.append(pixels.astype(np.float32))
    matrix = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
    none = np.zeros(0, np.int64)
    model = SparseModel(
        np.arange(count), poses, np.tile(matrix, (count, 1, 1)), np.zeros((count, 6)),
        points, np.zeros(POINTS), none, none, none,
    )  # fmt: skip
    return model, keypoints


def matched(rows):
    return VerifiedMatches(np.asarray(rows, dtype=np.int64), 3, None, None, None)


RIGHT = np.stack([np.arange(POINTS)] * 2, axis=1)
WRONG = np.stack([np.arange(POINTS), np.roll(np.arange(POINTS), 1)], axis=1)


def test_near_photos_are_next_to_each_other_and_the_last_next_to_the_first():
    matches = {(a, b): matched(RIGHT) for a in range(COUNT) for b in range(a + 1, COUNT)}
    expected = {(a, a + 1) for a in range(COUNT - 1)} | {(0, COUNT - 1)}
    assert set(near_in_order(matches, COUNT)) == expected
    assert (0, 2) in near_in_order(matches, 24)


def test_matches_of_the_cameras_points_fit_and_others_contradict():
    """Truth: 120 of 160 matches are exact; the others belong to other points."""
    model, keypoints = ring()
    matches = {(0, 1): matched(RIGHT), (1, 2): matched(RIGHT), (2, 3): matched(RIGHT)}
    assert contradicted(model, keypoints, matches) == 0
    matches[0, 8] = matched(WRONG)
    # A wrong match may lie near its epipolar line by chance.
    assert contradicted(model, keypoints, matches) == pytest.approx(0.25, abs=0.05)
    assert list(fitting(model, keypoints, matches)) == [(0, 1), (1, 2), (2, 3)]


def test_few_matches_of_a_pair_do_not_count():
    model, keypoints = ring()
    matches = {(0, 1): matched(RIGHT), (0, 8): matched(WRONG[:20])}
    assert contradicted(model, keypoints, matches) == 0


@pytest.mark.parametrize(("strength", "expected"), [(5, 40 / 440), (10, 0)])
def test_matches_of_pairs_do_not_count_whose_photos_have_far_more_with_others(strength, expected):
    """Truth: two pairs of 200 right matches each and one of 40 wrong ones, a fifth as many; and
    then of 400, of which 40 are a tenth."""
    model, keypoints = ring()
    strong = matched(np.tile(RIGHT, (strength, 1)))
    matches = {(0, 1): strong, (8, 9): strong, (0, 8): matched(WRONG)}
    assert contradicted(model, keypoints, matches) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("turns", "expected"), [(1.0, 0), (2.0, COUNT)])
def test_two_sides_taken_for_one_put_cameras_in_one_place(turns, expected):
    """Truth: a half turn that is taken for a whole one lays opposite cameras on each other."""
    assert num_in_one_place(ring(turns)[0], COUNT) == expected


@pytest.mark.parametrize(
    ("turns", "wrong", "features", "word"),
    [
        (1, 0, 0, None),
        (1, 1, 0, "contradict"),
        (2, 0, 0, "taken from where"),
        (1, 0, POINTS, "16 of 20"),
        (1, 1, POINTS, "16 of 20"),
        (1, 1, POINTS, "contradict"),
    ],
)
def test_doubts_have_their_reason(turns, wrong, features, word):
    """Four further photos have no camera, and show something or nothing."""
    model, keypoints = ring(turns)
    further = [np.zeros((features, 2), np.float32)] * 4
    matches = {(0, 1): matched(RIGHT)} | ({(0, 8): matched(WRONG)} if wrong else {})
    found = doubt(model, keypoints + further, matches, MOST_CONTRADICTED)
    assert (word or "None") in str(found)
    assert (found is not None and found.is_of_cameras) == (wrong > 0 or turns > 1)


def test_without_a_model_no_photo_has_a_camera():
    assert "0 of 16" in str(doubt(None, ring()[1], {}, MOST_CONTRADICTED))


@pytest.mark.parametrize(
    "missing, expected",
    [
        ([], True),
        ([(2, 3), (7, 8)], True),
        # An arc: nothing says how large its steps are.
        ([(0, 11)], False),
        ([(0, 1), (2, 3), (4, 5), (6, 7)], False),
    ],
)
def test_a_ring_is_closed_by_matches_of_the_last_photo_with_the_first(missing, expected):
    pairs = {(min(i, (i + 1) % 12), max(i, (i + 1) % 12)) for i in range(12)}
    assert is_closed(pairs - set(missing), 12) is expected


def test_a_photo_without_matches_is_passed_by_those_beside_it():
    pairs = {(i, i + 1) for i in range(11)} | {(0, 11), (2, 4), (6, 8), (8, 10)}
    dark = (3, 7, 9)
    kept = {pair for pair in pairs if not set(pair) & set(dark)}
    assert is_closed(kept, 12)
    assert not is_closed(kept - {(2, 4), (6, 8), (8, 10)}, 12)


def test_few_photos_are_no_ring():
    assert not is_closed({(0, 1), (1, 2), (2, 3), (0, 3)}, 4)


@pytest.mark.parametrize("turns", [1.0, -1.0])
def test_cameras_all_around_turn_once(turns):
    """Truth: sixteen steps of 22.5 degrees, the last of them back to the first."""
    model, _ = ring(turns)
    assert goes_around(model)


def test_cameras_to_and_fro_do_not_go_around():
    """Truth: each step is as large as all around, and their sum is none."""
    model, _ = ring()
    to_and_fro = model.world_from_camera[np.arange(COUNT) % 2]
    assert not goes_around(replace(model, world_from_camera=to_and_fro))
