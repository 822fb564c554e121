"""Placing photos by the points that others see, on rigs that are known."""

from dataclasses import replace

import numpy as np
import pytest

from fm3d_plugins.estimators.refinement.judged_cameras import refine_cameras
from fm3d_plugins.estimators.refinement.registration import (
    Wanted,
    joined_lens,
    lost_pairs,
    placed,
    some_views,
)
from fm3d_plugins.estimators.refinement.rounds import Evidence

LOST = 7


@pytest.fixture(scope="module")
def known(ring):
    """A solution of all views but the last."""
    rows = range(LOST)
    evidence = Evidence(
        ring.evidence.image_sizes[:LOST],
        ring.evidence.keypoints[:LOST],
        {pair: ends for pair, ends in ring.evidence.matches.items() if LOST not in pair},
    )
    cameras = some_views(ring.cameras, rows)
    return refine_cameras(ring.names[:LOST], cameras, evidence).solution


@pytest.mark.parametrize("knows_focal", [True, False])
def test_a_view_is_placed_where_it_is(ring, known, knows_focal):
    lens = 0 if knows_focal else None
    cameras = joined_lens(known.cameras, lens, 700.0, np.array([320.0, 240.0]))
    assert len(cameras.focal) == (1 if knows_focal else 2)
    found, rows = placed(cameras, [Wanted(LOST, knows_focal)], ring.evidence, known)
    assert rows == [LOST]
    np.testing.assert_allclose(found.centers[LOST], ring.cameras.centers[LOST], atol=0.03)
    turned = found.camera_from_world[LOST] @ ring.cameras.camera_from_world[LOST].T
    assert np.degrees(np.arccos((np.trace(turned) - 1) / 2)) < 0.3
    assert found.focal[found.group[LOST], 0] == pytest.approx(600, rel=0.02)
    np.testing.assert_array_equal(found.centers[:LOST], cameras.centers[:LOST])


def test_a_view_without_matches_is_not_placed(ring, known):
    cameras = joined_lens(known.cameras, 0, 0.0, np.zeros(2))
    alone = replace(
        ring.evidence, matches={p: m for p, m in ring.evidence.matches.items() if LOST not in p}
    )
    found, rows = placed(cameras, [Wanted(LOST, True)], alone, known)
    assert rows == []
    np.testing.assert_array_equal(found.centers, cameras.centers)


def test_wrong_matches_place_nothing(ring, known):
    random = np.random.default_rng(0)
    mixed = {
        pair: np.stack([ends[:, 0], random.permutation(ends[:, 1])], axis=1)
        for pair, ends in ring.evidence.matches.items()
        if LOST in pair
    }
    cameras = joined_lens(known.cameras, 0, 0.0, np.zeros(2))
    evidence = replace(ring.evidence, matches={**ring.evidence.matches, **mixed})
    assert placed(cameras, [Wanted(LOST, True)], evidence, known)[1] == []


def test_some_views_keep_their_lenses(ring):
    cameras = joined_lens(ring.cameras, None, 900.0, np.array([300.0, 200.0]))
    cameras = joined_lens(cameras, 0, 0.0, np.zeros(2))
    some = some_views(cameras, [8, 2])
    np.testing.assert_array_equal(some.focal[some.group][:, 0], [900, 600])
    np.testing.assert_array_equal(some.centers, cameras.centers[[8, 2]])
    assert len(some_views(cameras, [9, 1]).focal) == 1


def test_lost_photos_are_compared_with_all_that_are_known():
    looks = [np.zeros((0, 128), np.uint8)] * 5
    assert lost_pairs(looks, [1, 4], [0, 2, 3]) == [(0, 1), (0, 4), (1, 2), (1, 3), (2, 4), (3, 4)]
