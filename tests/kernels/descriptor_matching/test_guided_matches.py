"""Guided matches against all products of descriptors and all distances from lines."""

import numpy as np
import pytest

from fm3d_plugins.kernels.descriptor_matching import guided_matches

# Equal rows: a camera that moved along x.
SIDEWAYS = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0.0]])


def of_length_512(numbers):
    lengths = np.linalg.norm(numbers, axis=1, keepdims=True)
    return np.minimum(512 * numbers / lengths + 0.5, 255).astype(np.uint8)


@pytest.fixture
def photos():
    """Features whose partners lie on the same row, a few pixels off, under other neighbours."""
    random = np.random.default_rng(0)
    pixels = random.uniform(0, 300, (80, 2))
    looks = of_length_512(random.exponential(size=(80, 128)))
    order = random.permutation(80)
    moved = pixels + [[25.0, 0.0]] + random.normal(size=(80, 2)) * [[0, 1.0]]
    noisy = of_length_512(np.maximum(looks + random.normal(0, 8, looks.shape), 0))
    return (pixels, looks), (moved[order], noisy[order]), order


def by_all_products(first, second, band, ratio):
    off = np.abs(first[0][:, None, 1] - second[0][None, :, 1])
    one, two = (each.astype(np.float64) for each in (first[1], second[1]))
    angle = np.arccos(np.minimum(one @ two.T / 512**2, 1))
    near = np.where(off <= band, angle, np.pi / 2)

    def chosen(table):
        order = np.argsort(table, axis=1)
        best, second = np.take_along_axis(table, order[:, :2], axis=1).T
        return np.where(best < ratio * second, order[:, 0], -1)

    there, back = chosen(near), chosen(near.T)
    return [(i, j) for i, j in enumerate(there) if j >= 0 and back[j] == i]


@pytest.mark.parametrize("band", [1.5, 20.0, 1000.0])
def test_matches_are_those_of_all_products(photos, band):
    first, second, _ = photos
    found = guided_matches(first, second, SIDEWAYS, band=band, ratio=0.85)
    assert list(map(tuple, found.tolist())) == by_all_products(first, second, band, 0.85)


def test_partners_are_found_that_look_like_others_far_from_the_line(photos):
    first, second, order = photos
    twins = second[1][:, :].copy()
    # Every feature has a twin somewhere, as windows of a facade do.
    doubled = (np.concatenate([second[0], second[0] + [0, 60]]), np.concatenate([twins, twins]))
    everywhere = guided_matches(first, doubled, SIDEWAYS, band=1000.0, ratio=0.85)
    near = guided_matches(first, doubled, SIDEWAYS, band=4.0, ratio=0.85)
    assert len(everywhere) == 0
    assert len(near) > 70
    assert all(order[j % 80] == i for i, j in near.tolist())


def test_nothing_matches_nothing(photos):
    first, _, _ = photos
    empty = (np.zeros((0, 2)), np.zeros((0, 128), np.uint8))
    assert guided_matches(first, empty, SIDEWAYS, band=5.0, ratio=0.85).shape == (0, 2)
    assert guided_matches(empty, first, SIDEWAYS, band=5.0, ratio=0.85).shape == (0, 2)


def test_counts_that_do_not_agree_are_refused(photos):
    first, second, _ = photos
    with pytest.raises(ValueError, match="79 pixels and descriptors"):
        guided_matches((first[0][1:], first[1]), second, SIDEWAYS, band=5.0, ratio=0.85)
