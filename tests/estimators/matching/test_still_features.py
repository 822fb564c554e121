"""Features that stay in place while the rest moves."""

import numpy as np
import pytest

from fm3d_plugins.backends.pycolmap.features import Features
from fm3d_plugins.estimators.matching.still_features import stays, still_picture

RNG = np.random.default_rng(0)


def photos(count, *, still, moving, shown=1.0):
    """Features of photos: some at the same places in a share of them, others anywhere."""
    background = Features(_keypoints(RNG.uniform(0, 600, (still, 2))), _descriptors(still))
    made = []
    for _ in range(count):
        seen = background[RNG.random(still) < shown]
        thing = Features(_keypoints(RNG.uniform(0, 600, (moving, 2))), _descriptors(moving))
        made.append(
            Features(
                np.concatenate([seen.keypoints, thing.keypoints]),
                np.concatenate([seen.descriptors, thing.descriptors]),
            )
        )
    return made


def moving_features(made):
    """Which features of each photo are used."""
    still = still_picture(made)
    return still.moves if still is not None else [np.ones(len(each), bool) for each in made]


def _keypoints(places):
    return np.concatenate([places, np.tile([1.0, 0, 0, 1], (len(places), 1))], 1).astype(np.float32)


def _descriptors(count):
    directions = RNG.exponential(size=(count, 128))
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return (512 * directions / lengths).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("shown", [1.0, 0.7])
def test_a_background_that_stands_still_is_left_out(shown):
    made = photos(12, still=60, moving=40, shown=shown)
    for features, keep in zip(made, moving_features(made), strict=True):
        np.testing.assert_array_equal(keep, np.arange(len(features)) >= len(features) - 40)


@pytest.mark.parametrize(("count", "still"), [(12, 0), (12, 10), (3, 60)])
def test_all_are_kept_where_nothing_stands_still_or_cannot_be_told(count, still):
    """10 features make no match, and three photos may be of one place."""
    assert all(keep.all() for keep in moving_features(photos(count, still=still, moving=40)))


def test_sides_that_look_alike_are_no_background():
    """A thing with four equal sides shows the same in every fourth photo."""
    made = photos(4, still=0, moving=80) * 4
    assert all(keep.all() for keep in moving_features(made))


def test_copies_of_a_photo_keep_their_features():
    """All of them stays in place, and nothing says that a camera moved there."""
    made = photos(1, still=0, moving=80) * 6 + photos(3, still=0, moving=80)
    assert all(keep.all() for keep in moving_features(made))


@pytest.mark.parametrize("still", [0, 300])
def test_faint_features_that_all_look_alike_tell_by_their_places(still):
    """A fine texture has something similar next to every place, by chance: what stays in place is
    what is found there more often than beside it."""
    made = photos(8, still=still, moving=6000)
    for each in made:
        each.descriptors[:] = np.clip(45 + RNG.normal(0, 8, each.descriptors.shape), 0, 255)
    kept = np.array(
        [
            (keep[:still].mean() if still else 0, keep[still:].mean())
            for keep in moving_features(made)
        ]
    )
    assert (kept[:, 0] <= 0.02).all()
    assert (kept[:, 1] >= (0.5 if still else 1)).all()


def before_a_wall(count, *, wall, thing, shakes=0.0):
    """Photos of a thing of so many features, in the middle of a wall's that stand still there."""
    places = RNG.uniform(0, 600, (wall, 2))
    hidden = np.linalg.norm(places - 300, axis=1) < 100
    behind, looks = places[~hidden], _descriptors(int((~hidden).sum()))
    made = []
    for _ in range(count):
        around = RNG.uniform(0, 2 * np.pi, thing)
        away = 95 * np.sqrt(RNG.random(thing))
        before = 300 + away[:, None] * np.stack([np.cos(around), np.sin(around)], 1)
        shift = RNG.uniform(-shakes, shakes, 2)
        pixels = np.concatenate([behind, before]) + shift
        kinds = np.concatenate([looks, _descriptors(thing)])
        made.append(Features(_keypoints(pixels), kinds))
    return made, len(behind)


def test_a_wall_of_nearly_all_features_is_left_out_and_the_thing_before_it_kept():
    """96 % of each photo is at its place in the others, as in copies; but one part of it moves."""
    made, num_behind = before_a_wall(8, wall=2000, thing=80)
    for keep in moving_features(made):
        np.testing.assert_array_equal(keep, np.arange(len(keep)) >= num_behind)


def test_a_wall_is_left_out_where_the_tripod_trembles():
    """By up to 2 pixels each way, so that half of the pairs of photos are farther apart than 2."""
    made, num_behind = before_a_wall(12, wall=600, thing=80, shakes=2.0)
    still = still_picture(made)
    for keep in still.moves:
        assert keep[:num_behind].mean() <= 0.02 and keep[num_behind:].all()
    # Both sides of the subtraction are rounded to float32: 600 * 2^-24.
    moved = made[5].keypoints[0, :2] - made[0].keypoints[0, :2]
    np.testing.assert_allclose(still.shifts[5], moved, atol=1e-3)


def test_a_thing_of_faint_features_keeps_them_before_a_wall():
    """What looks alike by chance at its place does so beside it, too, and so does what is around
    it: 7 of 10 were left out when each feature was judged alone."""
    made, num_behind = before_a_wall(8, wall=600, thing=700)
    for each in made:
        thing = each.descriptors[num_behind:]
        thing[:] = np.clip(45 + RNG.normal(0, 8, thing.shape), 0, 255)
    for keep in moving_features(made):
        assert keep[:num_behind].mean() <= 0.02 and keep[num_behind:].mean() >= 0.9


@pytest.mark.parametrize("count", [0, 1])
def test_a_photo_of_no_feature_or_one_is_no_hindrance(count):
    made, num_behind = before_a_wall(8, wall=600, thing=80)
    made[0] = made[0][np.arange(count)]
    for keep in moving_features(made)[1:]:
        np.testing.assert_array_equal(keep, np.arange(len(keep)) >= num_behind)


def test_matches_stay_within_two_pixels():
    """A shift of (1, 1) is 1.4 pixels, one of (2, 1) is 2.2."""
    one = np.array([[5.0, 5.0], [5.0, 5.0]])
    assert stays(one, one + [[1.0, 1.0], [2.0, 1.0]]).tolist() == [True, False]
