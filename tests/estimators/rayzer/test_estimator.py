"""Latent cameras of all sorts of photos; the network itself is tested in `tests/rayzer`."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from fm3d_plugins.checkpoints import locate
from fm3d_plugins.cli import main as cli
from fm3d_plugins.estimators.rayzer.estimator import Rayzer
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.rayzer.network import RayZerConfig

NUM_VIEWS = 6
"""Of the small network."""


@pytest.fixture
def estimator(rayzer_weights):
    return Rayzer(weights=str(rayzer_weights), resolution=32)


def folder_of(bad, tmp_path, name):
    """The good photos, those to be tested, and copies until there are enough, in order."""
    folder = tmp_path / "photos"
    shutil.copytree(bad / "good", folder)
    group = name.partition("_")[0]
    tested = sorted(bad.glob(f"{group}_*")) if group in ("mixed", "duplicate") else [bad / name]
    for path in tested:
        shutil.copy(path, folder)
    for number in range(NUM_VIEWS - 3 - len(tested)):
        shutil.copy(bad / "good/good_0.jpg", folder / f"more_{number}.jpg")
    return folder


def test_all_accepted_photos_get_finite_cameras(shared, tmp_path, estimator):
    bad, seen = shared / "scenes/bad_inputs", 0
    for entry in json.loads((bad / "expected.json").read_text()):
        if entry["expect"] != "accept":
            continue
        folder = folder_of(bad, tmp_path / str(seen), entry["file"])
        scene = estimator.estimate(find_photos(folder))
        assert entry["file"] in scene.names and len(scene) == NUM_VIEWS
        for values in (scene.world_from_camera, scene.intrinsics):
            assert bool(values.isfinite().all()), entry["file"]
        sizes = {photo.name: (photo.width, photo.height) for photo in find_photos(folder)}
        assert [tuple(size) for size in scene.image_sizes.tolist()] == [
            sizes[name] for name in scene.names
        ]
        # One focal length of square canvases: the photo's short side sees the same angle in all.
        short = scene.image_sizes.amin(1)
        ratio = scene.intrinsics[:, 1, 1] / short
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=0.02, atol=0)
        seen += 1
    assert seen > 10


def test_rejected_photos_are_named_before_the_network_is_asked(shared, tmp_path, capsys):
    bad = shared / "scenes/bad_inputs"
    for number, name in enumerate(("truncated_half.jpg", "zero_byte.jpg", "photo.heic")):
        folder = folder_of(bad, tmp_path / str(number), name)
        with pytest.raises(SystemExit, match=name.replace(".", r"\.")):
            words = ["--data", folder, "--output-dir", tmp_path / "out"]
            cli.main(["process", "rayzer", *map(str, words)])
        assert not (tmp_path / "out").exists()


def test_fewer_photos_than_it_was_trained_with_are_refused(shared, estimator):
    with pytest.raises(ValueError, match=rf"3 photos.*trained with {NUM_VIEWS}.*garbage"):
        estimator.estimate(find_photos(shared / "scenes/bad_inputs/good"))


def test_of_more_photos_as_many_are_taken_evenly(shared, tmp_path, estimator, capsys):
    good = shared / "scenes/bad_inputs/good/good_0.jpg"
    for number in range(11):
        shutil.copy(good, tmp_path / f"{number:02d}.jpg")
    scene = estimator.estimate(find_photos(tmp_path))
    assert scene.names == ("00.jpg", "02.jpg", "04.jpg", "06.jpg", "08.jpg", "10.jpg")
    assert len(scene.unregistered) == 5 and scene.scale == "latent"


def test_of_many_photos_those_around_the_middle_one_can_be_taken(shared, tmp_path, estimator):
    good = shared / "scenes/bad_inputs/good/good_0.jpg"
    for number in range(16):
        shutil.copy(good, tmp_path / f"{number:02d}.jpg")
    photos = find_photos(tmp_path)
    nearest = replace(estimator, spacing=1).estimate(photos)
    assert nearest.names == tuple(f"{number:02d}.jpg" for number in range(5, 11))
    apart = replace(estimator, spacing=3).estimate(photos)
    assert apart.names == tuple(f"{number:02d}.jpg" for number in (0, 3, 6, 9, 12, 15))
    for spacing in (4, -1):
        with pytest.raises(ValueError, match=rf"spacing of {spacing}.*at most 3.*6 of 16"):
            replace(estimator, spacing=spacing).estimate(photos)


def test_networks_trained_here_see_neighbouring_photos_and_published_ones_whole_paths(
    estimator, rayzer_weights
):
    published, small = locate(str(rayzer_weights)), locate("rayzer-small")
    config = RayZerConfig(num_views=5, num_contexts=3)
    assert estimator.chosen(24, published, config) == [0, 6, 12, 17, 23]
    assert estimator.chosen(24, small, config) == [9, 10, 11, 12, 13]
    assert estimator.chosen(5, small, config) == [0, 1, 2, 3, 4]
    assert replace(estimator, spacing=0).chosen(24, small, config) == [0, 6, 12, 17, 23]


def test_latent_cameras_are_not_written_as_real_ones(shared, tmp_path, rayzer_weights):
    folder = folder_of(shared / "scenes/bad_inputs", tmp_path, "probe_reference.jpg")
    words = ["--data", folder, "--output-dir", tmp_path / "out", "--weights"]
    with pytest.raises(SystemExit, match="latent"):
        cli.main(["process", "rayzer", *map(str, (*words, rayzer_weights))])


def test_the_published_number_of_photos_is_24():
    assert (RayZerConfig().num_views, RayZerConfig().num_contexts) == (24, 16)
