"""A wrong scene ends training with one message, before anything long begins."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from PIL import Image

from fm3d_plugins.camera_optimization.evaluation import score_held_out
from fm3d_plugins.camera_optimization.held_out_poses import TestPoseProtocol
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.io.colmap import write_colmap
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

NUM_PHOTOS = 9


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(folder, num_photos=NUM_PHOTOS, width=64, height=48, quality=DRAFT, num_threads=1)
    return folder


@pytest.fixture
def scene(capture, tmp_path):
    shutil.copytree(capture, tmp_path / "scene")
    return tmp_path / "scene"


def open_scene(folder, dataparser=None, method="3dgs"):
    config = copy.deepcopy(all_methods[method].pipeline.datamanager)
    config.data = folder
    if dataparser is not None:
        config.dataparser = dataparser
    return config.setup(device="cpu", test_mode="val")


def edit(folder, change):
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_untouched_scene_opens(scene):
    assert len(open_scene(scene).train_dataset) == NUM_PHOTOS - 2


def test_every_absent_photo_is_named(scene):
    for number in (2, 5):
        (scene / f"images/frame_{number:04d}.jpg").unlink()
    with pytest.raises(SystemExit, match=r"(?s)frame_0002\.jpg.*frame_0005\.jpg"):
        open_scene(scene)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("frames"), "frames"),
        (lambda c: c.update(frames=[]), "frames"),
        (lambda c: c["frames"][1].pop("transform_matrix"), "transform_matrix"),
        (lambda c: c["frames"][1].pop("file_path"), "file_path"),
        (lambda c: c.pop("fl_x"), "fl_x"),
        (lambda c: c.update(fl_x=0), "fl_x"),
        (lambda c: c["frames"][3].update(transform_matrix=[[float("nan")] * 4] * 4), "frame_0004"),
        (lambda c: c["frames"][3].update(transform_matrix=[[0] * 4] * 4), "frame_0004"),
        (lambda c: c["frames"][3].update(mask_path="images/frame_0004.jpg"), "frame_0001"),
    ],
)  # fmt: skip
def test_faulty_transforms_name_the_field_or_the_photo(scene, change, message):
    edit(scene, change)
    with pytest.raises(SystemExit, match=message):
        open_scene(scene)


def test_text_that_is_no_json_is_refused(scene):
    (scene / "transforms.json").write_text("{ frames: [")
    with pytest.raises(SystemExit, match=r"transforms\.json"):
        open_scene(scene)


def test_a_byte_order_mark_is_named(scene):
    """Editors write one; nerfstudio's own message names no file."""
    path = scene / "transforms.json"
    path.write_text(path.read_text(), "utf-8-sig")
    with pytest.raises(SystemExit, match=r"transforms\.json begins with a byte order mark"):
        open_scene(scene)


def moved_by(shift):
    def change(content):
        for frame in content["frames"]:
            for axis in range(3):
                frame["transform_matrix"][axis][3] += shift
        del content["ply_file_path"]

    return change


def test_cameras_that_rounding_would_move_are_refused(scene):
    """At 5.4e6 a float of 24 bits is off by up to 2^-2 along each axis, 0.43 in all; the walk
    through this room is a few metres long."""
    edit(scene, moved_by(5.4e6))
    with pytest.raises(SystemExit, match=r"5400001.*move them by up to 0\.[1-4].*`given`"):
        open_scene(scene)
    edit(scene, lambda content: content.update(ply_file_path="points.ply"))
    edit(scene, moved_by(-5.4e6))
    open_scene(scene)


def test_a_colmap_model_that_rounding_would_move_is_refused(scene):
    moved = read_transforms(scene / "transforms.json")
    poses = moved.world_from_camera.clone()
    poses[:, :3, 3] += 5.4e6
    write_colmap(dataclasses.replace(moved, world_from_camera=poses), scene / "sparse/0")
    parser = ColmapDataParserConfig(colmap_path=Path("sparse/0"))
    with pytest.raises(SystemExit, match="Subtract"):
        open_scene(scene, parser)


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "."])
def test_a_colmap_model_is_found_where_colmap_writes_it(scene, place, capsys):
    """nerfstudio's default is colmap/sparse/0; COLMAP's own projects have sparse/0."""
    write_colmap(read_transforms(scene), scene / "model")
    (scene / place).mkdir(parents=True, exist_ok=True)
    for file in (scene / "model").iterdir():
        file.rename(scene / place / file.name)
    manager = open_scene(scene, ColmapDataParserConfig())
    assert len(manager.train_dataset) == NUM_PHOTOS - 2
    assert "The COLMAP model is" in capsys.readouterr().out


