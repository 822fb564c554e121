"""Two processes learn what one does: the same scenes, gradients, weights, scores and files."""

import csv
import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from fm3d_plugins.network_training import processes
from fm3d_plugins.network_training.sharding import check_sharding
from fm3d_plugins.nn import muon
from tests.network_training import two_processes
from tests.network_training.two_processes import (
    LOOKED_AT,
    METHODS,
    STEPS,
    STOP,
    gradients_of,
    prepared,
    tiny_config,
    with_all_digits,
)

EXACT = 1e-5
"""Of the norm: float32 in another order. Measured: 2e-6 and less."""


def environment(rank):
    """As torchrun sets it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    own |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_RESTART_COUNT": 0}
    return {name: str(value) for name, value in own.items()}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of whole runs of one process, with all checkpoints."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(muon, "choose_precision", with_all_digits)
        for name in ("vggt", "lvsm"):
            config = tiny_config(folder / "one" / name, name)
            config.steps_per_save, config.save_only_latest_checkpoint = STOP, False
            prepared(config).train()
    return folder


@pytest.fixture(scope="module")
def two(one):
    """What two processes left, and how they ended."""
    try:
        check_sharding(2)
    except ValueError as old:
        pytest.skip(str(old))
    folder, shared = one, environment(0)
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", two_processes.__file__, "main", folder],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in started]
    assert (folder / "gradients1.pt").is_file(), said
    gradients = [torch.load(folder / f"gradients{rank}.pt") for rank in (0, 1)]
    return folder, gradients, [process.returncode for process in started], said


def state_of(folder, step):
    (path,) = folder.rglob(f"step-{step:09d}.ckpt")
    return torch.load(path, weights_only=True)


def rows_of(folder):
    (path,) = folder.rglob("steps.csv")
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_one_process_on_the_joint_batch(name, two, tmp_path):
    """Truth: three scenes, one in the first process and two in the other; copies and parts."""
    trainer = prepared(tiny_config(tmp_path, name))
    for number, step in enumerate(LOOKED_AT):
        expected = gradients_of(trainer, step)
        used = {key for key, value in expected["gradients"].items() if value is not None}
        size = torch.stack([expected["gradients"][key].norm() for key in used]).norm()
        for shard in (False, True):
            first, second = (each[name, shard][number] for each in two[1])
            assert len(first["lenses"]) == 1 and len(second["lenses"]) == 2
            assert first["lenses"] + second["lenses"] == expected["lenses"]
            assert (first["loss"] + second["loss"]) / 2 == pytest.approx(expected["loss"], EXACT)
            for key, gradient in expected["gradients"].items():
                ours, theirs = first["gradients"][key], second["gradients"][key]
                if key in used:
                    assert torch.equal(ours, theirs), key
                    assert (ours - gradient).norm() < EXACT * size, key
                else:  # As in one process, an optimiser leaves it alone.
                    assert ours is None and theirs is None, key


def test_the_first_process_alone_writes(two):
    folder, _, _, said = two
    assert (folder / "rank0").is_dir() and not (folder / "rank1").exists()
    assert "Held out at" in said[0] and "Held out at" not in said[1]


def close(ours, theirs):
    """Within what Muon, whose steps are all of one size, makes of a last digit."""
    for name, value in theirs.items():
        if not name.endswith("seconds"):
            torch.testing.assert_close(ours[name], value, atol=1e-4, rtol=1e-4, msg=name)


def test_a_divided_network_goes_on_from_a_checkpoint_of_one_process_and_ends_alike(one, two):
    """Truth: weights, their mean, both optimisers' states and the scores are those of one run."""
    ours = state_of(two[0] / "rank0" / "divided", STEPS - 1)
    theirs = state_of(one / "one" / "vggt", STEPS - 1)
    close(ours["pipeline"], theirs["pipeline"])
    for group in ("matrices", "others"):
        states, expected = (each["optimizers"][group]["state"] for each in (ours, theirs))
        assert states.keys() == expected.keys()
        for number, values in expected.items():
            close(states[number], {k: v for k, v in values.items() if torch.is_tensor(v)})
    scores, expected = (
        json.loads(next(folder.rglob("eval.json")).read_text())["results"]
        for folder in (two[0] / "rank0" / "divided", one / "one" / "vggt")
    )
    assert scores["16px_abs_rel"] == pytest.approx(expected["16px_abs_rel"], 1e-2)


def test_one_process_reads_what_a_divided_run_left(two, tmp_path):
    """As export and scores do, with the run's own config."""
    config = tiny_config(tmp_path, "vggt", shard=True)
    pipeline = config.pipeline.setup(device="cpu", test_mode="inference")
    state = state_of(two[0] / "rank0" / "divided", STEPS - 1)["pipeline"]
    pipeline.load_pipeline(state, STEPS - 1)
    for name, value in pipeline.model.state_dict().items():
        assert torch.equal(value, state[f"_model.{name}"]), name


def test_one_process_that_is_asked_to_end_stops_both_after_one_step(one, two, monkeypatch):
    """And one process goes on from their checkpoint to what it would have come to by itself."""
    folder, _, codes, _ = two
    assert codes == [128 + 15] * 2
    stopped = folder / "rank0" / "stopped"
    rows, expected = rows_of(stopped), rows_of(one / "one" / "lvsm")
    assert [int(row["step"]) for row in rows] == list(range(STOP + 1))
    for ours, theirs in zip(rows, expected[: STOP + 1], strict=True):
        assert ours["num_scenes"] == theirs["num_scenes"] == "3"
        for name in ("loss", "gradient_norm"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), 1e-4)
    monkeypatch.setattr(muon, "choose_precision", with_all_digits)
    config = tiny_config(stopped, "lvsm")
    (config.load_dir,) = stopped.rglob("nerfstudio_models")
    prepared(config).train()
    close(state_of(stopped, STEPS - 1)["pipeline"],
          state_of(one / "one" / "lvsm", STEPS - 1)["pipeline"])  # fmt: skip


@pytest.mark.slow
def test_a_killed_process_ends_the_job_with_one_line_and_torchrun_goes_on(tmp_path):
    """Truth: steps and scores of a run without a stop, in one folder; it was at its third step."""
    torchrun = "--standalone --nproc-per-node 2 --max-restarts 1 --monitor-interval 0.1"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", *torchrun.split(),
         two_processes.__file__, "killed_once", tmp_path],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Error: another process of this run has ended") == 1
    assert [int(row["step"]) for row in rows_of(tmp_path)] == list(range(STEPS))
    assert state_of(tmp_path, STEPS - 1)["step"] == STEPS - 1
    assert done.stdout.count("lvsm-train is done") == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_disjoint_whole_and_of_nearly_one_size(count, monkeypatch):
    monkeypatch.setattr(processes.comms, "get_world_size", lambda: count)
    shares = []
    for rank in range(count):
        monkeypatch.setattr(processes.comms, "get_rank", lambda rank=rank: rank)
        shares.append(list(range(7)[processes.share_of(7)]))
    assert sum(shares, []) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
