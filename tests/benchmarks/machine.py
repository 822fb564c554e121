"""Measuring two programs against each other, each run in a process of its own."""

import json
import subprocess
import sys


def describe(threads: int) -> str:
    """Processor, what torch uses of it, and torch itself: what figures hold for."""
    import torch

    from fm3d_plugins.nn.fastest import processor

    capability = torch.backends.cpu.get_cpu_capability()
    return f"{processor()}, {capability}, torch {torch.__version__}, threads: {threads}"


def in_turns(script: str, settings: dict[str, dict], rounds: int) -> dict[str, dict]:
    """Run a script as `script --here SETTING` in turns; of each setting the run of least CPU.

    The script prints a dictionary with `cpu_seconds` as JSON in its last line.
    """
    best: dict[str, dict] = {}
    for _ in range(rounds):
        for name, setting in settings.items():
            command = [sys.executable, script, "--here", json.dumps(setting)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            if name not in best or row["cpu_seconds"] < best[name]["cpu_seconds"]:
                best[name] = row
    return best
