"""How much memory a device has left."""

from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def available_memory(device: torch.device) -> int:
    """Bytes that can still be taken: on CUDA what the driver reports, else the machine's.

    On Linux a container's own limit counts too, where it is lower than the machine's memory.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(min(psutil.virtual_memory().available, _left_in_container()))


def _left_in_container() -> float:
    """Bytes below the limit of cgroup v2; infinity where there is none."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        # Pages of files that the kernel can drop count as used there.
        statistics = dict(
            line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines()
        )
    except (OSError, ValueError):
        return float("inf")
    reclaimable = int(statistics.get("inactive_file", 0))
    return float("inf") if limit == "max" else max(0, int(limit) - used + reclaimable)
