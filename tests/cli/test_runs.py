"""Commands on runs: what is broken ends in one line, and no file of the run is written over."""

import contextlib
import os
import shutil
import sys
from importlib.metadata import entry_points
from math import nan

import pytest
import torch

from fm3d_plugins.cli import main as cli
from fm3d_plugins.cli.runs import find_run, load_run

COMMANDS = {
    "show": ["--output", "{out}/result.png"],
    "evaluate": ["--test-poses", "none", "--output-path", "{out}/scores.json"],
    "film": ["--output", "{out}/film.mp4", "--frames", "2", "--num-keys", "2"],
    "export-cameras": ["--output-dir", "{out}/cameras"],
    "export": ["--output-dir", "{out}/exported"],
}


def run(command, folder, out, *more):
    words = [word.format(out=out) for word in COMMANDS[command]]
    cli.main([command, "--load-config", str(folder / "config.yml"), *words, *map(str, more)])


def refused(command, folder, out):
    """The message, which is one line, of a command that makes nothing."""
    out.mkdir(exist_ok=True)
    with pytest.raises(SystemExit) as caught:
        run(command, folder, out)
    message = str(caught.value)
    assert message.startswith("Error: ") and "\n" not in message
    assert os.listdir(out) == []
    return message


def checkpoint_of(folder):
    (path,) = (folder / "nerfstudio_models").glob("*.ckpt")
    return path


def test_run_that_was_moved_is_shown_from_where_it_is(small_run, trained_once, tmp_path, capsys):
    shutil.move(trained_once[1] / "nerfstudio_models", trained_once[1] / "away")
    try:
        (small_run / "nerfstudio_models" / ".DS_Store").touch()
        (small_run / "nerfstudio_models" / "notes.txt").touch()
        (small_run / "nerfstudio_models" / "step-x.ckpt").touch()
        run("show", small_run, tmp_path)
    finally:
        shutil.move(trained_once[1] / "away", trained_once[1] / "nerfstudio_models")
    assert (tmp_path / "result.png").is_file()
    assert "PSNR of" in capsys.readouterr().out


def test_loaded_run_is_that_of_nerfstudios_own_loader(small_run):
    from nerfstudio.utils.eval_utils import eval_setup

    ours = load_run(small_run / "config.yml")[1].state_dict()
    theirs = eval_setup(small_run / "config.yml")[1].state_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("content", ["", "a: 1", "!!python/object/apply:os.system ['exit']"])
def test_config_of_another_program_ends_in_one_line(command, content, small_run, tmp_path):
    (small_run / "config.yml").write_text(content)
    assert "config.yml" in refused(command, small_run, tmp_path / "out")


def edit_state(path, edit):
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)


def damages():
    """By what is said: what is done to the run's folder."""

    def remove(folder):
        shutil.rmtree(folder / "nerfstudio_models")
        (folder / "nerfstudio_models").mkdir()

    def cut(folder):
        path = checkpoint_of(folder)
        path.write_bytes(path.read_bytes()[:1000])

    def empty(folder):
        checkpoint_of(folder).write_bytes(b"")

    def foreign(folder):
        torch.save([1, 2], checkpoint_of(folder))

    def with_code(folder):
        torch.save({"pipeline": refused}, checkpoint_of(folder))

    def not_finite(folder):
        def edit(state):
            state["pipeline"]["_model.gauss_params.means"][3, 1] = torch.nan

        edit_state(checkpoint_of(folder), edit)

    def rows(folder):
        def edit(state):
            state["pipeline"]["_model.gauss_params.opacities"] = torch.zeros(3, 1)

        edit_state(checkpoint_of(folder), edit)

    def lacking(folder):
        edit_state(
            checkpoint_of(folder), lambda state: state["pipeline"].pop("_model.gauss_params.means")
        )

    def strange(folder):
        edit_state(
            checkpoint_of(folder),
            lambda state: state["pipeline"].update({"_model.x": torch.zeros(1)}),
        )

    def pipe(folder):
        checkpoint_of(folder).unlink()
        os.mkfifo(folder / "nerfstudio_models" / "step-000000001.ckpt")

    def method(folder):
        text = (folder / "config.yml").read_text()
        (folder / "config.yml").write_text(text.replace("method_name: 3dgs", "method_name: what"))

    def half(folder):
        text = (folder / "config.yml").read_text()
        (folder / "config.yml").write_text(text[: text.index("pipeline: ")])

    return {
        "holds no checkpoint": remove,
        "step-000000001.ckpt cannot be read": cut,
        "step-000000001.ckpt cannot be read (": empty,
        "holds no tensors of a pipeline": foreign,
        "ckpt cannot be read": with_code,
        "not finite: _model.gauss_params.means (1 of": not_finite,
        "rows. Expected as many of each": rows,
        "lacks _model.gauss_params.means": lacking,
        "holds _model.x that the model has not": strange,
        "holds no checkpoint of the run": pipe,
        "method 'what', which is not installed": method,
        "config.yml": half,
    }


