"""Runs in pieces of some minutes."""

import copy
import json
import shlex
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import tyro
from safetensors import safe_open

from fm3d_plugins.checkpoints import locate
from tests.network_training.conftest import train
from tests.network_training.tiny_runs import NETWORKS, tiny_run

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4
NO_TIME = 1e-6
"""Minutes, enough for one step."""


def state_of(trainer):
    path = trainer.checkpoint_dir / f"step-{STEPS - 1:09d}.ckpt"
    return torch.load(path, weights_only=True)


def test_pieces_of_a_run_together_are_the_run(tmp_path, capsys):
    """Truth: the same command, three times; weights and optimisers are bit for bit those of one."""
    whole = train(tiny_run("vggt", tmp_path / "whole", STEPS))
    capsys.readouterr()
    config = tiny_run("vggt", tmp_path / "pieces", STEPS)
    for step, minutes in ((0, NO_TIME), (1, NO_TIME), (STEPS - 1, 10.0)):
        config.max_minutes = minutes
        trainer = train(copy.deepcopy(config))
        (kept,) = trainer.checkpoint_dir.glob("*.ckpt")
        assert kept.stem == f"step-{step:09d}"
        said = capsys.readouterr().out
        is_last = step == STEPS - 1
        assert ("ends at step" in said) != is_last and ("is done" in said) == is_last
        assert (trainer.base_dir / "eval.json").is_file() == is_last
    expected, found = state_of(whole), state_of(trainer)
    for name, value in expected["pipeline"].items():
        if not name.endswith("seconds"):
            assert torch.equal(found["pipeline"][name], value), name
    for group, optimizer in expected["optimizers"].items():
        for number, parts in optimizer["state"].items():
            ours = found["optimizers"][group]["state"][number]
            assert all(torch.equal(torch.as_tensor(ours[n]), torch.as_tensor(v))
                       for n, v in parts.items())  # fmt: skip


def test_pieces_that_would_not_find_each_other_are_refused(tmp_path):
    config = tiny_run("lvsm", tmp_path, 1)
    config.max_minutes, config.timestamp = 1.0, "{timestamp}"
    with pytest.raises(SystemExit, match="--timestamp NAME"):
        config.set_timestamp()


DIFFERS = {
    # As the packaged files tell, what they began with is no longer there.
    "model": {"weights", "parts_of", "matching_weights", "default_steps", "warm_steps"},
    "datamanager": {"filters", "num_steps"},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_make_trains_with_the_recipe_of_the_packaged_weights(network):
    """Truth: the options that the file of the weights tells."""
    make = ["make", "-n", "train-small-gpu", f"NETWORKS={network}"]
    printed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = next(line for line in printed.splitlines() if "ns-train" in line)
    words = shlex.split(command.partition("ns-train")[2].partition(";")[0])
    base = copy.deepcopy(NETWORKS[network][1].config)
    config = tyro.cli(type(base), default=base, args=words[1:])
    with safe_open(locate(f"{network}-small").path, framework="pt") as file:
        story = json.loads(file.metadata()["provenance"])
    told, ours = story["options"], asdict(config.pipeline)
    assert words[0] == story["method"]
    assert config.max_num_iterations == story["steps_of_the_plan"]
    assert (config.machine.seed, config.skip_norm) == (told["seed"], told["skip_norm"])
    for part, differs in DIFFERS.items():
        for name, value in told[part].items():
            if name not in differs:
                assert plain(ours[part][name], value) == value, name
    for group, parts in told["optimizers"].items():
        own = config.optimizers[group]["optimizer"]
        assert all(getattr(own, n) == v for n, v in parts["optimizer"].items())


def plain(ours, told):
    """A value as JSON has it; options that the file is older than do not count."""
    if isinstance(told, dict):
        return {name: plain(ours[name], value) for name, value in told.items()}
    return json.loads(json.dumps(ours))
