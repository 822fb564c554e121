"""Photos of one format that were zoomed: told apart by what they show."""

import numpy as np
import pytest
from PIL import Image

from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.estimators.sfm.estimator import Sfm
from fm3d_plugins.estimators.sfm.zooms import (
    error_in,
    explains_more,
    odd_rows,
    parted_by_zoom,
    told_zooms,
)
from fm3d_plugins.geometry.pose_metrics import evaluate_poses
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.photos.photo_set import find_photos

COUNT = 16
"""Photos of the fox, neighbours, so that all of them are joined."""

FOX = 1.275
"""Focal length of the fox photos (270 x 480) over their width; 344 pixels in their reference."""


def parted(focals, groups=None):
    return parted_by_zoom(dict(enumerate(focals)), groups or [0] * len(focals))


def test_one_zoom_with_its_noise_stays_one_camera():
    assert parted([0.70, 0.72, 0.735, 0.71, 0.69]) == [0, 0, 0, 0, 0]


def test_each_zoom_gets_a_camera_in_order_of_first_use():
    assert parted([1.16, 0.72, 1.15, 0.73, 1.44]) == [0, 1, 0, 1, 2]


def test_one_odd_photo_is_alone():
    assert parted([0.72, 0.72, 1.5, 0.72]) == [0, 0, 1, 0]


def test_focal_lengths_that_run_on_are_not_shared():
    """Steps of 5 %: no two neighbours differ much, but first and last by 1.5."""
    assert parted([1.05**step for step in range(9)]) == list(range(9))


def test_formats_are_parted_one_by_one():
    """Lying and upright photos have cameras of their own; one of them was zoomed."""
    focals = [0.72, 1.28, 0.73, 1.79, 0.72, 1.27]
    assert parted(focals, [0, 1, 0, 1, 0, 1]) == [0, 1, 0, 2, 0, 1]


def test_photos_without_a_focal_length_are_alone_where_others_are_parted():
    assert parted_by_zoom({0: 0.72, 1: 1.15, 2: 0.72}, [0, 0, 0, 0]) == [0, 1, 0, 2]
    assert parted_by_zoom({0: 0.72, 1: 0.72}, [0, 0, 0, 0]) == [0, 0, 0, 0]


def test_odd_photos_are_those_apart_from_the_most_of_their_camera():
    assert odd_rows([0, 0, 0, 1, 1, 1], [0, 1, 0, 2, 3, 3]) == [1, 3]
    assert odd_rows([0, 0], [0, 0]) == []


def model(num_views, error=0.0, focals=None):
    """Cameras at the origin that see one point on their axis, `error` pixels beside it."""
    focals = np.ones(num_views) if focals is None else np.array(focals, dtype=float)
    return SparseModel(
        image_index=np.arange(num_views),
        world_from_camera=np.tile(np.eye(4), (num_views, 1, 1)),
        intrinsics=np.array([[[f, 0, error], [0, f, 0], [0, 0, 1]] for f in focals], dtype=float),
        distortion=np.zeros((num_views, 6)),
        points=np.array([[0.0, 0.0, 2.0]]),
        point_errors=np.array([error]),
        track_point=np.zeros(num_views, dtype=np.int64),
        track_view=np.arange(num_views),
        track_keypoint=np.zeros(num_views, dtype=np.int64),
    )


KEYPOINTS = [np.zeros((1, 6), np.float32)] * 30


@pytest.mark.parametrize(
    ("views", "error", "is_believed"),
    [
        (20, 0.99, False),
        (20, 0.5, True),
        (21, 1.0, True),
        (19, 0.8, False),
        (19, 0.5, True),
        (17, 0.3, False),
    ],
)
def test_more_cameras_must_explain_much_more(views, error, is_believed):
    parted = model(views, error)
    assert explains_more(parted, model(20, 1.0), [3, 7], KEYPOINTS) == is_believed
    assert explains_more(parted, None, [3, 7], KEYPOINTS)


def test_only_the_photos_that_were_parted_are_compared():
    together, apart = model(4, 0.4), model(4, 0.4)
    together.intrinsics[2, 0, 2] = 1.5
    assert error_in(together, [2], KEYPOINTS) == pytest.approx(1.5)
    assert error_in(together, [0, 2], KEYPOINTS) == pytest.approx(0.95)
    assert explains_more(apart, together, [2], KEYPOINTS)
    assert not explains_more(apart, together, [1], KEYPOINTS)