def test_photos_without_poses_are_pointed_to_an_estimator(scene):
    with pytest.raises(SystemExit, match="sfm"):
        open_scene(scene / "images")


def test_absent_folder_is_said(tmp_path):
    with pytest.raises(SystemExit, match="there is no"):
        open_scene(tmp_path / "nowhere")


def test_colmap_model_of_absent_photos_names_them_all(scene):
    write_colmap(read_transforms(scene), scene / "colmap" / "sparse" / "0")
    (scene / "images/frame_0003.jpg").unlink()
    (scene / "images/frame_0007.jpg").unlink()
    with pytest.raises(SystemExit, match=r"(?s)frame_0003\.jpg.*frame_0007\.jpg"):
        open_scene(scene, ColmapDataParserConfig())


def test_traceback_is_shown_on_request(monkeypatch):
    monkeypatch.setenv("FM3D_TRACEBACK", "1")
    with pytest.raises(ValueError, match="reason"), one_line_errors():
        raise ValueError("reason")


def test_a_question_about_points_is_not_asked(scene, monkeypatch, capsys):
    """nerfstudio's parser asks on the terminal when a scene has a COLMAP model but no PLY."""
    edit(scene, lambda content: content.pop("ply_file_path"))
    (scene / "colmap/sparse/0").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr("rich.prompt.Confirm.ask", None)
    assert len(open_scene(scene).train_dataset) == NUM_PHOTOS - 2
    assert "are left out" in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def large_colmap(tmp_path):
    """A COLMAP model of photos of 1700 pixels, more than nerfstudio reads without a question."""
    folder = tmp_path / "large"
    write_sample(folder, num_photos=9, width=68, height=36, quality=DRAFT, num_threads=1)
    known = read_transforms(folder)
    scale = torch.diag(torch.tensor([25.0, 25, 1])).to(known.intrinsics)
    sizes = 25 * known.image_sizes
    write_colmap(
        dataclasses.replace(known, intrinsics=scale @ known.intrinsics, image_sizes=sizes),
        folder / "colmap" / "sparse" / "0",
    )
    for photo in (folder / "images").iterdir():
        Image.open(photo).resize((1700, 900)).save(photo)
    return folder


def test_large_photos_of_a_colmap_model_are_read_without_a_question(large_colmap, monkeypatch):
    monkeypatch.setattr(
        "nerfstudio.data.dataparsers.colmap_dataparser.Confirm.ask",
        lambda *_, **__: pytest.fail("it asked"),
    )
    manager = open_scene(large_colmap, ColmapDataParserConfig(colmap_path="colmap/sparse/0"))
    # 1700 x 900 to the limit of a CPU, 640: 900 * 640 / 1700 = 338.8.
    assert manager.train_dataset[0]["image"].shape == (339, 640, 3)
    absent = ColmapDataParserConfig(colmap_path="colmap/sparse/0", downscale_factor=2)
    with pytest.raises(SystemExit, match="There is no folder .*images_2.*leave the option out"):
        open_scene(large_colmap, absent)
    (large_colmap / "images_2").mkdir()
    for photo in (large_colmap / "images").iterdir():
        Image.open(photo).resize((850, 450)).save(large_colmap / "images_2" / photo.name)
    # Those that are there are read, as nerfstudio does.
    manager = open_scene(large_colmap, ColmapDataParserConfig(colmap_path="colmap/sparse/0"))
    assert manager.train_dataset.image_filenames[0].parent.name == "images_2"


@pytest.mark.parametrize("places", [[[0.1, 0.2, 0.3]], [[5, 7, 0.3]] * 3, [[1e4, 2e4, 3.3]] * 7])
def test_cameras_in_one_place_are_read_with_their_own_scale(places, scene):
    """Truth: nothing can be scaled to a size that it has not."""

    def change(content):
        content["frames"] = content["frames"][: len(places)]
        for frame, place in zip(content["frames"], places, strict=True):
            for row, value in zip(frame["transform_matrix"], place, strict=False):
                row[3] = value

    edit(scene, change)
    manager = open_scene(scene, NerfstudioDataParserConfig(eval_mode="all"))
    assert manager.train_dataparser_outputs.dataparser_scale == 1.0
    assert manager.train_dataset.cameras.camera_to_worlds.isfinite().all()
    assert float(manager.train_dataset.cameras.camera_to_worlds[..., 3].abs().max()) < 1e-2