@pytest.mark.parametrize("said", damages())
def test_damaged_run_ends_in_one_line(said, small_run, tmp_path):
    damages()[said](small_run)
    assert said in refused("show", small_run, tmp_path / "out")


SPOILED = {
    "means .1 of 150": lambda state: (
        state["_model.gauss_params.means"].view(-1).__setitem__(7, nan)
    ),
    "rows. Expected as many of each": lambda state: state.update(
        {"_model.gauss_params.quats": torch.zeros(7, 4)}
    ),
    "means of the shape .50, 2.. Expected .'rows', 3": lambda state: state.update(
        {"_model.gauss_params.means": torch.zeros(50, 2)}
    ),
    "lacks _model.gauss_params.scales": lambda state: state.pop("_model.gauss_params.scales"),
    "holds no tensors": lambda state: state.update({"_model.gauss_params.means": 3}),
}


@pytest.mark.parametrize("said", SPOILED)
def test_nerfstudios_commands_take_no_damaged_checkpoint_either(said, small_run):
    """They hand what they read to the pipeline."""
    pipeline = load_run(small_run / "config.yml")[1]
    state = {name: values.clone() for name, values in pipeline.state_dict().items()}
    pipeline.load_pipeline(dict(state), 1)
    SPOILED[said](state)
    with pytest.raises(SystemExit, match=f"^Error: The checkpoint .*{said}"):
        pipeline.load_pipeline(state, 1)


@pytest.mark.parametrize("line", ["ns-render spiral", "ns-export pointcloud", "ns-export tsdf"])
def test_nerfstudios_command_on_a_run_ends_in_one_line(line, small_run, tmp_path, monkeypatch):
    out = "--output-path" if "render" in line else "--output-dir"
    words = [*line.split(), "--load-config", str(small_run / "config.yml"), out]
    monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "out")])
    command = next(iter(entry_points(group="console_scripts", name=line.split()[0]))).load()
    with pytest.raises(SystemExit, match=f"^Error: `{line}` cannot be used .*`(ns-export|fm3d)"):
        command()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_files_of_a_run_are_not_written_over(small_run, trained_once, tmp_path):
    photo = sorted((trained_once[0] / "images").iterdir())[1]
    for command, option, target in (
        ("show", "--output", photo),
        ("show", "--output", small_run / "config.yml"),
        ("film", "--output", photo),
        ("evaluate", "--output-path", photo),
        ("evaluate", "--output-path", small_run / "config.yml"),
    ):
        before = target.read_bytes()
        with pytest.raises(SystemExit, match="would be replaced"):
            run(command, small_run, tmp_path, option, target)
        assert target.read_bytes() == before


