"""Images per second of a network in training: one process on one core, two on a core each.

    python tests/benchmarks/bench_parallel.py [--method lvsm-train] [--steps 4] [--rounds 3]

Both do the recipe's first steps, with the same scenes in a step. They run in turns; of each the
fastest step counts, in which nobody else was in the way. Beside it the least CPU seconds of a step,
of all processes together: what is lost where these grow is work that both do.
"""

import argparse
import copy
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

from machine import describe


def step_seconds(name: str, steps: int, output: Path) -> list[tuple[float, float]]:
    """Wall clock and CPU seconds of some steps, the first left out."""
    import torch

    module = import_module(f"fm3d_plugins.method_configs.{name.replace('-', '_')}")
    config = copy.deepcopy(module.method.config)
    config.output_dir, config.timestamp, config.vis = output, "run", "none"
    config.machine.device_type = "cpu"
    config.set_timestamp()
    config.save_config()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    torch.manual_seed(0)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.table = type("Nowhere", (), {"add": lambda *_: None})()
    torch.set_num_threads(1)
    found = []
    for step in range(steps + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.train_iteration(step)
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return found[1:]


def measured(name: str, steps: int, count: int) -> tuple[float, float]:
    """Least wall clock of a step of some processes, and their least CPU seconds together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared |= {"TORCHELASTIC_RUN_ID": "bench", "TORCHELASTIC_RESTART_COUNT": "0"}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    with tempfile.TemporaryDirectory() as folder:
        here = json.dumps({"name": name, "steps": steps, "output": folder})
        started = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", __file__, "--here", here],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE, text=True,
            )
            for rank in range(count)
        ]  # fmt: skip
        said = [process.communicate()[0].splitlines()[-1] for process in started]
    rows = [json.loads(line) for line in said]
    walls = [max(each[0] for each in step) for step in zip(*rows, strict=True)]
    cpus = [sum(each[1] for each in step) for step in zip(*rows, strict=True)]
    return min(walls), min(cpus)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", default="lvsm-train")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        here = json.loads(options.here)
        rows = step_seconds(here["name"], here["steps"], Path(here["output"]))
        print(json.dumps(rows))
        return
    found = {1: [], 2: []}
    for _ in range(options.rounds):
        for count, rows in found.items():
            rows.append(measured(options.method, options.steps, count))
    best = {count: tuple(map(min, *rows, rows[0])) for count, rows in found.items()}
    print(describe(1), "load:", os.getloadavg())
    for count, (wall, cpu) in best.items():
        print(f"{options.method}, {count} processes: step {wall:.2f} s, CPU {cpu:.2f} s")
    print(f"images/s of two over one: {best[1][0] / best[2][0]:.2f}, ", end="")
    print(f"CPU seconds of two over one: {best[2][1] / best[1][1]:.2f}")


if __name__ == "__main__":
    main()
