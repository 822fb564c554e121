"""Which devices and processes train."""

import os
from dataclasses import dataclass
from typing import Literal

import torch.distributed as dist
import tyro
from nerfstudio.configs import base_config


def is_torchrun() -> bool:
    """Whether torchrun started this process, alone or among others."""
    return dist.is_available() and dist.is_torchelastic_launched()


def num_processes(machine: base_config.MachineConfig) -> int:
    """That train together: those of torchrun, or of nerfstudio's launcher, one for each device."""
    if is_torchrun():
        return int(os.environ["WORLD_SIZE"])
    return machine.num_devices * machine.num_machines


@dataclass
class MachineConfig(base_config.MachineConfig):
    """Where to train."""

    device_type: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # type: ignore[assignment]
    """auto: CUDA when there is a CUDA device, otherwise the CPU."""

    num_devices: int = 1
    """Every method here trains on one; more are refused."""

    # nerfstudio's, of use with several devices only.
    num_machines: tyro.conf.Suppress[int] = 1
    machine_rank: tyro.conf.Suppress[int] = 0
    dist_url: tyro.conf.Suppress[str] = "auto"
