"""Which models are believed, and which attempt wins."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.estimators.sfm import attempts
from fm3d_plugins.estimators.sfm.attempts import Search, disagrees, implausibility, odd_cameras
from fm3d_plugins.geometry.poses import so3_exp

SIZES = [(640, 480)] * 40


def model(rows=(0, 1, 2, 3), *, focal=600.0, k1=0.0, error=0.5, depth=4.0, seed=0):
    """Cameras side by side that all see a few points before them."""
    views, points = len(rows), 25
    poses = np.tile(np.eye(4), (views, 1, 1))
    poses[:, 0, 3] = np.arange(views)
    places = np.random.default_rng(seed).normal(size=(points, 3)) * 0.2 + [0, 0, depth]
    observed = [(point, view, point) for point in range(points) for view in range(views)]
    tracks = np.array(observed, dtype=np.int64).T
    return SparseModel(
        image_index=np.array(rows, dtype=np.int64),
        world_from_camera=poses,
        intrinsics=np.tile(np.array([[focal, 0, 320], [0, focal, 240], [0, 0, 1]]), (views, 1, 1)),
        distortion=np.tile([k1, 0, 0, 0, 0, 0.0], (views, 1)),
        points=places,
        point_errors=np.full(points, error),
        track_point=tracks[0],
        track_view=tracks[1],
        track_keypoint=tracks[2],
    )


def turned(source, rotation, only=slice(None)):
    poses = source.world_from_camera.copy()
    poses[only, :3, :3] = rotation @ poses[only, :3, :3]
    return replace(source, world_from_camera=poses)


def rotation_degrees(x, y, z):
    return so3_exp(torch.deg2rad(torch.tensor([x, y, z], dtype=torch.float64))).numpy()


def test_an_ordinary_model_is_believed():
    assert implausibility(model(), SIZES) is None


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ({"focal": 640 * 0.29}, "odd camera"),
        ({"focal": 640 * 4.1}, "odd camera"),
        ({"k1": 1.1}, "odd camera"),
        ({"error": 2.1}, "reprojection error"),
        ({"error": float("nan")}, "reprojection error"),
        ({"depth": -4.0}, "behind"),
        ({"focal": float("nan")}, "not finite"),
        ({"depth": float("inf")}, "not finite"),
    ],
)
def test_a_model_that_cannot_be_right_is_refused(fault, word):
    assert word in implausibility(model(**fault), SIZES)


def test_focal_lengths_are_judged_by_the_longer_side():
    """0.3 and 4 times 640 are the last that are believed, lying or upright."""
    for sizes in (SIZES, [(480, 640)] * 4):
        assert implausibility(model(focal=193.0), sizes) is None
        assert implausibility(model(focal=2559.0), sizes) is None
        assert implausibility(model(focal=191.0), sizes) is not None


def test_a_model_of_few_points_is_refused():
    full = model()
    kept = full.track_point < 19
    bare = replace(
        full,
        points=full.points[:19],
        point_errors=full.point_errors[:19],
        track_point=full.track_point[kept],
        track_view=full.track_view[kept],
        track_keypoint=full.track_keypoint[kept],
    )
    assert "19 points" in implausibility(bare, SIZES)


@pytest.mark.parametrize(
    ("number", "largest"),
    # r² of the corner is (320² + 240²) / 600² = 4 / 9: k2 moves it by k2 16 / 81 of its way.
    [(1, 0.5 * 81 / 16), (4, 0.03), (5, 0.03)],
)
def test_lens_distortion_has_bounds(number, largest):
    for share, is_odd in ((0.99, False), (1.01, True), (-1.01, True)):
        bent = model()
        bent.distortion[:, number] = share * largest
        assert (implausibility(bent, SIZES) is not None) == is_odd


def test_two_focal_lengths_that_differ_much_are_not_believed_and_told():
    squeezed = model()
    squeezed.intrinsics[:, 1, 1] = 1.49 * 600
    assert implausibility(squeezed, SIZES) is None
    squeezed.intrinsics[:, 1, 1] = 1.51 * 600
    assert "600 and 906 pixels" in implausibility(squeezed, SIZES)


def test_odd_cameras_are_told_one_by_one():
    mixed = model()
    mixed.intrinsics[1, 0, 0] = mixed.intrinsics[1, 1, 1] = 9000.0
    mixed.distortion[3, 0] = -2.0
    np.testing.assert_array_equal(odd_cameras(mixed, SIZES), [False, True, False, True])


def test_a_turn_of_the_whole_world_is_no_disagreement():
    assert not disagrees(turned(model(), rotation_degrees(40, -70, 10)), model())


def test_cameras_that_turned_against_each_other_disagree():
    bent = model()
    for view, degrees in enumerate((-30, -10, 10, 30)):
        bent = turned(bent, rotation_degrees(0, degrees, 0), only=view)
    assert disagrees(bent, model())


def test_models_with_fewer_than_three_common_photos_are_not_compared():
    assert not disagrees(turned(model((0, 1)), rotation_degrees(0, 90, 0), only=1), model((0, 1)))


@pytest.fixture
def search(tmp_path):
    return Search(
        database=tmp_path / "none.db",
        folder=tmp_path,
        image_sizes=SIZES,
        num_reachable=40,
        seed=0,
    )


def climb(search, monkeypatch, outcomes, *, with_retries=True, knows_focal=True):
    """Run the ladder with these outcomes in place of the mapper's; what the mapper was asked."""
    called = []

    def fake(_database, _folder, settings, *, seed, start_from, report):
        called.append((settings, start_from))
        return outcomes[len(called) - 1]

    monkeypatch.setattr(attempts, "map_incrementally", fake)
    search.climb(with_retries=with_retries, knows_focal=knows_focal, report=lambda _done: None)
    return called


