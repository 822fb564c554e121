"""Pairs of photos."""

import json

import pytest
import torch

from fm3d_plugins.dust3r.pairs import PairGraph, require_connected, symmetrised

NAMED = [
    "complete",
    "swin",
    "swin-1",
    "swin-2-noncyclic",
    "logwin-2",
    "logwin-noncyclic",
    "oneref-1",
]


def named_pairs(name, num_photos):
    return PairGraph.from_name(name).pairs(num_photos)


def test_pairs_are_the_official_ones_but_for_pairs_of_a_photo_with_itself(shared):
    """Golden: lists where the authors' order is fixed, sets where it is not."""
    cases = json.loads((shared / "golden/dust3r_pairs.json").read_text())
    compared = 0
    for case, expected in cases.items():
        count, name, symmetry, *prefilter = case.split("|")
        num_photos = int(count.removeprefix("n="))
        if prefilter and prefilter != ["prefilter=None"]:
            continue
        if name == "unknown" or isinstance(expected, str):
            with pytest.raises(ValueError, match="Expected"):
                named_pairs(name, num_photos)
            continue
        found = named_pairs(name, num_photos)
        if symmetry == "symmetrize=True":
            found = symmetrised(found)
        wanted = [(i, j) for i, j in expected if i != j]
        if name.split("-")[0] in ("complete", "oneref"):
            assert found == wanted, case
        else:
            assert len(found) == len(set(found)), case
            assert set(found) == set(wanted), case
        compared += 1
    assert compared > 80


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("num_photos", [2, 3, 4, 11])
def test_no_pair_occurs_twice_or_holds_a_photo_twice(name, num_photos):
    pairs = named_pairs(name, num_photos)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert all(i != j and 0 <= min(i, j) and max(i, j) < num_photos for i, j in pairs)
    assert len(set(symmetrised(pairs))) == 2 * len(pairs)


@pytest.mark.parametrize("num_photos", [2, 5, 8])
def test_a_window_over_all_photos_is_the_complete_graph(num_photos):
    complete = {tuple(sorted(pair)) for pair in named_pairs("complete", num_photos)}
    assert set(named_pairs(f"swin-{10**9}", num_photos)) == complete
    assert set(named_pairs(f"swin-{num_photos}-noncyclic", num_photos)) == complete


def test_powers_of_two_go_on_around_the_circle():
    """Truth: 1, 2, 4, 8, 16 modulo 11 are 1, 2, 4, -3 and 5, so all distances occur."""
    assert len(named_pairs("logwin-5", 11)) == len(named_pairs("complete", 11))
    assert len(named_pairs("logwin-4", 11)) == 4 * 11
    assert len(named_pairs("logwin-5-noncyclic", 11)) == 10 + 9 + 7 + 3


def test_retrieval_takes_the_most_alike_and_connects_the_rest():
    """Truth: 0-1-2 and 3-4-5 are alike among themselves, and 2-3 is the best tie between them."""
    similarity = torch.full((6, 6), -0.9)
    for group in ((0, 1, 2), (3, 4, 5)):
        for i in group:
            for j in group:
                similarity[i, j] = 0.5
    similarity[2, 3] = similarity[3, 2] = -0.1
    pairs = PairGraph.from_name("retrieval-2").pairs(6, similarity)
    assert pairs == [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4), (3, 5), (4, 5)]
    require_connected(pairs, "abcdef")


@pytest.mark.parametrize("neighbours", [1, 3, 50])
def test_retrieval_always_connects_with_few_pairs(neighbours):
    generator = torch.Generator().manual_seed(neighbours)
    similarity = torch.rand(40, 40, generator=generator)
    similarity = (similarity + similarity.T) / 2
    pairs = PairGraph.from_name(f"retrieval-{neighbours}").pairs(40, similarity)
    require_connected(pairs, [str(row) for row in range(40)])
    assert len(set(pairs)) == len(pairs) <= min((neighbours + 1) * 40, 40 * 39 // 2)
    for row in range(40):
        ranked = similarity[row].clone()
        ranked[row] = -1
        for other in ranked.topk(min(neighbours, 39)).indices.tolist():
            assert (min(row, other), max(row, other)) in pairs


def test_photos_that_are_all_equally_alike_are_connected():
    pairs = PairGraph.from_name("retrieval-1").pairs(5, torch.zeros(5, 5))
    require_connected(pairs, "abcde")
    assert {row for pair in pairs for row in pair} == set(range(5))


def test_parts_that_no_pair_connects_are_named():
    pairs = [(2, 3), (3, 4), (3, 2), (4, 3)]
    with pytest.raises(ValueError, match="in 4 parts") as error:
        require_connected(pairs, ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"])
    assert "a.jpg, b.jpg, f.jpg (3 of them) have no tie to c.jpg" in str(error.value)


@pytest.mark.parametrize(
    "name", ["", "swin-0", "swin-x", "noncyclic", "complete-3", "oneref-noncyclic", "swin-3-cyclic"]
)
def test_an_unknown_graph_is_refused(name):
    with pytest.raises(ValueError, match="is unknown. Expected complete"):
        PairGraph.from_name(name)


def test_a_similarity_is_asked_for_exactly_where_it_counts():
    with pytest.raises(ValueError, match="missing"):
        PairGraph.from_name("retrieval").pairs(3)
    with pytest.raises(ValueError, match="no effect"):
        PairGraph.from_name("swin").pairs(3, torch.eye(3))
    with pytest.raises(ValueError, match="not finite"):
        PairGraph.from_name("retrieval").pairs(3, torch.full((3, 3), torch.nan))
    with pytest.raises(ValueError, match="4 photos"):
        PairGraph.from_name("retrieval").pairs(4, torch.eye(3))


def test_one_photo_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        named_pairs("complete", 1)
