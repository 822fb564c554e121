"""Camera paths of films; that a run is filmed is seen in `tests/lvsm` and `tests/rayzer`."""

import json
import math

import pytest
import torch

from fm3d_plugins.cli import film, main
from fm3d_plugins.nerfstudio_cameras import opengl_rows, pinhole_cameras, world_from_cameras


@pytest.fixture
def training():
    poses = torch.eye(4).repeat(5, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 4, 1, 3, 2])
    lenses = torch.tensor([[50.0, 0, 32], [0, 60, 24], [0, 0, 1]]).repeat(5, 1, 1)
    return pinhole_cameras(poses, lenses, 48, 64)


def positions(cameras):
    return world_from_cameras(cameras)[:, 0, 3].tolist()


def test_key_cameras_are_taken_as_they_were_captured_or_by_nearness(training):
    options = {"path": "through", "num_keys": 5, "radius": 0.1, "frames": 2, "loop": False}
    captured = film._cameras(training, order="capture", **options)
    assert positions(captured) == [0, 4, 4, 1, 1, 3, 3, 2]
    nearest = film._cameras(training, order="nearest", **options)
    assert positions(nearest) == [0, 1, 1, 2, 2, 3, 3, 4]
    assert (int(captured.width[0]), int(captured.height[0]), float(captured.fy[3])) == (64, 48, 60)


def test_circles_have_the_radius_in_units_of_the_capture(training):
    around = film._cameras(training, "around", 2, "capture", 0.5, 4, False)
    mean_distance = (2 + 2 + 1 + 1 + 0) / 5
    expected = [0.5 * mean_distance * x for x in (1, 0, -1, 0)]
    assert positions(around)[:4] == pytest.approx(expected, abs=1e-6)
    assert positions(around)[4:] == pytest.approx([2 + x for x in expected], abs=1e-6)


def test_a_path_saved_in_the_viewer_is_followed(tmp_path):
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([1.0, 2, 3])
    rows = torch.cat([opengl_rows(pose[None])[0], torch.tensor([[0.0, 0, 0, 1]])])
    camera = {"camera_to_world": rows.flatten().tolist(), "fov": 90.0, "aspect": 1.5}
    saved = {
        "render_height": 40,
        "render_width": 60,
        "camera_type": "perspective",
        "camera_path": [camera] * 3,
        "fps": 12,
    }
    (tmp_path / "path.json").write_text(json.dumps(saved))
    cameras, fps = film.read_camera_path(tmp_path / "path.json", 30)
    assert fps == 12 and len(cameras) == 3
    torch.testing.assert_close(world_from_cameras(cameras)[1], pose)
    # A field of view of 90 degrees from top to bottom.
    assert float(cameras.fy[0]) == pytest.approx(20 / math.tan(math.pi / 4))


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"camera_path": [], "fps": 3}'])
def test_other_files_are_no_camera_paths(tmp_path, content):
    (tmp_path / "path.json").write_text(content)
    with pytest.raises(ValueError, match=r"path\.json.*Expected a camera path.*viewer"):
        film.read_camera_path(tmp_path / "path.json", 30)


@pytest.mark.parametrize("option", [("--num-keys", "0"), ("--frames", "0"), ("--radius", "nan")])
def test_impossible_numbers_are_refused_before_a_run_is_loaded(tmp_path, option):
    with pytest.raises(SystemExit, match=option[0]):
        main.main(["film", "--load-config", str(tmp_path / "config.yml"), *option])
