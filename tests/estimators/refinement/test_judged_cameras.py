"""Refining cameras by matches, on rigs whose cameras are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fm3d_plugins.estimators.refinement.belief import LEVEL_DEGREES, extent, spread_at
from fm3d_plugins.estimators.refinement.epipolar import noise_degrees, sampson_errors, straightened
from fm3d_plugins.estimators.refinement.judged_cameras import held_out_parts, refine_cameras
from fm3d_plugins.estimators.refinement.registration import some_views
from fm3d_plugins.estimators.refinement.rounds import world_from_camera
from fm3d_plugins.geometry.pose_metrics import evaluate_poses


def auc30(cameras, rig):
    poses = torch.from_numpy(world_from_camera(cameras))
    truth = torch.from_numpy(world_from_camera(rig.cameras))
    named = [dict(zip(rig.names, each, strict=True)) for each in (poses, truth)]
    return evaluate_poses(*named).summary()["AUC@30"]


@pytest.mark.parametrize("level", [1, 2, 4])
def test_cameras_a_degree_and_more_off_come_out_exact(rigs, ring, level):
    prior = rigs.disturbed(ring.cameras, level)
    found = refine_cameras(ring.names, prior, ring.evidence)
    assert found.report.state == "refined"
    assert auc30(found.solution.cameras, ring) > 0.99 > auc30(prior, ring)
    assert found.solution.cameras.focal[0, 0] == pytest.approx(600, rel=0.02)


def test_two_runs_are_equal_bit_by_bit(rigs, ring):
    prior = rigs.disturbed(ring.cameras, 1)
    one, two = (refine_cameras(ring.names, prior, ring.evidence) for _ in range(2))
    np.testing.assert_array_equal(one.solution.cameras.centers, two.solution.cameras.centers)
    np.testing.assert_array_equal(one.solution.points, two.solution.points)


def test_without_a_prior_many_photos_find_a_focal_length_that_was_far_off(rigs):
    """free: 15 % are more than the prior of `map` lets pass at once; few photos are as in `map`."""
    rig = rigs.orbit(12, seed=6)
    prior = rigs.disturbed(rig.cameras, 1, focal_share=0.15)
    free = refine_cameras(rig.names, prior, rig.evidence, "free").solution
    assert free.cameras.focal[0, 0] == pytest.approx(600, rel=0.01)
    assert float(free.spread.log_focal[0]) > 0.5
    few = rigs.orbit(6, seed=6)
    held = refine_cameras(few.names, rigs.disturbed(few.cameras, 1), few.evidence, "free").solution
    assert float(held.spread.log_focal[0]) < 0.2


def test_the_lens_is_found_where_photos_reach_far_from_the_axis(rigs):
    rig = rigs.orbit(10, half_side=2.0, focal=450.0, k1=-0.15)
    found = refine_cameras(rig.names, rigs.disturbed(rig.cameras, 1), rig.evidence)
    assert found.solution.cameras.distortion[0, 0] == pytest.approx(-0.15, abs=0.02)


def test_a_long_lens_keeps_its_k1(rigs):
    rig = rigs.orbit(8, focal=1500.0)
    prior = rigs.disturbed(rig.cameras, 1)
    found = refine_cameras(rig.names, prior, rig.evidence)
    assert found.solution.cameras.distortion[0, 0] == 0


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("motion", ["over a plane", "forward"])
def test_focal_lengths_that_no_photo_tells_stay(rigs, motion, level):
    """Motions from which a focal length cannot be told, of which the prior is 5 % off."""
    random = np.random.default_rng(5)
    along = np.linspace(-1, 1, 8)
    if motion == "forward":
        points = random.uniform([-3, -2, 4], [3, 2, 9], (400, 3))
        centers = np.stack([0.02 * random.normal(size=8), 0.02 * random.normal(size=8), along], 1)
    else:
        points = np.concatenate([random.uniform(-3, 3, (400, 2)), np.full((400, 1), 5.0)], axis=1)
        centers = np.stack([along, 0.4 * random.normal(size=8), np.zeros(8)], axis=1)
    rig = rigs.rig_of(centers, np.tile(np.eye(3), (8, 1, 1)), points, seed=2)
    prior = rigs.disturbed(rig.cameras, level, focal_share=0.05)
    found = refine_cameras(rig.names, prior, rig.evidence).solution.cameras
    assert abs(found.focal[0, 0] / 600 - 1) <= 0.06
    assert auc30(found, rig) >= 0.98


def test_photos_of_several_zooms_get_focal_lengths_of_their_own(rigs, ring):
    """Every other photo is taken at 1.25 times the zoom that is believed."""
    rig = rigs.orbit(10, seed=4)
    middle = np.array([320.0, 240.0])
    zoomed = [
        middle + (1.25 if view % 2 else 1.0) * (pixels - middle)
        for view, pixels in enumerate(rig.evidence.keypoints)
    ]
    prior = rigs.disturbed(rig.cameras, 1)
    found = refine_cameras(rig.names, prior, replace(rig.evidence, keypoints=zoomed))
    if not found.report.is_accepted:
        return
    cameras = found.solution.cameras
    focal = cameras.focal[cameras.group, 0]
    expected = np.where(np.arange(10) % 2, 750.0, 600.0)
    np.testing.assert_allclose(focal, expected, rtol=0.02)


def test_a_view_that_matches_nothing_keeps_its_camera_and_is_named(rigs, ring):
    prior = rigs.disturbed(ring.cameras, 1)
    alone = replace(
        ring.evidence, matches={p: m for p, m in ring.evidence.matches.items() if 3 not in p}
    )
    found = refine_cameras(ring.names, prior, alone)
    assert found.report.state == "partly verified"
    assert found.report.unverified == ("003.jpg",)
    assert found.report.headline == "partly verified 7/8"
    np.testing.assert_allclose(found.solution.cameras.centers[3], prior.centers[3], atol=1e-9)


def test_cameras_that_mean_nothing_are_rejected(rigs, ring):
    random = np.random.default_rng(0)
    prior = replace(ring.cameras, centers=ring.cameras.centers[random.permutation(8)])
    report = refine_cameras(ring.names, prior, ring.evidence).report
    assert report.state == "rejected"
    assert report.reason


def test_without_matches_nothing_is_verified(ring):
    report = refine_cameras(ring.names, ring.cameras, replace(ring.evidence, matches={})).report
    assert report.state == "rejected"
    assert "0 of 8 photos have enough matches" in report.reason


def test_noise_grows_with_the_disturbance(rigs, ring):
    levels = [
        noise_degrees(
            rigs.disturbed(ring.cameras, level), ring.evidence.keypoints, ring.evidence.matches
        )
        for level in (0, 1, 2, 4)
    ]
    assert levels == sorted(levels)
    # Half a pixel at a focal length of 600.
    assert levels[0] < 0.1
    assert LEVEL_DEGREES / 2 < levels[1] < 2 * LEVEL_DEGREES


def test_the_belief_is_as_wide_as_the_noise(rigs, ring):
    narrow, wide = (spread_at(ring.cameras, noise) for noise in (LEVEL_DEGREES, 2 * LEVEL_DEGREES))
    np.testing.assert_allclose(np.degrees(narrow.turn), 0.75)
    np.testing.assert_allclose(wide.turn, 2 * narrow.turn)
    np.testing.assert_allclose(narrow.center, 0.0135 * extent(ring.cameras.centers))
    drifting = spread_at(ring.cameras, LEVEL_DEGREES, drift=2.0)
    np.testing.assert_allclose(drifting.turn, 2 * narrow.turn)
    np.testing.assert_allclose(drifting.center, 2 * narrow.center)
    np.testing.assert_allclose(drifting.log_focal, narrow.log_focal)
    beyond = spread_at(ring.cameras, 100.0)
    np.testing.assert_allclose(np.degrees(beyond.turn), 6 * 0.75)


def test_sampson_errors_of_exact_matches_are_zero(rigs):
    rig = rigs.orbit(4, noise=0.0, outliers=0.0, k1=-0.1)
    straight = straightened(rig.cameras, rig.evidence.keypoints)
    for errors in sampson_errors(rig.cameras, straight, rig.evidence.matches).values():
        assert errors.max() < 1e-6


def test_held_out_matches_share_no_track_with_the_others(ring):
    kept, held_out = held_out_parts(ring.evidence)
    ends = [
        {(view, int(row)) for pair, rows in some.items() for view, row in _ends(pair, rows)}
        for some in (kept, held_out)
    ]
    assert ends[0] and ends[1]
    assert not ends[0] & ends[1]
    total = sum(map(len, ring.evidence.matches.values()))
    assert sum(map(len, kept.values())) + sum(map(len, held_out.values())) == total


def _ends(pair, rows):
    return [(view, row) for side, view in enumerate(pair) for row in rows[:, side]]


def joined(rig, other):
    """Two rigs in one: views and matches of both, without any match between them."""
    views = len(rig.cameras.group)
    evidence = replace(
        rig.evidence,
        image_sizes=[*rig.evidence.image_sizes, *other.evidence.image_sizes],
        keypoints=[*rig.evidence.keypoints, *other.evidence.keypoints],
        matches={
            **rig.evidence.matches,
            **{(a + views, b + views): m for (a, b), m in other.evidence.matches.items()},
        },
    )
    cameras = replace(
        rig.cameras,
        camera_from_world=np.concatenate(
            [rig.cameras.camera_from_world, other.cameras.camera_from_world]
        ),
        centers=np.concatenate([rig.cameras.centers, other.cameras.centers]),
        group=np.concatenate([rig.cameras.group, other.cameras.group]),
    )
    return cameras, evidence


def test_photos_of_another_place_do_not_spoil_the_rest(rigs, ring):
    """Three views that match each other, at cameras that were never theirs."""
    foreign = rigs.orbit(3, seed=9, span=80.0)
    turned = replace(
        foreign, cameras=replace(foreign.cameras, centers=foreign.cameras.centers[[1, 2, 0]])
    )
    cameras, evidence = joined(ring, turned)
    prior = rigs.disturbed(cameras, 1)
    names = tuple(f"{row:03d}.jpg" for row in range(11))
    found = refine_cameras(names, prior, evidence)
    assert found.report.headline == "partly verified 8/11"
    assert found.report.unverified == names[8:]
    assert auc30(some_views(found.solution.cameras, range(8)), ring) > 0.99


def test_one_view_that_was_believed_elsewhere_does_not_spoil_the_rest(rigs, ring):
    prior = rigs.disturbed(ring.cameras, 1)
    turned = prior.camera_from_world.copy()
    turned[3] = np.diag([-1.0, 1, -1]) @ turned[3]
    found = refine_cameras(ring.names, replace(prior, camera_from_world=turned), ring.evidence)
    assert found.report.is_accepted
    rest = [row for row in range(8) if row != 3]
    truth = replace(ring, cameras=some_views(ring.cameras, rest))
    assert auc30(some_views(found.solution.cameras, rest), truth) > 0.99


def test_matches_that_may_not_judge_take_part_and_verify_nothing(rigs, ring):
    """As if the rig's last view had keypoints of an estimate's own only."""
    last = len(ring.names) - 1
    counts = [len(each) for each in ring.evidence.keypoints]
    counts[last] = 0
    evidence = replace(ring.evidence, judging=counts)
    kept, held_out = held_out_parts(evidence)
    for pair, rows in evidence.matches.items():
        if last in pair:
            assert pair not in held_out and len(kept[pair]) == len(rows)
    assert any(last not in pair for pair in held_out)
    prior = rigs.disturbed(ring.cameras, 1)
    found = refine_cameras(ring.names, prior, evidence)
    assert found.report.unverified == (ring.names[last],)
    assert found.solution.observations[last] > 15 and found.solution.verifying[last] == 0
    assert auc30(found.solution.cameras, ring) > 0.99