def test_the_largest_colmap_model_is_trained_on(scene, capsys):
    """Photos that COLMAP cannot join go into models of their own, of which any may be first."""
    whole = read_transforms(scene)
    sparse = scene / "colmap" / "sparse"
    shutil.rmtree(sparse, ignore_errors=True)
    write_colmap(whole, sparse / "1")
    first = sparse / "0"
    shutil.copytree(sparse / "1", first)
    images = (first / "images.bin").read_bytes()
    # Three images without observations.
    few, offset = [], 8
    for _ in range(3):
        end = images.index(b"\0", offset + 64) + 1
        few.append(images[offset:end] + bytes(8))
        offset = end + 8 + 24 * int.from_bytes(images[end : end + 8], "little")
    (first / "images.bin").write_bytes((3).to_bytes(8, "little") + b"".join(few))
    manager = open_scene(scene, ColmapDataParserConfig())
    assert len(manager.train_dataset) + len(manager.eval_dataset) == NUM_PHOTOS
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert f"it has {NUM_PHOTOS} images" in said
    assert "has 3" in said


def names_of(scene):
    return [
        frame["file_path"]
        for frame in json.loads((scene / "transforms.json").read_text())["frames"]
    ]


def said_of(capsys):
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
def test_nothing_held_out_is_said_before_training(scene, capsys, method):
    parser = NerfstudioDataParserConfig(train_split_fraction=1.0)
    manager = open_scene(scene, parser, method)
    assert len(manager.eval_dataset) == 0
    assert f"None of these {NUM_PHOTOS} photos is held out" in said_of(capsys)
    pipeline = VanillaPipeline.__new__(VanillaPipeline)
    torch.nn.Module.__init__(pipeline)
    pipeline.datamanager = manager
    with pytest.raises(SystemExit, match="nothing to score"):
        score_held_out(pipeline, TestPoseProtocol.parse("none"))


def test_scoring_by_training_photos_is_said_before_training(scene, capsys):
    open_scene(scene, NerfstudioDataParserConfig(eval_mode="all"))
    assert f"{NUM_PHOTOS} of the {NUM_PHOTOS} photos that the run is scored by" in said_of(capsys)
    open_scene(scene, NerfstudioDataParserConfig(eval_mode="interval"))
    assert "scored by" not in said_of(capsys)


def test_a_scene_of_two_photos_says_how_few_are_trained_on(scene, capsys):
    meta = json.loads((scene / "transforms.json").read_text())
    (scene / "transforms.json").write_text(json.dumps(meta | {"frames": meta["frames"][:2]}))
    open_scene(scene, NerfstudioDataParserConfig(eval_mode="interval"))
    assert "Of these 2 photos only 1 is left to train on, 1 is held out" in said_of(capsys)
    open_scene(scene, NerfstudioDataParserConfig(eval_mode="all"))
    assert "is left to train on" not in said_of(capsys)


@pytest.mark.parametrize("has_test", [False, True])
def test_lists_without_photos_for_ns_eval_are_said_before_training(scene, capsys, has_test):
    names = names_of(scene)
    lists = {"train_filenames": names[:6], "val_filenames": names[6:]}
    if has_test:
        lists["test_filenames"] = names[6:]
    edit(scene, lambda content: content.update(lists))
    assert len(open_scene(scene).train_dataset) == 6
    assert ("`test_filenames` in" in said_of(capsys)) != has_test


@pytest.mark.parametrize("has_test", [False, True])
def test_colmap_lists_without_photos_for_ns_eval_are_said(scene, capsys, has_test):
    whole = read_transforms(scene)
    shutil.rmtree(scene / "colmap", ignore_errors=True)
    write_colmap(whole, scene / "colmap" / "sparse" / "0")
    (scene / "train_list.txt").write_text("\n".join(whole.names[:6]))
    (scene / "val_list.txt").write_text("\n".join(whole.names[6:]))
    if has_test:
        (scene / "test_list.txt").write_text("\n".join(whole.names[6:]))
    assert len(open_scene(scene, ColmapDataParserConfig()).train_dataset) == 6
    assert ("test_list.txt is absent" in said_of(capsys)) != has_test


def test_a_scene_whose_photos_are_all_held_out_is_refused(scene):
    edit(scene, lambda c: c.update(train_filenames=[], val_filenames=names_of(scene)))
    with pytest.raises(SystemExit, match="No photo is left to train on"):
        open_scene(scene)
