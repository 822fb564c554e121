"""Choosing pairs: counts by formula, and planted groups that must be found."""

import numpy as np
import pytest

from fm3d_plugins.estimators.matching.image_pairs import (
    exhaustive_pairs,
    sequential_pairs,
    similar_pairs,
)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_all_pairs_are_n_choose_two(count):
    pairs = exhaustive_pairs(count)
    assert len(set(pairs)) == len(pairs) == count * (count - 1) // 2
    assert all(a < b for a, b in pairs)


@pytest.mark.parametrize("count", [1, 2, 5, 300])
def test_neighbours_are_near_or_powers_of_two_apart(count):
    pairs = sequential_pairs(count, overlap=3)
    assert len(set(pairs)) == len(pairs)
    steps = {b - a for a, b in pairs}
    near, far = {1, 2, 3}, {2**power for power in range(10)}
    assert steps == {step for step in near | far if step < count}
    assert {(a, b) for a, b in pairs if b - a == 1} == {(a, a + 1) for a in range(count - 1)}


def group_of_photos(generator, centres, photos):
    """Descriptors of photos that see the same things in some order, with noise."""
    seen = np.stack([generator.permutation(centres) for _ in range(photos)])
    noisy = seen + generator.normal(0, 6, seen.shape)
    return list(noisy.clip(0, 255).astype(np.uint8))


def test_photos_of_one_place_find_each_other():
    """Three places of four photos each: all 3 x 6 pairs, no other.

    The places' 180 things are more than the 64 centres, so that something is left of each.
    """
    generator = np.random.default_rng(0)
    places = [generator.integers(0, 255, (60, 128)) for _ in range(3)]
    photos = [photo for place in places for photo in group_of_photos(generator, place, 4)]
    order = generator.permutation(12)
    pairs = similar_pairs([photos[row] for row in order], neighbours=3, seed=0)
    assert {(order[a] // 4, order[b] // 4) for a, b in pairs} == {(0, 0), (1, 1), (2, 2)}
    assert len(pairs) == 18


def test_photos_without_features_do_no_harm():
    generator = np.random.default_rng(1)
    photos = group_of_photos(generator, generator.integers(0, 255, (60, 128)), 3)
    photos.append(np.zeros((0, 128), np.uint8))
    pairs = similar_pairs(photos, neighbours=50, seed=0)
    assert pairs == exhaustive_pairs(4)
    empty = [np.zeros((0, 128), np.uint8)] * 2
    assert similar_pairs(empty, neighbours=1, seed=0) == [(0, 1)]
