"""What benchmarks have in common: what they run on, random networks, and runs in turns."""

import json
import subprocess
import sys


def describe(threads: int) -> str:
    """Processor, what torch uses of it, and torch itself: what figures hold for."""
    import torch

    from fm3d_plugins.nn.fastest import processor

    capability = torch.backends.cpu.get_cpu_capability()
    return f"{processor()}, {capability}, torch {torch.__version__}, threads: {threads}"


def gpu() -> str:
    """The GPU that torch sees first and its memory, or that there is none."""
    import torch

    if not torch.cuda.is_available():
        return "no GPU"
    known = torch.cuda.get_device_properties(0)
    return f"{known.name} ({known.total_memory / 2**30:.0f} GiB), CUDA {torch.version.cuda}"


def draw_weights(network, precision):
    """Give a network on the meta device random weights, its matrices in a type; returns it."""
    import torch

    torch.manual_seed(0)
    matrices = network.matrix_names()
    for name, parameter in list(network.named_parameters()):
        module, _, attribute = name.rpartition(".")
        dtype = precision if name in matrices else torch.float32
        value = torch.empty(parameter.shape, dtype=dtype)
        if parameter.ndim == 1 and attribute in ("weight", "gamma"):
            value.fill_(1.0 if attribute == "weight" else 0.1)
        else:
            value.uniform_(-1, 1).mul_(parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.02)
        setattr(network.get_submodule(module), attribute, torch.nn.Parameter(value))
    return network


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
