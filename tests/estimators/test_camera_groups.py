from pathlib import Path

import pytest

from fm3d_plugins.estimators.camera_groups import camera_groups
from fm3d_plugins.photos.photo import Photo


def photo(name, size=(640, 480), focal=None, key=None):
    width, height = size
    return Photo(
        path=Path(name), name=name, width=width, height=height, is_plain=True, focal_prior=focal,
        camera_key=key or f"{width}|{height}|||||", digest="",
    )  # fmt: skip


def test_frames_of_one_size_share_a_camera_without_exif():
    assert camera_groups([photo("a"), photo("b"), photo("c")], "auto") == [0, 0, 0]


def test_lying_and_upright_frames_are_two_cameras():
    sizes = [(640, 480), (480, 640), (640, 480)]
    assert camera_groups([photo("a", size) for size in sizes], "auto") == [0, 1, 0]


def test_a_collection_of_sizes_without_exif_shares_nothing():
    sizes = [(640, 480), (640, 427), (640, 480), (640, 400), (512, 512)]
    assert camera_groups([photo("a", size) for size in sizes], "auto") == [0, 1, 2, 3, 4]


def test_a_stray_photo_does_not_part_the_others():
    sizes = [(640, 480), (640, 480), (300, 200), (640, 480)]
    assert camera_groups([photo("a", size) for size in sizes], "auto") == [0, 0, 1, 0]


def test_exif_decides_in_a_collection():
    photos = [
        photo("a", focal=500.0, key="A"),
        photo("b"),
        photo("e", (640, 427)),
        photo("f", (640, 427)),
        photo("c", focal=500.0, key="A"),
        photo("d", focal=700.0, key="B"),
    ]
    assert camera_groups(photos, "auto") == [0, 1, 2, 3, 0, 4]


def test_sharing_can_be_asked_for():
    photos = [photo("a", focal=500.0, key="A"), photo("b", focal=510.0, key="B")]
    assert camera_groups(photos, "shared") == [0, 0]
    assert camera_groups(photos, "per-photo") == [0, 1]
    with pytest.raises(ValueError, match="2 sizes"):
        camera_groups([photo("a"), photo("b", (100, 100))], "shared")
