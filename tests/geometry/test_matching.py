"""Reciprocal nearest neighbours, and tracks of them."""

import pytest
import torch

from fm3d_plugins.geometry.matching import (
    pixel_positions,
    reciprocal_matches,
    tracks_from_matches,
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def surface(rows, columns, shift=0.0, noise=0.0, generator=None):
    """Points on a wavy sheet, about 1/columns apart."""
    x = torch.linspace(0, 1, columns).expand(rows, -1) + shift
    y = torch.linspace(0, rows / columns, rows)[:, None].expand(-1, columns) + shift / 3
    points = torch.stack([x, y, 0.1 * torch.sin(5 * x) * torch.cos(4 * y)], -1)
    return points + noise / columns * torch.randn(rows, columns, 3, generator=generator)


def naive_matches(first, second, usable_first, usable_second):
    """Oracle: the matrix of all distances."""
    distance = torch.cdist(first.flatten(0, 1).double(), second.flatten(0, 1).double())
    distance[~usable_first.flatten()] = torch.inf
    distance[:, ~usable_second.flatten()] = torch.inf
    pairs = []
    for i in usable_first.flatten().nonzero().flatten().tolist():
        j = int(distance[i].argmin())
        if int(distance[:, j].argmin()) == i:
            pairs.append([i, j])
    return torch.tensor(pairs)


def test_matches_are_the_official_ones(shared):
    """Golden: the view-1 and view-2 points of the pair (0, 1); mask and neighbours of view 2."""
    from safetensors.torch import load_file

    golden = load_file(shared / "golden/dust3r_ga.safetensors")
    edge = golden["edges"].tolist().index([0, 1])
    first = golden["noisy.pred1_pts3d"][edge]
    second = golden["noisy.pred2_pts3d_in_other_view"][edge]
    found = reciprocal_matches(first, second)
    in_second = golden["recip01.mask_in_2"].nonzero().flatten()
    expected = torch.stack([golden["recip01.nn2_in_1"][in_second].long(), in_second], -1)
    assert len(found) == 2085
    assert torch.equal(found, expected[expected[:, 0].argsort()])


def test_matches_are_those_of_all_distances(generator):
    first = torch.randn(9, 13, 3, generator=generator)
    second = torch.randn(7, 11, 3, generator=generator)
    usable_first = torch.rand(9, 13, generator=generator) < 0.8
    usable_second = torch.rand(7, 11, generator=generator) < 0.8
    found = reciprocal_matches(first, second, usable_first, usable_second)
    expected = naive_matches(first, second, usable_first, usable_second)
    assert len(expected) > 10
    assert torch.equal(found, expected)
    assert bool(usable_first.flatten()[found[:, 0]].all())
    assert bool(usable_second.flatten()[found[:, 1]].all())
    swapped = reciprocal_matches(second, first, usable_second, usable_first).flip(1)
    assert torch.equal(swapped[swapped[:, 0].argsort()], found)


def test_a_pointmap_matches_itself_pixel_by_pixel():
    points = surface(12, 16)
    found = reciprocal_matches(points, points)
    assert torch.equal(found, torch.arange(12 * 16)[:, None].expand(-1, 2))


@pytest.mark.parametrize("stride", [2, 3, 8])
def test_matches_with_a_stride_are_some_of_all_and_spread_evenly(stride, generator):
    first = surface(48, 64)
    second = surface(40, 72, shift=0.2, noise=0.3, generator=generator)
    every = {tuple(pair) for pair in reciprocal_matches(first, second).tolist()}
    some = reciprocal_matches(first, second, stride=stride)
    assert {tuple(pair) for pair in some.tolist()} <= every
    assert len(torch.unique(some[:, 0])) == len(some) == len(torch.unique(some[:, 1]))
    # 0.8 of the columns overlap; each start of the grid in there leads to a match near it.
    starts = (48 // stride) * (int(64 * 0.8) // stride)
    assert 0.5 * starts <= len(some) <= 2 * starts
    assert stride == 2 or len(some) < len(every) / 3


def test_points_that_are_not_finite_match_nothing():
    first, second = surface(6, 8), surface(6, 8)
    first[0, 0] = torch.nan
    second[5, 7, 2] = torch.inf
    found = reciprocal_matches(first, second)
    assert len(found) == 46
    assert 0 not in found[:, 0].tolist() and 47 not in found[:, 1].tolist()


@pytest.mark.parametrize("stride", [1, 4])
def test_nothing_usable_gives_no_match(stride):
    points, none = surface(6, 8), torch.zeros(6, 8, dtype=torch.bool)
    assert reciprocal_matches(points, points, none, stride=stride).shape == (0, 2)
    far = surface(2, 2, shift=9.0)
    assert reciprocal_matches(points, far, stride=stride).shape[1] == 2


def test_a_stride_below_one_is_refused():
    with pytest.raises(ValueError, match="from 1"):
        reciprocal_matches(surface(2, 2), surface(2, 2), stride=0)


def test_matches_that_share_a_pixel_become_one_track():
    """Truth: 0:5 - 1:6 - 2:7 is one track; 0:1 - 2:1 another; 2:3 - 3:0 a third."""
    matches = {
        (0, 1): torch.tensor([[5, 6]]),
        (1, 2): torch.tensor([[6, 7]]),
        (0, 2): torch.tensor([[1, 1]]),
        (3, 2): torch.tensor([[0, 3]]),
    }
    tracks = tracks_from_matches(matches, [10, 7, 8, 1])
    assert len(tracks) == 3
    rows = zip(
        tracks.track_index.tolist(),
        tracks.view_index.tolist(),
        tracks.pixel_index.tolist(),
        strict=True,
    )
    found = {}
    for track, view, pixel in rows:
        found.setdefault(track, []).append((view, pixel))
    assert sorted(found) == [0, 1, 2]
    expected = [[(0, 1), (2, 1)], [(0, 5), (1, 6), (2, 7)], [(2, 3), (3, 0)]]
    assert sorted(found.values()) == expected


def test_a_track_with_two_pixels_of_a_photo_is_dropped():
    """Truth: 0:5 - 1:6 - 2:7 - 0:4 meets photo 0 twice; 0:2 - 1:2 is not touched."""
    matches = {
        (0, 1): torch.tensor([[2, 2], [5, 6]]),
        (1, 2): torch.tensor([[6, 7]]),
        (2, 0): torch.tensor([[7, 4]]),
    }
    tracks = tracks_from_matches(matches, [9, 9, 9])
    assert len(tracks) == 1
    assert tracks.view_index.tolist() == [0, 1] and tracks.pixel_index.tolist() == [2, 2]


def naive_tracks(matches):
    """Oracle: parts of a graph, by search."""
    neighbours = {}
    for (i, j), pairs in matches.items():
        for a, b in pairs.tolist():
            neighbours.setdefault((i, a), []).append((j, b))
            neighbours.setdefault((j, b), []).append((i, a))
    seen, tracks = set(), set()
    for start in neighbours:
        part, stack = set(), [start]
        while stack:
            node = stack.pop()
            if node not in part:
                part.add(node)
                stack += neighbours[node]
        if start not in seen and len({view for view, _ in part}) == len(part):
            tracks.add(frozenset(part))
        seen |= part
    return tracks


def test_tracks_are_the_parts_of_the_graph_without_contradiction(generator):
    matches = {}
    for i in range(5):
        for j in range(i):
            order = torch.randperm(60 + i, generator=generator)[:18]
            other = (order + (torch.rand(18, generator=generator) < 0.2)) % (60 + j)
            matches[i, j] = torch.stack([order, other], -1)
    expected = naive_tracks(matches)
    tracks = tracks_from_matches(matches, [60 + i for i in range(5)])
    found = {}
    for row, track in enumerate(tracks.track_index.tolist()):
        node = int(tracks.view_index[row]), int(tracks.pixel_index[row])
        found.setdefault(track, set()).add(node)
    assert {frozenset(part) for part in found.values()} == expected
    assert len(expected) == len(tracks) > 10
    again = tracks_from_matches(dict(reversed(matches.items())), [60 + i for i in range(5)])
    assert torch.equal(again.pixel_index, tracks.pixel_index)


def test_no_matches_give_no_tracks():
    assert len(tracks_from_matches({}, [4, 4])) == 0
    empty = tracks_from_matches({(0, 1): torch.zeros(0, 2, dtype=torch.long)}, [4, 4])
    assert len(empty) == 0 and empty.view_index.shape == (0,)


def test_pixel_positions_are_centres_counted_from_the_corner():
    found = pixel_positions(torch.tensor([0, 3, 4, 11]), width=4)
    expected = torch.tensor([[0.5, 0.5], [3.5, 0.5], [0.5, 1.5], [3.5, 2.5]])
    assert torch.equal(found, expected.double())