def test_zooms_are_told_in_pixels_of_the_photos():
    """Working copies at half the size; the camera that was not parted is not told of."""
    found = model(5, 0.5, focals=[200, 320, 202, 318, 999])
    told = told_zooms(found, [0.5] * 5, [0, 0, 0, 0, 1], [0, 1, 0, 1, 2])
    assert "402 px (2), 638 px (2)." in told and "999" not in told


@pytest.fixture(scope="module")
def fox(shared):
    return read_transforms(shared / "scenes/fox_270x480/transforms.json")


def zoomed(shared, folder, zooms, lying=()):
    """Photos of the fox cut to their middle and scaled up again, without EXIF.

    Args:
        zooms: Of the photos in order, again and again.
        lying: Which of these are cut to lie, by their place; a zoom of 1 has their whole width.
    """
    paths = sorted((shared / "scenes/fox_270x480/images").iterdir())[:COUNT]
    folder.mkdir()
    for number, path in enumerate(paths):
        zoom, place = zooms[number % len(zooms)], number % len(zooms)
        with Image.open(path) as stored:
            width, height = stored.size
            size = (height, width) if place in lying else (width, height)
            half = width / zoom / 2, width / zoom / 2 * size[1] / size[0]
            box = (width / 2 - half[0], height / 2 - half[1])
            box = (*box, width / 2 + half[0], height / 2 + half[1])
            cut = stored.convert("RGB").resize(size, Image.Resampling.LANCZOS, box=box)
            cut.save(folder / f"{path.stem}.png")
    return find_photos(folder)


def accuracy(scene, fox):
    """AUC@30 among the photos that have a camera."""
    poses = {name.split(".")[0]: pose for name, pose in zip(
        scene.names, scene.world_from_camera.double(), strict=True)}  # fmt: skip
    expected = {name.split("/")[-1].split(".")[0]: pose for name, pose in zip(
        fox.names, fox.world_from_camera.double(), strict=True)}  # fmt: skip
    return evaluate_poses(poses, {name: expected[name] for name in poses}).auc(30)


@pytest.mark.parametrize(
    ("zooms", "lying"),
    [
        ([1, 1.6], ()),
        ([1] * (COUNT - 1) + [2], ()),
        pytest.param([1, 1.3, 2], (), marks=pytest.mark.slow),
        pytest.param([1, 1, 1.6, 1], (1, 3), marks=pytest.mark.slow),
    ],
    ids=["half of them", "one odd photo", "three zooms", "lying ones among them"],
)
def test_zoomed_photos_get_the_focal_length_of_their_zoom(
    shared, fox, tmp_path, capsys, zooms, lying
):
    """Truth: a photo cut to 1 / z of its width has z times the focal length.

    With one camera for all, AUC@30 is 0.4 to 0.5 where half of the photos are zoomed. 6 %: a photo
    or two may have a camera of their own, whose focal length few points tell.
    """
    photos = zoomed(shared, tmp_path / "photos", zooms, lying)
    scene = Sfm(num_threads=1).estimate(photos)
    assert len(scene) >= 0.9 * len(photos)
    assert accuracy(scene, fox) > 0.95
    place = {photo.name: number % len(zooms) for number, photo in enumerate(photos)}
    kinds = [(zooms[place[name]], place[name] in lying) for name in scene.names]
    for kind, matrix, size in zip(kinds, scene.intrinsics, scene.image_sizes.tolist(), strict=True):
        assert float(matrix[0, 0]) == pytest.approx(FOX * kind[0] * size[0], rel=0.06)
    # No camera took photos of two zooms, and nearly all of one zoom are by one camera.
    cameras = scene.camera_index.tolist()
    assert len(set(zip(cameras, kinds, strict=True))) == len(set(cameras))
    assert len(set(cameras)) <= len(set(kinds)) + 2
    assert "several zooms" in " ".join(capsys.readouterr().out.split())


def test_photos_of_one_zoom_keep_one_camera(shared, fox, tmp_path, capsys):
    photos = zoomed(shared, tmp_path / "photos", [1])
    scene = Sfm(num_threads=1).estimate(photos)
    assert scene.camera_index.unique().tolist() == [0] and len(scene) == len(photos)
    assert accuracy(scene, fox) > 0.99
    lines = capsys.readouterr().out.splitlines()
    # On a busy machine the stage that looks for zooms is named while it lasts.
    assert not any("zoom" in line for line in lines if not line.startswith("Looking for zooms"))
