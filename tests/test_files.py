"""What is no regular file is neither read nor waited for."""

import json
import os
import signal

import pytest
import torch
from PIL import Image

from fm3d_plugins import files
from fm3d_plugins.backends.perceptual import read_vgg19
from fm3d_plugins.checkpoints import find, load
from fm3d_plugins.checkpoints.records import file_sha256, read_record
from fm3d_plugins.data.chunks import read_chunk
from fm3d_plugins.data.scenes import read_scene_list
from fm3d_plugins.estimators.dense.estimator import digest_of_scene
from fm3d_plugins.estimators.dense.weights_identity import weights_sha256
from fm3d_plugins.files import read_json_object
from fm3d_plugins.io.colmap import read_colmap
from fm3d_plugins.io.depth_files import read_map
from fm3d_plugins.io.ply import read_ply
from fm3d_plugins.io.posed_scenes import read_posed_scene
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.nn import fastest
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.scene import SceneGeometry

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch, tmp_path):
    """Whoever opens a pipe that nobody writes to waits for ever: a test that does fails."""

    def waited(*_):
        raise AssertionError("it was waited for a pipe")

    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("scene.safetensors", SceneGeometry.load),
        ("depth.npy", read_map),
        ("depth.png", read_map),
        ("points.ply", read_ply),
        ("transforms.json", read_transforms),
        ("transforms.json", read_posed_scene),
        ("weights.safetensors", load),
        ("weights.pt", find),
        ("weights.pt", file_sha256),
        ("index.json", lambda path: read_json_object(path, "an index")),
        ("list.txt", read_scene_list),
        ("chunk.torch", read_chunk),
        ("vgg.mat", read_vgg19),
        ("cameras.bin", lambda path: read_colmap(path.parent)),
    ],
)
@pytest.mark.parametrize("is_linked", [False, True])
def test_pipe_is_refused_by_name(name, read, is_linked, tmp_path):
    path = pipe(tmp_path / ("pipe" if is_linked else name))
    if is_linked:
        (tmp_path / name).symlink_to(path)
        path = tmp_path / name
    with pytest.raises((ValueError, OSError), match=str(tmp_path)):
        read(path)


def test_photos_that_are_none_are_named(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    pipe(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "d.jpg").symlink_to(tmp_path / "d.jpg")
    with pytest.raises(ValueError, match=r"b\.jpg: is a named pipe[^c]*c\.jpg: is a named pipe"):
        find_photos(tmp_path)
    assert [photo.name for photo in find_photos(tmp_path, skip_unreadable=True)] == ["a.png"]


def test_small_files_of_the_cache_that_are_none_are_passed_over(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    pipe(cache / "fastest.json")
    assert fastest._remembered() == {}
    weights = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, weights)
    pipe(cache / "weights" / "last_used.json")
    with pytest.raises(OSError, match="last_used.json is a named pipe"):
        weights_sha256(str(weights))
    assert read_record(weights) is not None


def test_pipes_among_the_files_of_a_scene_do_not_count(tmp_path):
    (tmp_path / "transforms.json").write_text(json.dumps({}))
    before = digest_of_scene(tmp_path)
    pipe(tmp_path / "sub" / "x.json")
    assert digest_of_scene(tmp_path) == before


def test_kinds_are_told_and_nothing_is_nothing(tmp_path):
    assert files.kind_of(tmp_path) == "a folder"
    assert files.kind_of(tmp_path / "absent") is None
    (tmp_path / "file").touch()
    assert files.kind_of(tmp_path / "file" / "below") is None
    with pytest.raises(FileNotFoundError, match="absent"):
        files.require_regular(tmp_path / "absent")
