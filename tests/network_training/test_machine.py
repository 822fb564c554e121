"""Devices and processes that cannot train together are refused in one line, before any starts."""

import pytest
import torch

from fm3d_plugins.network_training.processes import MachinesConfig, one_voice
from tests.network_training.two_processes import tiny_config

ELASTIC = {
    "TORCHELASTIC_RUN_ID": "test", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
}  # fmt: skip
TWO_GPUS = {"device_type": "cuda", "num_devices": 2}


@pytest.fixture
def under_torchrun(monkeypatch):
    for name, value in ELASTIC.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TWO_GPUS | {"num_devices": 3}, "has 2 CUDA devices"),
        ({"device_type": "cpu", "num_devices": 2}, "on processors torchrun: torchrun --standalone"),
        ({"device_type": "mps", "num_devices": 2}, "2 processes on mps"),
        (TWO_GPUS | {"num_machines": 2, "dist_url": "tcp://a:1"}, "machine-rank -1"),
        (TWO_GPUS | {"num_machines": 2, "machine_rank": 2, "dist_url": "tcp://a:1"}, "from 0 to 1"),
        (TWO_GPUS | {"num_machines": 2, "machine_rank": 1}, "dist-url auto"),
    ],
)
def test_devices_that_are_not_there_or_do_not_meet_are_refused(options, message, two_gpus):
    with pytest.raises(ValueError, match=message):
        MachinesConfig(**options).resolve()


def test_processes_are_counted_over_all_machines(two_gpus):
    machine = MachinesConfig(**TWO_GPUS, num_machines=3, machine_rank=2, dist_url="tcp://a:1")
    machine.resolve()
    assert machine.count() == 6
    alone = MachinesConfig(device_type="cpu")
    alone.resolve()
    assert alone.count() == 1 and alone.machine_rank == 0


def test_torchrun_counts_processes_and_nobody_else(under_torchrun, two_gpus):
    machine = MachinesConfig(device_type="cpu")
    machine.resolve()
    assert machine.count() == 4
    for options in ({"num_devices": 2}, {"num_machines": 2}):
        with pytest.raises(ValueError, match="torchrun started 2 processes here"):
            MachinesConfig(device_type="cpu", **options).resolve()
    with pytest.raises(ValueError, match="2 processes on this machine"):
        torch.cuda.device_count = lambda: 1  # Undone with `two_gpus`.
        MachinesConfig(device_type="cuda").resolve()


@pytest.mark.parametrize(
    ("shard", "scenes", "message"),
    [
        (False, 3, "have 3 scenes, and 4 processes"),
        (True, 4, "needs torch 2.9"),
    ],
)
def test_what_so_many_processes_cannot_do_is_refused(shard, scenes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    pipeline = tiny_config(tmp_path, "lvsm", shard).pipeline
    pipeline.datamanager.scenes_per_step = scenes
    with pytest.raises(ValueError, match=message):
        pipeline.check_processes(4)


def test_a_network_is_not_divided_for_one_process(tmp_path):
    with pytest.raises(SystemExit, match="there is one. Expected at least two"):
        tiny_config(tmp_path, "lvsm", shard=True).set_timestamp()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rank", "expected"), [("0", "broken"), ("1", 1)])
def test_one_process_of_a_machine_says_what_ends_the_run(rank, expected, under_torchrun,
                                                         monkeypatch):  # fmt: skip
    monkeypatch.setenv("LOCAL_RANK", rank)
    from nerfstudio.utils.rich_utils import CONSOLE

    monkeypatch.setattr(CONSOLE, "quiet", False)
    with pytest.raises(SystemExit) as end, one_voice():
        assert CONSOLE.quiet
        raise SystemExit("broken")
    assert end.value.code == expected
