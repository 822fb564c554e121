"""CPU seconds that `ns-train --help` takes with and without this package's entry points.

python tests/benchmarks/bench_startup.py [--repeats N]
"""

import argparse
import resource
import subprocess
import sys

SCRIPT = """
import importlib.metadata as metadata, sys
everything = metadata.entry_points
def others(**selection):
    found = everything(**selection)
    if not selection:
        return found
    return metadata.EntryPoints(p for p in found if not p.value.startswith("fm3d_plugins"))
if sys.argv.pop() == "without":
    metadata.entry_points = others
sys.argv = ["ns-train", "--help"]
from nerfstudio.scripts.train import entrypoint
entrypoint()
"""


def cpu_seconds(which: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, which],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    runs = [(cpu_seconds("with"), cpu_seconds("without")) for _ in range(repeats + 1)][1:]
    with_it, without = (min(run[i] for run in runs) for i in range(2))
    print(
        f"ns-train --help: {with_it:.2f} CPU-s with, {without:.2f} without, "
        f"{with_it - without:+.2f} (minimum of {repeats}, interleaved)"
    )


if __name__ == "__main__":
    main()