@pytest.mark.parametrize("command", ["export-cameras", "export"])
def test_folders_of_a_run_are_not_overwritten(command, small_run, trained_once, tmp_path):
    """The photos' folder was written by this package, so that its marker allows it."""
    photos = trained_once[0]
    for target, relation in (
        (photos, "is an input"),
        (photos / "images", "lies in an input"),
        (photos.parent, "holds an input"),
        (small_run, "(is|holds) an input"),
        (small_run / "nerfstudio_models", "(is|lies in) an input"),
        (small_run.parent, "holds an input"),
    ):
        before = sorted(path for path in target.rglob("*"))
        with pytest.raises(SystemExit, match=relation):
            run(command, small_run, tmp_path, "--output-dir", target, "--overwrite")
        assert sorted(path for path in target.rglob("*")) == before


def made_run(folder, seconds, checkpoint=True):
    """The files by which a run is found, begun at some time."""
    (folder / "nerfstudio_models").mkdir(parents=True)
    (folder / "config.yml").touch()
    os.utime(folder / "config.yml", (seconds, seconds))
    if checkpoint:
        (folder / "nerfstudio_models" / "step-000000001.ckpt").touch()
    return folder / "config.yml"


def test_newest_run_of_a_folder_is_found_at_every_level(tmp_path, capsys):
    outputs = tmp_path / "outputs"
    old = made_run(outputs / "photos" / "3dgs" / "latest", 3000)
    newest = made_run(outputs / "photos" / "3dgs" / "2024-01-01_000000", 4000)
    other = made_run(outputs / "photos" / "nerf" / "2025-01-01_000000", 2000)
    begun = made_run(outputs / "more" / "3dgs" / "2026-01-01_000000", 5000, checkpoint=False)
    for folder, found in (
        (outputs, newest),
        (outputs / "photos", newest),
        (outputs / "photos" / "3dgs", newest),
        (outputs / "photos" / "nerf", other),
        (outputs / "more", begun),
        (tmp_path, newest),
    ):
        assert find_run(folder) == found
        assert str(found) in capsys.readouterr().out
    for path, found in ((old, old), (old.parent, old), (tmp_path / "no.yml", tmp_path / "no.yml")):
        assert find_run(path) == found
        assert capsys.readouterr().out == ""
    find_run(outputs)
    said = capsys.readouterr().out
    assert "newest of 4 runs (without 1 newer ones that have no checkpoint)" in said
    with pytest.raises(
        FileNotFoundError, match="holds no config.yml.*Expected the folder of a run"
    ):
        find_run(old.parent / "nerfstudio_models")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_folder_of_outputs(
    command, small_run, tmp_path, monkeypatch, capsys
):
    made_run(tmp_path / "outputs" / "a" / "3dgs" / "x", 10, checkpoint=False)
    shutil.move(small_run, tmp_path / "outputs" / "a" / "3dgs" / "y")
    (tmp_path / "out").mkdir()
    words = [word.format(out=tmp_path / "out") for word in COMMANDS[command]]
    with contextlib.suppress(SystemExit):  # `export` asks for another method's run.
        cli.main([command, "--load-config", str(tmp_path / "outputs"), *words])
    assert f"The newest of 2 runs: {tmp_path}/outputs/a/3dgs/y" in capsys.readouterr().out
    assert command == "export" or len(os.listdir(tmp_path / "out")) == 1


@pytest.mark.parametrize("command", ["show", "film", "evaluate", "export-cameras"])
def test_place_below_a_file_is_refused_before_the_work(
    command, small_run, tmp_path, monkeypatch, capsys
):
    (tmp_path / "out").touch()
    monkeypatch.setattr("fm3d_plugins.camera_optimization.evaluation.score_held_out", None)
    monkeypatch.setattr("fm3d_plugins.camera_optimization.evaluation.held_out_views", None)
    with pytest.raises(SystemExit, match="Nothing can be written in .*out: .*out is a file"):
        run(command, small_run, tmp_path / "out")


def test_no_views_are_refused(small_run, tmp_path):
    with pytest.raises(SystemExit, match="--views is 0; expected at least 1"):
        run("show", small_run, tmp_path, "--views", 0)
