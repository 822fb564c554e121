"""What can be known before a run is asked before anything is written."""

import copy
import socket
from pathlib import Path

import pytest
import tyro
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.scripts import train
from PIL import Image

from fm3d_plugins.running.checks import forget_refused, require_port


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def typed(method, *words):
    """A config as ns-train makes it of what is typed."""
    flags = (tyro.conf.FlagConversionOff,)
    config = copy.deepcopy(all_methods[method])
    return tyro.cli(type(config), default=config, args=[*map(str, words)], config=flags)


def refused(config, monkeypatch, match):
    """Run ns-train's main; it must end with a message and leave nothing."""
    monkeypatch.setattr(train, "launch", lambda **_: pytest.fail("it was begun"))
    with pytest.raises(SystemExit, match=match):
        train.main(config)
    assert not Path("outputs").exists()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("FM3D_OFFLINE", "1")
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("parser", ["sfm", "vggt", "nerfstudio-data", "colmap"])
def test_photos_that_are_not_there_are_refused(tmp_path, monkeypatch, parser):
    config = typed("3dgs", "--data", tmp_path / "nothing", parser)
    refused(config, monkeypatch, "there is no .*nothing")


@pytest.mark.parametrize(
    ("parser", "match"),
    [("sfm", "no photo"), ("dust3r", "no photo"), ("nerfstudio-data", "no transforms.json")],
)
def test_a_folder_without_what_is_needed_is_refused(tmp_path, monkeypatch, parser, match):
    (tmp_path / "empty").mkdir()
    refused(typed("3dgs", "--data", tmp_path / "empty", parser), monkeypatch, match)


@pytest.mark.parametrize(
    "words", [["vggt"], ["dust3r"], ["rayzer"], ["3dgs", "vggt"], ["3dgs", "rayzer"]]
)
def test_absent_weights_are_refused(photos, monkeypatch, words):
    method, *parser = words
    config = typed(method, "--data", photos, *parser)
    refused(config, monkeypatch, "Error: .*(weights|network)")


@pytest.mark.parametrize("method", ["vggt", "dust3r", "rayzer"])
def test_weights_are_refused_where_people_look_for_the_option(photos, monkeypatch, method):
    config = typed(method, "--data", photos, "--weights", "/nowhere/my.safetensors")
    refused(config, monkeypatch, "/nowhere/my.safetensors")


def test_room_is_asked_for(photos, monkeypatch):
    monkeypatch.setattr("fm3d_plugins.running.checks.LEAST_ROOM", 1 << 60)
    refused(typed("3dgs", "--data", photos, "sfm"), monkeypatch, "no room.*the run")


def test_a_folder_without_a_checkpoint_is_refused(photos, tmp_path, monkeypatch):
    config = typed("3dgs", "--data", photos, "--load-dir", tmp_path, "sfm")
    refused(config, monkeypatch, "holds no checkpoint")


def test_a_port_that_is_taken_is_refused(photos, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        words = ("--vis", "viewer", "--viewer.websocket-port", port, "sfm")
        refused(typed("3dgs", "--data", photos, *words), monkeypatch, f"port {port}.*in use")
    require_port("127.0.0.1", port)
    with pytest.raises(OSError, match="port 70000"):
        require_port("127.0.0.1", 70000)


@pytest.mark.parametrize("method", ["vggt", "dust3r", "rayzer"])
def test_weights_may_stand_before_or_after_the_dataparser(photos, tmp_path, method):
    file = tmp_path / "my.safetensors"
    file.write_bytes(b"no weights, but a file")
    before = typed(method, "--data", photos, "--weights", file)
    after = typed(method, "--data", photos, method, "--weights", file)
    long = typed(method, "--data", photos, method, "--estimator.weights", file)
    for config in (before, after, long):
        config.pipeline.datamanager.data = config.data
        config.set_timestamp()
        assert config.pipeline.datamanager.dataparser.estimator.weights == str(file)
    both = typed(method, "--data", photos, "--weights", "a", method, "--weights", "b")
    with pytest.raises(SystemExit, match="--weights a .*--weights b after"):
        both.set_timestamp()


def test_weights_of_lvsm_may_stand_in_the_short_form(tmp_path):
    config = typed("lvsm", "--weights", "my.safetensors")
    with pytest.raises(SystemExit):  # There is no scene.
        config.set_timestamp()
    assert config.pipeline.model.weights == "my.safetensors"


def test_weights_without_a_network_are_refused(photos, monkeypatch):
    config = typed("3dgs", "--data", photos, "sfm", "--weights", "x")
    refused(config, monkeypatch, "--weights x .*sfm, which is no network")
    config = typed("vggt", "--data", photos, "--weights", "x", "sfm")
    refused(config, monkeypatch, "--weights x .*has no network")


def test_a_run_that_is_refused_later_leaves_nothing_either(photos, monkeypatch):
    (photos / "damaged.png").write_bytes(b"no picture")
    config = typed("3dgs", "--data", photos, "--vis", "tensorboard", "sfm")
    with pytest.raises(SystemExit, match="damaged.png"):
        train.main(config)
    assert not Path("outputs").exists()


def test_only_what_the_refused_run_wrote_is_removed(tmp_path):
    outputs = tmp_path / "outputs"
    run, other = outputs / "a" / "3dgs" / "now", outputs / "a" / "nerf"
    for folder in (run, other):
        folder.mkdir(parents=True)
    (run / "config.yml").write_text("")
    forget_refused(run, outputs)
    assert not run.exists() and not run.parent.exists() and other.exists()
    run.mkdir(parents=True)
    (run / "config.yml").write_text("")
    (run / "eval.json").write_text("")  # Of an earlier run of that name.
    forget_refused(run, outputs)
    assert sorted(path.name for path in run.iterdir()) == ["config.yml", "eval.json"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["3dgs", "--max-num-iterations", "77"], "3dgs on cpu: 77 steps"),
        (["3dgs"], "3dgs on cpu: 700 steps"),
        (["nerf", "--max-num-iterations", "77"], "nerf on cpu: 77 steps"),
        (["nerf-vanilla", "--max-num-iterations", "77"], "nerf-vanilla on cpu: 77 steps"),
    ],
)
def test_what_was_chosen_is_said_once(photos, capsys, words, said):
    config = typed(*words, "--machine.device-type", "cpu", "--data", photos, "sfm")
    config.pipeline.datamanager.data = config.data
    config.set_timestamp()
    assert capsys.readouterr().out.count(said) == 1
    config.resolve()  # As the trainer does again.
    assert said not in capsys.readouterr().out


def test_the_config_is_not_printed_to_a_log(photos, capsys):
    typed("3dgs", "--data", photos, "sfm").print_to_terminal()
    assert capsys.readouterr().out == ""
