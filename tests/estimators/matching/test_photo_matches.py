"""Photos matched: what is found, and that it is found once."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fm3d_plugins.estimators.matching import photo_matches, working_photos
from fm3d_plugins.estimators.matching.found_once import finding_once
from fm3d_plugins.estimators.matching.photo_matches import NEAR, Demands, match_photos
from fm3d_plugins.photos.photo_set import find_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two that show the same, shifted, one of something else, and one of nothing."""
    folder = tmp_path_factory.mktemp("photos")
    noise = [np.random.default_rng(seed).integers(0, 255, (60, 80, 3)) for seed in (0, 9)]
    wide, other = (np.kron(each, np.ones((4, 4, 1))).astype(np.uint8) for each in noise)
    flat = np.full((240, 280, 3), 128, np.uint8)
    for name, image in zip(
        "abcd", (wide[:, :280], wide[:, 30:310], other[:, :280], flat), strict=True
    ):
        Image.fromarray(image).save(folder / f"{name}.png")
    return find_photos(folder).photos


def features(photos):
    return working_photos.find_features(
        photos, max_features=500, max_image_size=1600, num_threads=1, report=lambda _: None
    )


PAIRS = [(a, b) for a in range(4) for b in range(a + 1, 4)]


def test_photos_that_show_the_same_are_matched_and_others_are_not(photos):
    """A shifted crop agrees with its source in the shift; noise agrees with nothing."""
    working, steps = features(photos), []
    found = match_photos(working, PAIRS, seed=0, num_threads=2, report=steps.append)
    assert list(found) == [(0, 1)]
    rows = found[0, 1].rows
    ends = (one.features.keypoints[each, :2] for one, each in zip(working[:2], rows.T, strict=True))
    np.testing.assert_allclose(np.median(np.subtract(*ends), axis=0), [30, 0], atol=0.1)
    assert steps[-1] == len(PAIRS)


@pytest.mark.parametrize(("shift", "matched"), [((0.0, 0.0), True), ((-30.0, 0.0), False)])
def test_what_stays_in_place_before_something_still_is_no_match(photos, shift, matched):
    """The second photo shows the first's content 30 pixels to the left: where that is how far what
    stands still lies elsewhere in it, all of it stands still."""
    first, second, *_ = features(photos)
    pair = [replace(first, still_shift=(0.0, 0.0)), replace(second, still_shift=shift)]
    assert bool(match_photos(pair, [(0, 1)], seed=0, num_threads=1)) == matched


def test_other_demands_are_made_first_and_the_usual_ones_where_they_are_not_met(photos):
    """Truth: a looser ratio lets at least as many through, and nothing agrees on a million."""
    working = features(photos)
    asked = {"usual": Demands(), "looser": Demands(ratio=0.95), "never met": Demands(least=10**6)}
    counts = {}
    for name, each in asked.items():
        found = match_photos(working, [(0, 1)], seed=0, num_threads=1, demands={(0, 1): each})
        counts[name] = len(found[0, 1].rows)
    assert counts["looser"] >= counts["usual"] == counts["never met"]


def test_photos_of_other_things_do_not_match_by_the_demands_of_near_ones(photos):
    working, near = features(photos), dict.fromkeys(PAIRS, NEAR)
    assert list(match_photos(working, PAIRS, seed=0, num_threads=1, demands=near)) == [(0, 1)]


@pytest.mark.parametrize(("many", "is_more"), [(50, True), (10**6, False)])
def test_more_is_found_near_epipolar_lines_of_many_features_only(
    photos, monkeypatch, many, is_more
):
    """Of some 600 features that both photos show, 30 are found at first; they tell the lines."""
    match = photo_matches.mutual_matches
    monkeypatch.setattr(
        photo_matches, "mutual_matches", lambda *ends, **options: match(*ends, **options)[::20]
    )
    monkeypatch.setattr(photo_matches, "MANY_FEATURES", many)
    thorough = {(0, 1): Demands(is_guided=True)}
    found = match_photos(features(photos), [(0, 1)], seed=0, num_threads=1, demands=thorough)
    assert (len(found[0, 1].rows) > 300) == is_more


def test_in_one_estimation_features_and_matches_are_found_once_in_any_order(photos, monkeypatch):
    once, again = {}, []
    extract, match = working_photos.extract_features, photo_matches.mutual_matches
    monkeypatch.setattr(
        working_photos,
        "extract_features",
        lambda images, **options: again.append(len(images)) or extract(images, **options),
    )
    monkeypatch.setattr(
        photo_matches,
        "mutual_matches",
        lambda *ends, **options: again.append("pair") or match(*ends, **options),
    )
    with finding_once():
        first = features(photos[1:])
        once = match_photos(first, [(0, 1)], seed=0, num_threads=1)
        assert (again, once) == ([3, "pair"], {})
        every = features(photos)
        assert again.pop() == 1 and all(a is b for a, b in zip(first, every[1:], strict=True))
        found = match_photos(every, [*PAIRS[:2], (1, 2)], seed=0, num_threads=1)
        assert again == [3, "pair", "pair", "pair"]
        back = match_photos(every[1::-1], [(0, 1)], seed=0, num_threads=1)
        assert len(again) == 4
        np.testing.assert_array_equal(back[0, 1].rows[:, ::-1], found[0, 1].rows)
        match_photos(every, [(0, 1)], seed=1, num_threads=1)
        assert len(again) == 5
    features(photos)
    assert again[5:] == [4]
