"""What only a GPU can tell, in at most nine minutes: is it right, how fast, does the memory do.

    python tests/benchmarks/gpu_check.py [--json gpu_check.json] [--only PART ...] [--again]
        [--scene FOLDER]

Every part runs in a process of its own with a limit on its time. Its result is in the file as soon
as it ends: run again after an interruption, the parts that are done are not repeated (--again
repeats them), those that failed or were skipped are. All results are printed as a table at the end.
Without a GPU a small form of every part runs on the CPU, which tells that the script works and
nothing else. gsplat compiles its kernels on first use: let that happen before, or its parts fail.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from machine import describe, gpu

from fm3d_plugins.atomic import atomic_write

LIMITS = {
    "parity": 60,
    "3dgs": 90,
    "splatfacto": 90,
    "nerf": 60,
    "nerf-tinycudann": 60,
    "vggt": 80,
    "dust3r": 40,
    "lvsm": 40,
    "rayzer": 30,
}
"""Seconds that each part may take; together nine minutes."""

SMALL = "small form on the CPU: its figures mean nothing"
WHOLE = "on the GPU"

Outcome = dict
"""`state` (done, skipped or failed), `seconds`, and `rows` or a `reason`."""


def outcome_of(command: list[str], limit: float) -> Outcome:
    """Run a part's command, whose last line is its outcome as JSON, and all it starts."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        found = {"state": "failed", "reason": f"no result after {limit:g} s"}
    else:
        found = _read(process.returncode, output, errors)
    finally:
        _end(process)
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def _read(code: int, output: str, errors: str) -> Outcome:
    lines = output.strip().splitlines()
    if code == 0 and lines:
        return json.loads(lines[-1])
    said = errors.strip().splitlines() or lines or ["nothing was said"]
    return {"state": "failed", "reason": f"exit code {code}: {said[-1]}", "log": said[-40:]}


def _end(process: subprocess.Popen) -> None:
    """End a process and its children, also after an interruption."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check(
    names: list[str],
    path: Path,
    about: Mapping[str, str],
    run: Callable[[str], Outcome],
    *,
    again: bool = False,
) -> dict[str, Outcome]:
    """Run the parts whose results are not in the file yet, and write each as soon as it is there.

    Args:
        path: JSON with `about` and the outcomes by the parts' names.
        about: What figures hold for.
        again: Repeat what is done.

    Returns:
        All outcomes in the file.

    Raises:
        SystemExit: The file holds results of another machine or scene.
    """
    results: dict[str, Outcome] = {}
    if path.exists():
        stored = json.loads(path.read_text())
        if stored["about"] != dict(about):
            raise SystemExit(
                f"{path} holds results of {stored['about']}, but this is {dict(about)}. "
                "Expected those of one machine and scene. Name another file with --json."
            )
        results = stored["parts"]
    for name in names:
        if not again and results.get(name, {}).get("state") == "done":
            print(f"{name}: already done", flush=True)
            continue
        results[name] = run(name)
        with atomic_write(path) as temporary:
            text = json.dumps({"about": dict(about), "parts": results}, indent=1)
            temporary.write_text(text + "\n", "utf8")
        print(f"{name}: {results[name]['state']}, {results[name]['seconds']:g} s", flush=True)
    return results


def table(about: Mapping[str, str], results: Mapping[str, Outcome]) -> list[str]:
    """Lines of the table: a part's name and each of its rows, or why there are none."""
    lines = [f"{name:<10} {value}" for name, value in about.items()]
    width = max(map(len, LIMITS))
    for name, outcome in results.items():
        if outcome["state"] != "done":
            lines.append(f"{name:<{width}}  {outcome['state'].upper()}: {outcome['reason']}")
            continue
        for row in outcome["rows"]:
            figures = [f"{key} {_figure(value)}" for key, value in row.items() if key != "what"]
            lines.append(f"{name:<{width}}  {row['what']:<30}  {', '.join(figures)}")
    return lines


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--only", choices=LIMITS, action="append")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--scene", type=Path, help="as nerfstudio-data reads it; else a sample")
    parser.add_argument("--here", choices=LIMITS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    import torch

    options = _arguments()
    is_small = not torch.cuda.is_available()
    if options.here:
        from gpu_parts import outcome_here

        print(json.dumps(outcome_here(options.here, is_small, options.scene)))
        return
    # So that a part does not go on by itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    about = {
        "processor": describe(torch.get_num_threads()),
        "GPU": gpu(),
        "form": SMALL if is_small else WHOLE,
        "scene": str(options.scene or "sample"),
    }
    scene = ["--scene", str(options.scene)] if options.scene else []

    def run(name: str) -> Outcome:
        return outcome_of([sys.executable, __file__, "--here", name, *scene], LIMITS[name])

    names = options.only or list(LIMITS)
    results = check(names, options.json, about, run, again=options.again)
    print("", *table(about, results), f"Written to {options.json}.", sep="\n")
    sys.exit(any(outcome["state"] == "failed" for outcome in results.values()))


if __name__ == "__main__":
    main()
