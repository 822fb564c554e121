"""The processes that train one network: how they meet, what they agree on, how they part.

torchrun starts them on processors and GPUs, nerfstudio's launcher on GPUs. The first one (rank 0)
alone speaks and writes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float64
from nerfstudio.utils import comms
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.effort import cores
from fm3d_plugins.running.machine import MachineConfig, is_torchrun, num_processes

TIMEOUT = timedelta(minutes=30)
"""That processes wait for each other, as nerfstudio's do."""

AUTO = "auto"
NO_RANK = -1


@dataclass
class MachinesConfig(MachineConfig):
    """Where to train: on one machine or several, with a process for each device."""

    device_type: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # type: ignore[assignment]
    """auto: CUDA when there is a CUDA device, otherwise the CPU."""
    num_devices: int = 1
    """GPUs of each machine, a process for each. 1 under torchrun, which starts processes itself."""
    num_machines: int = 1
    """How many machines train together; each is given this command, with its rank."""
    machine_rank: int = NO_RANK
    """Which of the machines this is, from 0 on."""
    dist_url: str = AUTO
    """Where the machines meet: tcp://HOST:PORT, a free port of the first one."""

    def resolve(self) -> None:
        """Refuse devices that are not there or that nobody can train on.

        Raises:
            ValueError: They are.
        """
        if self.num_machines == 1 and self.machine_rank == NO_RANK:
            self.machine_rank = 0
        here = local_count() if is_torchrun() else self.num_devices
        if is_torchrun() and self.num_devices * self.num_machines > 1:
            raise ValueError(
                f"torchrun started {here} processes here, and --machine. asks for "
                f"{self.num_machines} machines with {self.num_devices} devices. Expected one of "
                "both. Leave out --machine.num-devices and --machine.num-machines."
            )
        if self.count() == 1:
            return
        if self.device_type == "cuda" and here > torch.cuda.device_count():
            raise ValueError(
                f"{here} processes on this machine were asked for, which has "
                f"{torch.cuda.device_count()} CUDA devices. Expected one for each process. Ask for "
                "fewer."
            )
        if self.device_type != "cuda" and not (is_torchrun() and self.device_type == "cpu"):
            raise ValueError(
                f"{self.count()} processes on {self.device_type} were asked for. Expected CUDA "
                "devices, or on processors torchrun: torchrun --standalone --nproc-per-node 2 "
                "--no-python ns-train ... --machine.device-type cpu"
            )
        if self.num_machines == 1:
            return
        is_known = self.dist_url != AUTO and 0 <= self.machine_rank < self.num_machines
        if not is_known:
            raise ValueError(
                f"Found --machine.machine-rank {self.machine_rank} and --machine.dist-url "
                f"{self.dist_url} with {self.num_machines} machines. Expected a rank from 0 to "
                f"{self.num_machines - 1}, another on each, and the same tcp://HOST:PORT on all."
            )

    def count(self) -> int:
        """Processes that train together."""
        return num_processes(self)


def local_count() -> int:
    """Processes that torchrun started on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"])


@contextmanager
def one_voice() -> Iterator[None]:
    """Within, of the processes of torchrun the first one alone speaks.

    What ends the program is said by the first one of each machine, as files and devices differ.
    """
    if not is_torchrun():
        yield
        return
    CONSOLE.quiet = os.environ["RANK"] != "0"
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, str) and os.environ["LOCAL_RANK"] != "0":
            raise SystemExit(1) from None
        raise


def meet(device_type: str, timestamp: str) -> str:
    """Join the processes of torchrun.

    Returns:
        The time by which the run's folder is named: of the process that came first, also in a job
        that is started again.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, attempt = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"]
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        address, port, is_master=rank == 0 and not is_served, timeout=TIMEOUT
    )
    agreed = store.compare_set("fm3d_timestamp", "", timestamp).decode()
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # torchrun keeps the store when it starts processes again; what the last ones left would hold
    # the new ones up.
    dist.init_process_group(
        "nccl" if device_type == "cuda" else "gloo",
        store=dist.PrefixStore(f"fm3d_{attempt}", store),  # pyright: ignore[reportPrivateImportUsage]
        rank=rank,
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=TIMEOUT,
    )
    return agreed


def settle(device_type: str, local_rank: int, count: int) -> int:
    """Let this process use its device, and its share of the machine's cores.

    Args:
        local_rank: As nerfstudio's launcher counts; under torchrun, it knows of one process.
        count: Processes on this machine.

    Returns:
        Which of the machine's processes this is.
    """
    if is_torchrun():
        local_rank, count = int(os.environ["LOCAL_RANK"]), local_count()
    CONSOLE.quiet = not comms.is_main_process()
    if count > 1:
        if device_type == "cuda":
            torch.cuda.set_device(local_rank)
        torch.set_num_threads(max(1, cores() // count))
    return local_rank


@contextmanager
def together() -> Iterator[None]:
    """Within, processes need each other: when one is gone the others end too, and one says so.

    Raises:
        SystemExit: One is gone.
    """
    try:
        yield
    except RuntimeError as error:
        is_lost = isinstance(error, dist.DistError) or "gloo" in str(error)
        if comms.get_world_size() == 1 or not is_lost:
            raise
        message = (
            "Error: another process of this run has ended, so this one ends too. The last "
            "checkpoint is kept. Go on from it with --load-dir; torchrun --max-restarts does so "
            "by itself."
        )
        raise SystemExit(message if comms.is_main_process() else 1) from error
    if is_torchrun():
        dist.barrier()
        dist.destroy_process_group()


def mean(values: Sequence[float | Tensor]) -> Float64[Tensor, " value"]:
    """Of each value over the processes, equal on all of them."""
    numbers = torch.tensor([float(value) for value in values], dtype=torch.float64)
    if comms.get_world_size() == 1:
        return numbers
    shared = numbers.to(_device())
    dist.all_reduce(shared)
    return shared.cpu() / comms.get_world_size()


def largest(value: int) -> int:
    """Of a number over the processes."""
    if comms.get_world_size() == 1:
        return value
    shared = torch.tensor(value, device=_device())
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def share_of(total: int) -> slice:
    """Of things in a row, those of this process: as many as others have, or one more or less."""
    rank, count = comms.get_rank(), comms.get_world_size()
    return slice(total * rank // count, total * (rank + 1) // count)


def _device() -> Any:
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
