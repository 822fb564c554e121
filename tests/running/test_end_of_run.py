"""A run ends with its scores, pictures and next commands; stopped, it keeps its last step."""

import json
import os
import re
import shlex
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fm3d_plugins.running import open_viewer


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
def test_the_end_says_what_came_of_the_run(run_config, train_run, tmp_path, capsys, method):
    config = run_config(tmp_path, method)
    trainer = train_run(config)
    run, lines = tmp_path / "my sample" / method / "latest", capsys.readouterr().out.splitlines()
    scored = json.loads((run / "eval.json").read_text())
    # Scored again from the checkpoint, by what ns-eval calls.
    _, pipeline, checkpoint, _ = eval_setup(run / "config.yml", test_mode="test")
    again = pipeline.get_average_eval_image_metrics()
    for name in ("psnr", "ssim"):
        assert scored["results"][name] == pytest.approx(again[name], abs=1e-3), name
    assert scored["checkpoint"] == str(checkpoint)
    pictures = sorted(path.name for path in (run / "held_out").iterdir())
    assert pictures == ["0000_frame_0001.png", "0001_frame_0009.png"]
    with Image.open(run / "held_out" / pictures[0]) as picture:
        assert picture.width == 4 * 48 + 3 * 4
    last = "\n".join(lines[-9:])
    assert f"PSNR {again['psnr']:.2f} dB ({again['cc_psnr']:.2f} with colours fitted)" in last
    assert f"SSIM {again['ssim']:.3f}" in last
    assert str(run / "held_out") in last and "12 steps" in last
    size = f"{len(trainer.pipeline.model.means):,} splats" if method == "3dgs" else "parameters"
    assert size in last
    for word in ("ns-viewer", "ns-eval", "fm3d film", "ns-export"):
        command = re.search(rf"^[\w ]+: +({word} .*)$", last, re.MULTILINE)[1]
        assert str(run / "config.yml") in shlex.split(command)


def test_a_second_run_in_one_process_writes_nothing_into_the_first_one_s_folder(
    run_config, train_run, tmp_path
):
    folders = [train_run(run_config(tmp_path / name)).base_dir for name in ("first", "second")]
    taken = [EventAccumulator(str(folder)).Reload().Scalars("Train Loss") for folder in folders]
    assert [len(values) for values in taken] == [2, 2]  # Of steps 0 and 10.
    shutil.rmtree(folders[1])
    train_run(run_config(tmp_path / "third"))  # Though the log of the second has no folder now.


def test_held_out_psnr_is_logged_during_training(run_config, train_run, tmp_path):
    config = run_config(tmp_path, steps=41)
    trainer = train_run(config)
    events = EventAccumulator(str(trainer.base_dir)).Reload().Scalars("Test PSNR")
    assert events and events[0].step == 10  # Logged every tenth step; due from the second on.
    camera, batch = trainer.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    trainer.pipeline.eval()
    errors = [
        (trainer.pipeline.model.get_outputs_for_camera(camera)["rgb"] - batch["image"] / 255)
        for camera, batch in trainer.pipeline.datamanager.fixed_indices_eval_dataloader
    ]
    psnr = torch.stack([-10 * error.square().mean().log10() for error in errors]).mean()
    assert trainer.pipeline.held_out_psnr() == pytest.approx(float(psnr), abs=1e-3)


def test_looking_at_held_out_photos_changes_nothing(run_config, train_run, tmp_path, monkeypatch):
    looked = train_run(run_config(tmp_path / "a", steps=25)).pipeline.model.means.detach()
    monkeypatch.setattr("fm3d_plugins.training.HeldOutWatch.is_due", lambda *_: False)
    blind = train_run(run_config(tmp_path / "b", steps=25)).pipeline.model.means.detach()
    assert torch.equal(looked, blind)


def test_a_run_without_held_out_photos_ends_and_says_so(run_config, train_run, tmp_path, capsys):
    config = run_config(tmp_path, steps=2)
    config.pipeline.datamanager.dataparser.train_split_fraction = 1.0
    config.pipeline.datamanager.dataparser.eval_mode = "fraction"
    trainer = train_run(config)
    assert not (trainer.base_dir / "eval.json").exists()
    last = "\n".join(capsys.readouterr().out.splitlines()[-6:])
    assert "No photo is held out" in last and "ns-viewer" in last and "ns-eval" not in last


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_its_last_step_and_goes_on(
    run_config, tmp_path, capsys, number, status
):
    config = run_config(tmp_path, steps=500)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    step = trainer.train_iteration

    def signalled(count):
        if count == 7:
            os.kill(os.getpid(), number)  # In the midst of a step, which ends nonetheless.
        return step(count)

    trainer.train_iteration = signalled
    with pytest.raises(SystemExit) as stopped:
        trainer.train()
    assert stopped.value.code == status
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000007.ckpt"]
    line = capsys.readouterr().out.splitlines()[-1]
    assert "Stopped after step 7" in line
    assert shlex.split(line)[-2:] == ["--load-dir", str(trainer.checkpoint_dir)]
    assert not (trainer.base_dir / "eval.json").exists()
    more = run_config(tmp_path / "more", steps=3)
    more.load_dir = trainer.checkpoint_dir
    resumed = more.setup(local_rank=0, world_size=1)
    resumed.setup()
    assert torch.equal(resumed.pipeline.model.means, trainer.pipeline.model.means)
    resumed.train()
    assert [path.name for path in resumed.checkpoint_dir.iterdir()] == ["step-000000010.ckpt"]


def test_a_run_stopped_while_it_is_scored_is_kept(run_config, tmp_path, monkeypatch, capsys):
    trainer = run_config(tmp_path, steps=2).setup(local_rank=0, world_size=1)
    trainer.setup()

    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.pipeline, "get_average_eval_image_metrics", interrupted)
    with pytest.raises(SystemExit) as stopped:
        trainer.train()
    assert stopped.value.code == 130
    assert (trainer.checkpoint_dir / "step-000000001.ckpt").exists()
    assert "Stopped after step 1; a checkpoint of it is kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("is_terminal", "foreground", "expected"),
    [(True, 7, True), (True, 8, False), (False, 7, False)],
)
def test_only_a_terminal_in_front_can_stop_a_run(is_terminal, foreground, expected, monkeypatch):
    """Truth: Ctrl-C goes to the terminal's foreground group of processes."""
    stream = SimpleNamespace(isatty=lambda: is_terminal, closed=False, fileno=lambda: 0)
    monkeypatch.setattr(open_viewer, "sys", SimpleNamespace(stdin=stream, stdout=stream))
    monkeypatch.setattr(open_viewer.os, "tcgetpgrp", lambda _: foreground)
    monkeypatch.setattr(open_viewer.os, "getpgrp", lambda: 7)
    assert open_viewer.can_be_stopped_by_hand() == expected
    monkeypatch.setattr(open_viewer, "sys", SimpleNamespace(stdin=None, stdout=stream))
    assert not open_viewer.can_be_stopped_by_hand()


def test_without_a_terminal_an_open_viewer_does_not_hold_the_run(run_config, tmp_path, monkeypatch):
    trainer = run_config(tmp_path, steps=1).setup(local_rank=0, world_size=1)
    trainer.viewer_state = object()
    trainer._train_complete_viewer()  # Would wait for Ctrl-C.