def test_the_largest_model_wins_wherever_it_stands(search, monkeypatch):
    small, large, middle = model(range(5)), model(range(37)), model(range(20))
    called = climb(search, monkeypatch, [[small, large, middle]])
    assert search.best is large
    assert len(called) == 1, "37 of 40 are enough"
    assert search.num_models == 3


def test_points_decide_between_models_of_equal_size(search, monkeypatch):
    few = model(range(38))
    more = replace(few, points=np.concatenate([few.points] * 2), point_errors=np.ones(50))
    climb(search, monkeypatch, [[few, more]])
    assert search.best is more


def test_unbelievable_models_never_win_however_large(search, monkeypatch):
    good, garbage = model(range(8)), model(range(40), focal=60.0)
    called = climb(search, monkeypatch, [[garbage, good], [garbage], [], [garbage], []])
    assert search.best is good
    assert len(called) == 5
    assert len(search.faults) == 3


def test_a_larger_model_that_contradicts_an_earlier_one_is_refused(search, monkeypatch):
    good, bent = model(range(8)), model(range(40))
    for view in range(8):
        bent = turned(bent, rotation_degrees(0, 0, 20 * view), only=view)
    climb(search, monkeypatch, [[good], [bent], [], [], []])
    assert search.best is good
    assert "contradict" in search.faults[0]


def test_a_later_attempt_must_join_more_photos(search, monkeypatch):
    first, equal, more = model(range(8)), model(range(8), seed=1), model(range(9))
    climb(search, monkeypatch, [[first], [equal], [more], [first], [first]])
    assert search.best is more
    assert search.tried[0].endswith(": 8") and search.tried[2].endswith(": 9")


def test_continuing_attempts_start_from_the_best_and_need_one(search, monkeypatch):
    called = climb(search, monkeypatch, [[], [], []])
    assert [start for _, start in called] == [None, None, None]
    found = model(range(8))
    called = climb(search, monkeypatch, [[found], [], [], [], []])
    assert [start is found for _, start in called] == [False, True, False, False, True]


def test_unknown_focal_lengths_are_never_held(search, monkeypatch):
    called = climb(search, monkeypatch, [[], [], [], [], []], knows_focal=False)
    assert called
    assert all(settings.refines_focal for settings, _ in called)


def test_without_retries_there_is_one_attempt(search, monkeypatch):
    assert len(climb(search, monkeypatch, [[model()]], with_retries=False)) == 1


def test_two_photos_keep_the_focal_length_they_came_with(search, monkeypatch):
    """Two views leave the focal length undetermined."""
    search.image_sizes, search.num_reachable = SIZES[:2], 2
    called = climb(search, monkeypatch, [[], [model((0, 1))]])
    assert [settings.refines_focal for settings, _ in called] == [False, False]
    assert all(settings.keeps_two_view_points for settings, _ in called)
    assert search.holds_focal


def test_views_with_odd_cameras_are_dropped_and_the_rest_is_kept(search, monkeypatch):
    found = model(range(39))
    found.intrinsics[5, 0, 0] = found.intrinsics[5, 1, 1] = 9000.0
    trimmed = model([row for row in range(39) if row != 5])
    dropped = []
    monkeypatch.setattr(
        attempts, "drop_views", lambda _model, views, _folder: dropped.append(views) or trimmed
    )
    climb(search, monkeypatch, [[found]])
    assert dropped == [[5]]
    assert search.best is trimmed
