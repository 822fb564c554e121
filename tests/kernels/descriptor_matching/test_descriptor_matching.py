"""Matches against those of a matrix of all angles."""

import numpy as np
import pytest

from fm3d_plugins.kernels.descriptor_matching import mutual_matches


def descriptors(count, seed):
    """Of length 512, nearly, with numbers up to 255."""
    random = np.random.default_rng(seed).exponential(size=(count, 128))
    return np.minimum(512 * random / np.linalg.norm(random, axis=1)[:, None], 255).astype(np.uint8)


def noisy(some, seed):
    random = np.random.default_rng(seed)
    return np.clip(some + random.normal(0, 4, some.shape), 0, 255).astype(np.uint8)


def expected(first, second, ratio, widest):
    """By the definition: both directions from all angles."""
    angles = np.arccos(np.minimum(first.astype(float) @ second.T.astype(float) / 512**2, 1))
    padded = np.pad(angles, ((0, 1), (0, 1)), constant_values=np.pi / 2)
    found = []
    for row, column in np.argwhere(angles <= widest):
        nearest = angles[row, column]
        next_nearest = min(
            np.delete(padded[row], column).min(), np.delete(padded[:, column], row).min()
        )
        if nearest < ratio * next_nearest:
            found.append((row, column))
    return np.array(found).reshape(-1, 2)


@pytest.mark.parametrize(("one", "two"), [(50, 70), (64, 64), (1, 1), (3, 17), (5, 1)])
def test_matches_are_those_of_all_angles(one, two):
    """Sizes that fill tiles of 4 by 16, and sizes that do not."""
    first = descriptors(one, 0)
    second = np.concatenate([noisy(first[::-1], 1), descriptors(max(two, one), 2)])[:two]
    found = mutual_matches(first, second, ratio=0.8, widest_angle=0.7)
    np.testing.assert_array_equal(found, expected(first, second, 0.8, 0.7))
    assert len(found) >= min(one, two) // 2


def test_a_descriptor_that_is_there_twice_matches_nothing():
    first = descriptors(20, 0)
    second = np.concatenate([first, first[:5]])
    found = mutual_matches(first, second, ratio=0.8, widest_angle=0.7)
    np.testing.assert_array_equal(found, np.stack([np.arange(5, 20)] * 2, axis=1))


def test_the_largest_numbers_do_not_overflow():
    first = np.zeros((2, 128), np.uint8)
    first[0], first[1, :4] = 255, 255
    found = mutual_matches(first, first[::-1].copy(), ratio=1.0, widest_angle=0.7)
    assert [0, 1] in found.tolist()


@pytest.mark.parametrize("largest", [96, 97])
def test_sums_at_the_edge_of_sixteen_bits_are_right(largest):
    """Four of 96 or 97 times 85: 32 640 is the last such product below 2^15."""
    first = np.zeros((4, 128), np.uint8)
    first[:, :8], first[1, 20:28], first[2, 40:48], first[3, 60:68] = largest, 90, 90, 90
    second = np.zeros((4, 128), np.uint8)
    second[:, :8], second[1, 20:28], second[2, 40:48], second[3, 60:68] = 170, 90, 90, 90
    found = mutual_matches(first, second, ratio=1.0, widest_angle=1.5)
    np.testing.assert_array_equal(found, expected(first, second, 1.0, 1.5))
    assert len(found) == 3


@pytest.mark.parametrize("empty", [(0, 5), (5, 0), (0, 0)])
def test_photos_without_features_match_nothing(empty):
    found = mutual_matches(*(descriptors(n, 0) for n in empty), ratio=0.8, widest_angle=0.7)
    assert found.shape == (0, 2)


def test_other_descriptors_are_refused():
    good = descriptors(4, 0)
    with pytest.raises(ValueError, match=r"shape \[4, 64\]. Expected \[n, 128\]"):
        mutual_matches(good, good[:, :64], ratio=0.8, widest_angle=0.7)
