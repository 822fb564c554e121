"""Cameras that begin in a ring: how far they leave it, and when they are believed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fm3d_plugins.backends.pycolmap.features import Features
from fm3d_plugins.backends.pycolmap.verification import VerifiedMatches
from fm3d_plugins.estimators.sfm.attempts import Search
from fm3d_plugins.estimators.sfm.look_alikes import Doubt
from fm3d_plugins.estimators.sfm.result import Found
from fm3d_plugins.estimators.sfm.ring_cameras import (
    EVEN_DEGREES,
    IN_A_RING,
    TOLD,
    _doubt,
    as_ring,
    leave_ring,
)
from fm3d_plugins.estimators.sfm.rings import Ring
from fm3d_plugins.geometry.poses import so3_exp
from tests.estimators.sfm.ring_pictures import (
    CENTER,
    COUNT,
    FOCAL,
    GUESS,
    pictures,
    ring,
    turned_away,
)

NOTHING_JOINED = Doubt(("0 of 12 photos have a camera",), is_of_cameras=False)


@pytest.fixture(scope="module")
def even():
    """Cameras in even steps, of a ring that begins two degrees off, which many matches tell."""
    truth = ring()
    off = so3_exp(torch.tensor([0.035, 0.0, 0.0], dtype=torch.float64)).numpy()
    cameras = truth.cameras(COUNT, CENTER)
    return cameras, leave_ring(Ring(off @ truth.camera_from_ring, FOCAL), pictures(cameras), GUESS)


def test_even_steps_are_found_to_be_even_though_the_ring_began_elsewhere(even):
    cameras, left = even
    assert left.deviation_degrees < EVEN_DEGREES
    assert left.untold < TOLD
    assert turned_away(left.solution.cameras, cameras) < 0.3
    model = left.model()
    assert len(model) == COUNT
    assert model.mean_error < 1
    assert _doubt(left, share=0.0) is None


def test_matches_that_contradict_a_ring_are_said(even):
    _, left = even
    assert "30 % of the matches of neighbours contradict" in str(_doubt(left, share=0.3))


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


def known(working, evidence, model=None, doubt=NOTHING_JOINED):
    """What was found before, by these matches, in photos of these keypoints."""
    matches = {
        pair: VerifiedMatches(rows.astype(np.int64), 3, None, None, None)
        for pair, rows in evidence.matches.items()
    }
    some = [
        replace(
            one,
            width=640,
            height=480,
            features=Features(
                np.pad(pixels, ((0, 0), (0, 4))).astype(np.float32),
                np.zeros((len(pixels), 128), np.uint8),
            ),
        )
        for one, pixels in zip(working, evidence.keypoints, strict=False)
    ]
    search = Search(Path("a.db"), Path("."), [(640, 480)] * COUNT, COUNT, 0, best=model)
    return Found(some, [0] * COUNT, matches, search, doubt, "")


@pytest.fixture
def square(working):
    """Photos whose centre is that of the pictures, without EXIF."""
    return [
        replace(one, photo=replace(one.photo, width=640, height=480)) for one in working[:COUNT]
    ]


def test_photos_that_nothing_joined_are_joined_as_a_ring(square):
    """Truth: a mapper needs points that three photos see, and there are none."""
    cameras = ring().cameras(COUNT, CENTER)
    before = known(square, pictures(cameras))
    found = as_ring((before,), [0] * COUNT)
    assert found.basis == IN_A_RING
    assert found.doubt is None
    assert found.num_joined == COUNT
    assert found.focal_deviation is not None and 0 < found.focal_deviation < 0.3
    assert found.search.tried == [f"in a ring: {COUNT}"]
    assert before.search.best is None


def test_photos_of_several_cameras_are_no_ring(square):
    before = known(square, pictures(ring().cameras(COUNT, CENTER)))
    assert as_ring((before,), list(range(COUNT))) is before


@pytest.mark.parametrize("doubt", [None, NOTHING_JOINED])
def test_a_ring_in_doubt_does_not_replace_what_is_not(square, even, doubt):
    """Too few matches tell the ring; the other cameras are right, or nothing was joined."""
    _, left = even
    evidence = pictures(ring().cameras(COUNT, CENTER), per_pair=9)
    before = known(square, evidence, left.model() if doubt is None else None, doubt)
    found = as_ring((before,), [0] * COUNT)
    if doubt is None:
        assert found is before
    else:
        assert found.doubt is not None and found.doubt.is_of_cameras
        assert found.basis == IN_A_RING
