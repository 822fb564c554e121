"""Which frames of a scene are taken."""

import random

import pytest
import torch

from fm3d_plugins.data.sampling import EndsFirst, InOrder, even_split, random_split


@pytest.mark.parametrize("num_frames", [27, 60, 500])
def test_drawn_frames_differ_and_lie_between_the_ends(num_frames):
    rng = random.Random(0)
    for _ in range(50):
        start, end, *others = EndsFirst().draw(num_frames, rng)
        assert 25 <= end - start <= min(192, num_frames - 1)
        assert all(start < other < end < num_frames for other in others)
        assert len(set(others)) == 6


def test_frames_in_order_are_in_order():
    frames = InOrder(num_views=5, shortest=(4, 8), longest=(6, 9), steps=10).draw(
        50, 3, random.Random(0)
    )
    assert frames == sorted(set(frames)) and len(frames) == 5


def test_scenes_that_are_too_short_give_nothing():
    """The published rule: the scene must be longer than the least distance, not just as long."""
    rng = random.Random(0)
    assert EndsFirst().draw(26, rng) is None
    assert EndsFirst().draw(27, rng) is not None
    assert InOrder().draw(49, 0, rng) is None
    assert InOrder().draw(50, 0, rng) is not None
    assert InOrder().draw(50, 30_000, rng) is None


@pytest.mark.parametrize("sizes", [(8, 6, 9), (8, 20, 20), (1, 20, 30)])
def test_distances_without_room_for_all_views_are_refused(sizes):
    num_views, shortest, longest = sizes
    with pytest.raises(ValueError, match="Change the number of views"):
        EndsFirst(num_views, shortest, longest)
    with pytest.raises(ValueError, match="Change the number of views"):
        InOrder(num_views, (30, shortest), (60, longest))


@pytest.mark.parametrize("counts", [(16, 8), (2, 3), (2, 1), (5, 5)])
def test_splits_are_sorted_partitions(counts):
    for context, targets in (even_split(*counts), random_split(*counts)):
        assert (len(context), len(targets)) == counts
        together = torch.cat([context, targets]).sort().values
        assert together.equal(torch.arange(sum(counts)))
        assert context.equal(context.sort().values) and targets.equal(targets.sort().values)
    context, _ = random_split(*counts)
    assert int(context[0]) == 0 and int(context[-1]) == sum(counts) - 1
    with pytest.raises(ValueError, match="at least 2"):
        random_split(1, 3)
