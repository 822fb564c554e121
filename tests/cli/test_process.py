"""`fm3d process` writes a scene that others read, or nothing."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from fm3d_plugins.cli import main as cli
from fm3d_plugins.cli.eval_poses import read_poses
from fm3d_plugins.geometry.pose_metrics import evaluate_poses

ODD_BUT_GOOD = (
    "orient6.jpg",
    "rgba.png",
    "grey16.png",
    "black.jpg",
    "no_overlap_other_scene.jpg",
    "duplicate_a.jpg",
    "duplicate_b.jpg",
    "name with spaces é ünïcode 照片 📷.jpg",
    "name'with\"quotes;$(x)&%20.jpg",
)


def run(*words):
    cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def processed(shared, tmp_path_factory):
    """Four photos of a castle and everything odd that is to be accepted, processed once."""
    folder = tmp_path_factory.mktemp("process")
    shutil.copytree(shared / "scenes/bad_inputs/good", folder / "photos")
    for name in ODD_BUT_GOOD:
        shutil.copy(shared / "scenes/bad_inputs" / name, folder / "photos")
    scene = folder / "scene"
    run(
        "process", "sfm", "--data", folder / "photos", "--output-dir", scene,
        "--cache-dir", folder / "cache",
    )  # fmt: skip
    return scene


def test_cameras_are_those_of_the_reference(processed, shared):
    reference = read_poses(shared / "scenes/sceaux")
    # The good photos were renamed copies of the first ones of the scene, in order.
    found = read_poses(processed)
    good = sorted(name for name in found if name.startswith("good_"))
    assert len(good) == 3
    names = sorted(reference)
    assert (
        evaluate_poses(
            {names[i]: found[name] for i, name in enumerate(good)},
            {name: reference[name] for name in names[: len(good)]},
        ).auc(30)
        > 0.5
    )


def test_nerfstudio_and_colmap_read_the_same_scene(processed):
    import pycolmap

    outputs = (
        NerfstudioDataParserConfig(data=processed, eval_mode="all", load_3D_points=True)
        .setup()
        .get_dataparser_outputs("train")
    )
    model = pycolmap.Reconstruction(processed / "colmap/sparse/0")
    assert len(outputs.image_filenames) == model.num_reg_images()
    assert len(outputs.metadata["points3D_xyz"]) == model.num_points3D()
    assert {image.name for image in model.images.values()} == {
        path.name for path in outputs.image_filenames
    }
    for path, camera in zip(outputs.image_filenames, outputs.cameras, strict=True):
        with Image.open(path) as image:
            assert image.size == (int(camera.width), int(camera.height))
    assert outputs.cameras.camera_to_worlds.isfinite().all()


def test_readers_take_paths_as_texts(processed):
    from fm3d_plugins.io.colmap import read_colmap
    from fm3d_plugins.io.ply import read_ply
    from fm3d_plugins.io.posed_scenes import read_posed_scene
    from fm3d_plugins.io.transforms import read_transforms

    names = read_transforms(processed).names
    assert read_transforms(f"{processed}/transforms.json").names == names
    assert read_posed_scene(str(processed)).names == names
    assert set(read_colmap(f"{processed}/colmap/sparse/0").names) == {
        Path(name).name for name in names
    }
    assert len(read_ply(f"{processed}/sparse_pc.ply").points) > 0


def test_odd_names_keep_their_spelling(processed):
    names = set(os.listdir(processed / "images"))
    for name in ODD_BUT_GOOD[-2:]:
        assert name in names


def test_existing_output_is_kept_unless_overwritten(processed, shared, tmp_path):
    output = tmp_path / "scene"
    output.mkdir()
    (output / "mine.txt").write_text("keep")
    words = ("process", "sfm", "--data", shared / "scenes/bad_inputs/good", "--output-dir", output)
    with pytest.raises(SystemExit, match="--overwrite"):
        run(*words)
    assert (output / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("name", ["truncated_half.jpg", "photo.heic", "bomb_30000x30000.png"])
def test_rejected_photos_leave_no_output(shared, tmp_path, name):
    photos = tmp_path / "photos"
    shutil.copytree(shared / "scenes/bad_inputs/good", photos)
    shutil.copy(shared / "scenes/bad_inputs" / name, photos)
    with pytest.raises(SystemExit, match=name):
        run("process", "sfm", "--data", photos, "--output-dir", tmp_path / "scene")
    assert os.listdir(tmp_path) == ["photos"]


def test_photos_are_not_overwritten_by_what_is_made_of_them(tmp_path):
    photos = tmp_path / "scene" / "photos"
    photos.mkdir(parents=True)
    (photos / "notes.txt").touch()
    (photos / "old" / "deep").mkdir(parents=True)
    (photos / "old" / "deep" / "IMG.jpg").write_text("original")
    (tmp_path / "link").symlink_to(photos)
    for data, output, relation in (
        (photos, photos, "is an input"),
        (photos, photos.parent, "holds an input"),
        (photos, photos / "old", "lies in an input"),
        (tmp_path / "link", photos, "is an input"),
        (photos, tmp_path / "link", "is an input"),
    ):
        with pytest.raises(SystemExit, match=f"{relation}.* would be replaced"):
            run("process", "sfm", "--data", data, "--output-dir", output, "--overwrite")
    assert (photos / "notes.txt").exists()
    assert (photos / "old" / "deep" / "IMG.jpg").read_text() == "original"


def test_scene_that_an_option_names_is_not_overwritten(tmp_path):
    photos, known = tmp_path / "photos", tmp_path / "known"
    for folder in (photos, known):
        folder.mkdir()
        (folder / "transforms.json").write_text("original")
    with pytest.raises(SystemExit, match="known is an input.* transforms.json"):
        run(
            "process", "vggt", "--data", photos, "--output-dir", known, "--overwrite",
            "--known-cameras", known,
        )  # fmt: skip
    assert (known / "transforms.json").read_text() == "original"


def test_figures_do_not_replace_the_cameras_they_are_of(processed, tmp_path):
    reference = shutil.copytree(processed, tmp_path / "reference")
    output = reference / "transforms.json"
    content = output.read_bytes()
    with pytest.raises(SystemExit, match="would be replaced"):
        run("eval-poses", reference, processed, "--output", output)
    assert output.read_bytes() == content


def test_folders_that_cannot_be_processed_end_with_one_message(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    one = tmp_path / "one"
    one.mkdir()
    Image.new("RGB", (64, 48)).save(one / "a.png")
    for data, message in (
        ("empty", "no photo"), ("absent", "no folder"), ("file", "is a file"), ("one", "photo"),
    ):  # fmt: skip
        with pytest.raises(SystemExit, match=message):
            run(
                "process", "sfm", "--data", tmp_path / data, "--output-dir", tmp_path / "out",
                "--cache-dir", tmp_path / "cache",
            )  # fmt: skip
        assert not (tmp_path / "out").exists()


def test_unknown_words_list_what_there_is():
    with pytest.raises(SystemExit, match="process"):
        run("reconstruct")
    with pytest.raises(SystemExit, match="Known: sfm"):
        run("process", "colmap")


def test_eval_poses_finds_a_scene_equal_to_itself(processed, capsys, tmp_path):
    run("eval-poses", processed, processed / "colmap/sparse/0", "--output", tmp_path / "f.json")
    import json

    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["AUC@5"] == figures["registered"] == 1.0
    assert figures["ATE"] == pytest.approx(0.0, abs=1e-6)
    assert "AUC@30" in capsys.readouterr().out


def test_poses_elsewhere_are_asked_for(tmp_path):
    with pytest.raises(ValueError, match="neither transforms.json nor a COLMAP model"):
        read_poses(tmp_path)


def test_points_lie_in_front_of_the_cameras(processed):
    from fm3d_plugins.io.colmap import read_colmap

    scene = read_colmap(processed / "colmap/sparse/0")
    assert scene.tracks is not None
    views = scene.world_from_camera[scene.tracks.view_index]
    offsets = scene.points[scene.tracks.point_index] - views[:, :3, 3]
    assert (torch.einsum("ni,ni->n", views[:, :3, 2], offsets) > 0).all()
