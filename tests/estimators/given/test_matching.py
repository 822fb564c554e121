"""Poses find their photos by names, and nothing is matched that could be another."""

from pathlib import Path

import pytest

from fm3d_plugins.estimators.given.matching import match_names


def matched(photos, names):
    found = match_names([Path(photo) for photo in photos], names, "poses.json")
    return {photos[row]: names[pose] for row, pose in found.pose_of.items()}


@pytest.mark.parametrize(
    ("photo", "name"),
    [
        ("photos/a.jpg", "a.jpg"),
        ("photos/a.jpg", "elsewhere/images/a.jpg"),
        ("photos/a.jpg", "/home/someone/a.jpg"),
        ("photos/a.jpg", r"D:\Fotos\a.jpg"),
        ("photos/a.jpg", "./a.jpg"),
        ("photos/IMG_1.JPG", "IMG_1.HEIC"),
        ("photos/img_1.png", "IMG_1.JPG"),
        ("photos/a.jpg", "a"),
        ("photos/DJI.0001.jpg", "DJI.0001"),
        ("photos/1_305.377.png", "1_305.377"),
        ("photos/frame.v2.png", "frame.v2.jpg"),
    ],
)
def test_names_of_one_photo_match(photo, name):
    assert matched([photo, "photos/z.jpg"], [name, "y.jpg"]) == {photo: name}


def test_full_names_go_before_stems():
    found = matched(["p/a.jpg", "p/a.png"], ["a.png", "a.jpg"])
    assert found == {"p/a.jpg": "a.jpg", "p/a.png": "a.png"}
    # a.webp could be either of two photos that have poses already: it is neither.
    assert len(matched(["p/a.jpg", "p/a.png", "p/a.webp"], ["a.png", "a.jpg"])) == 2
    assert matched(["p/a.jpg", "p/a.webp"], ["a.jpg"]) == {"p/a.jpg": "a.jpg"}


def test_suffix_is_no_part_of_a_number():
    with pytest.raises(ValueError, match="none of which"):
        matched(["p/scan.jpg"], ["scan.001"])


def test_stem_of_two_photos_is_no_match():
    assert matched(["p/a.jpg", "p/a.png", "p/b.png"], ["a.heic", "b.heic"]) == {"p/b.png": "b.heic"}


def test_longest_common_path_decides():
    names = ["left/1.jpg", "right/1.jpg", "left/2.jpg"]
    assert matched(["data/right/1.jpg"], names) == {"data/right/1.jpg": "right/1.jpg"}
    heic = [name.replace("jpg", "heic") for name in names]
    assert matched(["data/right/1.jpg"], heic) == {"data/right/1.jpg": "right/1.heic"}


@pytest.mark.parametrize("suffix", ["jpg", "heic"])
def test_doubtful_match_is_refused_with_both_names(suffix):
    names = [f"left/1.{suffix}", f"right/1.{suffix}"]
    with pytest.raises(ValueError, match=r"several poses.*left/1.*right/1"):
        matched(["photos/1.jpg"], names)


def test_no_match_says_what_was_found_and_expected():
    with pytest.raises(ValueError, match=r"poses\.json.*x\.jpg.*none of which.*a\.jpg.*Expected"):
        matched(["photos/a.jpg"], ["x.jpg"])


def test_poses_without_a_photo_are_told():
    found = match_names([Path("p/b.jpg")], ["a.jpg", "b.jpg", "c.jpg"], "poses.json")
    assert found.unused == (0, 2)
