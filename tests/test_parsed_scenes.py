"""The frame that a user gave, found again behind what nerfstudio's parsers make of it."""

import json
from pathlib import Path

import pytest
import torch
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from fm3d_plugins.dataparsers.estimated import EstimatedDataParserConfig
from fm3d_plugins.estimators.given.estimator import Given
from fm3d_plugins.io.colmap import write_colmap
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.nerfstudio_cameras import world_from_cameras
from fm3d_plugins.parsed_scenes import input_frame, moved_origin
from fm3d_plugins.scene_points import use_own_parser
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

TURNED = [[0.0, 1, 0, 4], [1, 0, 0, 5], [0, 0, -1, 6]]


@pytest.fixture
def scene(tmp_path):
    folder = tmp_path / "scene"
    write_sample(folder, num_photos=6, width=48, height=36, quality=DRAFT, num_threads=1)
    return folder


def poses_in_input(config, folder):
    """Of all photos, by name, after the parser's frame is undone."""
    config.data = folder
    use_own_parser(config)
    parser = config.setup()
    outputs = parser.get_dataparser_outputs("train")
    frame = input_frame(outputs, parser).inverse()
    poses = frame.apply_to_pose(world_from_cameras(outputs.cameras).double())
    return {
        file.name: pose for file, pose in zip(outputs.image_filenames, poses, strict=True)
    }, frame


def assert_same(found, expected):
    for name, pose in found.items():
        torch.testing.assert_close(pose, expected[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stated", [None, [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], TURNED])
@pytest.mark.parametrize("has_model", [False, True])
def test_frame_is_that_of_the_poses_in_transforms(scene, stated, has_model):
    """Whatever the file states as `applied_transform`, or nerfstudio guesses beside a model."""
    truth = read_transforms(scene)
    if has_model:
        write_colmap(truth, scene / "colmap/sparse/0")
    path = scene / "transforms.json"
    content = json.loads(path.read_text())
    content.pop("applied_transform")
    path.write_text(json.dumps(content | ({"applied_transform": stated} if stated else {})))
    config = NerfstudioDataParserConfig(eval_mode="all")
    found, frame = poses_in_input(config, scene)
    assert_same(found, dict(zip(truth.names, truth.world_from_camera, strict=True)))
    assert float(frame.scale) != pytest.approx(1, abs=1e-3)


def test_frame_is_that_of_a_colmap_model(scene):
    truth = read_transforms(scene)
    write_colmap(truth, scene / "sparse/0")
    config = ColmapDataParserConfig(colmap_path=Path("sparse/0"), eval_mode="all")
    found, _ = poses_in_input(config, scene)
    assert_same(found, dict(zip(truth.names, truth.world_from_camera, strict=True)))


def test_a_transform_that_flattens_is_refused(scene):
    path = scene / "transforms.json"
    content = json.loads(path.read_text())
    content["applied_transform"] = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"transforms\.json: applied_transform.*flattens"):
        poses_in_input(NerfstudioDataParserConfig(), scene)


@pytest.mark.parametrize("shift", [0.0, 5.4e6])
def test_an_estimators_scene_tells_by_how_much_it_is_moved(scene, tmp_path, shift):
    path = scene / "transforms.json"
    content = json.loads(path.read_text())
    for frame in content["frames"]:
        frame["transform_matrix"][0][3] += shift
    path.write_text(json.dumps(content))
    estimator = Given(poses=path, refine="off")
    config = EstimatedDataParserConfig(
        data=scene / "images", estimator=estimator, cache_dir=tmp_path / "cache"
    )
    origin = moved_origin(config.setup())
    if shift:
        centers = read_transforms(scene).world_from_camera[:, :3, 3]
        assert origin == pytest.approx(centers.mean(0).tolist())
    else:
        assert origin is None
