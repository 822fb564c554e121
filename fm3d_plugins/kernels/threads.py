"""Run one GIL-free kernel in several threads.

Why not Numba's `prange`: its OpenMP layer may bring a second OpenMP pool, and two pools spin
against each other; its built-in layer aborts the process when two threads call at once, and a
viewer does; and a parallel kernel takes several times longer to compile. Python threads sleep
while they wait, so a region costs tens of microseconds and nothing between regions. Work is handed
out inside the kernel by an atomic counter, so a kernel must give the same result for any assignment
of items to threads.

torch's own pool still spins for milliseconds after each of its parallel operations, on a core that
the kernels could use. Measured for a rendering pass between torch operations, 50k gaussians: 45 ms
of CPU time with one torch thread and two kernel threads, 60 to 75 ms with two and two. A program
that spends most of its time in kernels should call `set_num_threads(cores)` and
`torch.set_num_threads(1)`.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

_settings: dict[str, int | None] = {"num_threads": None}


def set_num_threads(num_threads: int | None) -> None:
    """Use this many threads for kernels from now on; None: as many as torch."""
    if num_threads is not None and num_threads < 1:
        raise ValueError(
            f"num_threads is {num_threads}. Expected at least 1, or None for as many as torch."
        )
    _settings["num_threads"] = num_threads


def get_num_threads() -> int:
    """How many threads a kernel may use."""
    return _settings["num_threads"] or torch.get_num_threads()


@lru_cache(maxsize=1)
def _pool(process_id: int) -> ThreadPoolExecutor:
    """The helper threads of this process: a fork inherits the object but not its threads."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fm3d-kernel")


def run_kernel(kernel: Callable[..., None], num_items: int, *arguments: object) -> None:
    """Call `kernel(counter, num_items, *arguments)` in `get_num_threads()` threads at once.

    Safe from several Python threads at the same time: a caller does all the work itself when the
    helpers are busy elsewhere.

    Args:
        kernel: Compiled by `compiled.kernel`; takes items by `simd.take(counter)` up to num_items.
        num_items: How many items there are; no more threads than items are used.
    """
    counter = np.zeros(1, np.int64)
    num_helpers = min(get_num_threads(), num_items) - 1
    if num_helpers < 1:
        kernel(counter, num_items, *arguments)
        return
    submit = _pool(os.getpid()).submit
    helpers = [submit(kernel, counter, num_items, *arguments) for _ in range(num_helpers)]
    try:
        kernel(counter, num_items, *arguments)
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()
