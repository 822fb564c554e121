"""Every photo is in a chunk, and the chunks hang together."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm3d_plugins.estimators.chunks.plan import plan_chunks
from fm3d_plugins.photos.similarity import (
    looks_like_a_sequence,
    photo_descriptors,
    similarity_matrix,
)


def reachable(members):
    """Photos connected to chunk 0 by photos that chunks share."""
    found = set(members[0])
    for _ in members:
        for photos in members:
            if found & set(photos):
                found |= set(photos)
    return found


def circle_similarity(angles):
    """Photos that look in these directions, alike as their directions are."""
    return torch.cos(angles[:, None] - angles[None])


@st.composite
def plans(draw):
    num_photos = draw(st.integers(1, 60))
    chunk_size = draw(st.integers(2, 20))
    overlap = draw(st.integers(1, chunk_size - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    tokens = torch.randn(num_photos, draw(st.integers(1, 8)), generator=generator)
    similarity = torch.nn.functional.normalize(tokens, dim=1)
    similarity = similarity @ similarity.T
    order = torch.randperm(num_photos, generator=generator).tolist()
    kind = draw(st.sampled_from(["plain", "ordered", "loops", "grouped"]))
    options = {"plain": {}, "ordered": {"order": order}, "grouped": {"similarity": similarity}}
    options["loops"] = {"order": order, "similarity": similarity}
    sizes = {"chunk_size": chunk_size, "overlap": overlap}
    return num_photos, sizes, options[kind], plan_chunks(num_photos, **sizes, **options[kind])


@settings(max_examples=150, deadline=None)
@given(plans())
def test_every_photo_is_in_a_chunk_and_all_chunks_are_connected(made):
    num_photos, sizes, _, plan = made
    regular = [m for m, loop in zip(plan.members, plan.is_loop, strict=True) if not loop]
    assert set().union(*regular) == set(range(num_photos)) == reachable(regular)
    assert reachable(plan.members) == set(range(num_photos))
    for photos in plan.members:
        assert len(set(photos)) == len(photos) <= sizes["chunk_size"]
    assert plan.num_photos == num_photos


@settings(max_examples=50, deadline=None)
@given(plans())
def test_home_is_the_regular_chunk_where_a_photo_is_most_central(made):
    _, _, _, plan = made
    for photo, home in enumerate(plan.homes):
        inside = [
            (depths[photos.index(photo)], chunk)
            for chunk, (photos, depths) in enumerate(
                zip(plan.members, plan.centrality, strict=True)
            )
            if photo in photos and not plan.is_loop[chunk]
        ]
        assert (max(depth for depth, _ in inside), home) in inside
    assert all(0 < depth <= 1 for depths in plan.centrality for depth in depths)


@settings(max_examples=50, deadline=None)
@given(plans())
def test_equal_inputs_give_the_same_plan(made):
    num_photos, sizes, options, plan = made
    assert plan_chunks(num_photos, **sizes, **options) == plan


@pytest.mark.parametrize(("num_photos", "chunk_size", "overlap"), [(100, 16, 4), (17, 16, 8)])
def test_sequence_is_cut_into_full_runs_that_overlap_at_least_as_asked(
    num_photos, chunk_size, overlap
):
    plan = plan_chunks(num_photos, chunk_size=chunk_size, overlap=overlap)
    assert len(plan.members) == 1 + math.ceil((num_photos - chunk_size) / (chunk_size - overlap))
    for photos in plan.members:
        assert photos == tuple(range(photos[0], photos[0] + chunk_size))
    for before, after in zip(plan.members, plan.members[1:], strict=False):
        assert len(set(before) & set(after)) >= overlap
    assert not any(plan.is_loop)


def test_few_photos_are_one_chunk_in_their_order():
    similarity = torch.eye(5)
    for options in ({}, {"similarity": similarity}):
        plan = plan_chunks(5, chunk_size=8, overlap=2, **options)
        assert plan.members == ((0, 1, 2, 3, 4),)
    assert plan_chunks(3, chunk_size=8, overlap=2, order=[2, 0, 1]).members == ((2, 0, 1),)


def test_walk_around_a_circle_is_closed_by_a_chunk_of_both_ends():
    angles = torch.arange(60) * (2 * math.pi / 60)
    plan = plan_chunks(
        60, chunk_size=12, overlap=4, order=range(60), similarity=circle_similarity(angles)
    )
    loops = [set(m) for m, loop in zip(plan.members, plan.is_loop, strict=True) if loop]
    assert any(loop & set(range(6)) and loop & set(range(54, 60)) for loop in loops)


def test_straight_walk_has_no_loop():
    similarity = 1 - (torch.arange(60.0)[:, None] - torch.arange(60.0)).abs() / 60
    plan = plan_chunks(60, chunk_size=12, overlap=4, order=range(60), similarity=similarity)
    assert not any(plan.is_loop)


def test_number_of_loops_is_limited():
    angles = torch.arange(200) * (2 * math.pi / 40)  # five rounds: every place is seen again
    similarity = circle_similarity(angles)
    plan = plan_chunks(200, chunk_size=12, overlap=4, order=range(200), similarity=similarity)
    num_loops = sum(plan.is_loop)
    assert 0 < num_loops <= (len(plan.is_loop) - num_loops) / 2


def test_unordered_photos_of_a_circle_are_grouped_by_direction():
    """Photos in random order: the mean angle within a group is far below a quarter turn."""
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(80, generator=generator) * 2 * math.pi
    plan = plan_chunks(80, chunk_size=16, overlap=4, similarity=circle_similarity(angles))
    for photos, is_loop in zip(plan.members, plan.is_loop, strict=True):
        if not is_loop:
            own = angles[list(photos)]
            apart = torch.acos(circle_similarity(own).clamp(-1, 1)).rad2deg()
            # By chance it is 90 degrees; 16 neighbours of 80 cover 72 degrees.
            assert float(apart.mean()) < 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_photos": 0}, "0 photos"),
        ({"overlap": 0}, "overlap of 0"),
        ({"overlap": 4}, "smaller than a chunk"),
        ({"order": [0, 1, 2, 2, 4]}, "Expected every number"),
        ({"similarity": torch.eye(4)}, r"\(4, 4\)"),
        ({"similarity": torch.eye(5).fill_(torch.nan)}, "finite"),
        ({"similarity": torch.arange(25.0).reshape(5, 5)}, "symmetric"),
    ],
)
def test_impossible_plans_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        plan_chunks(**{"num_photos": 5, "chunk_size": 4, "overlap": 2, **options})


def test_walk_that_returns_to_its_start_is_closed(room):
    """The photos of a loop around a room, ends together again after 90 of them."""
    photos = (room.colors(pose, 48, 64) for pose in room.walk(90))
    similarity = similarity_matrix(photo_descriptors(photos))
    assert looks_like_a_sequence(similarity)
    plan = plan_chunks(90, chunk_size=16, overlap=6, order=range(90), similarity=similarity)
    first = next(set(m) for m, loop in zip(plan.members, plan.is_loop, strict=True) if loop)
    assert first & set(range(8)) and first & set(range(82, 90))
