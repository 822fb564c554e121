"""The end of a run: its scores as a file, and what came of it in a few lines."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from fm3d_plugins.atomic import atomic_write

PICTURES = "held_out"
"""Folder of a run with a picture of every held-out photo, its render, depth and error."""

RESULTS = "eval.json"
"""File of a run with the scores of its held-out photos, as ns-eval writes them."""


def write_results(path: Path, config: Any, checkpoint: Path, metrics: Mapping[str, Any]) -> None:
    """The scores of a run in the shape that ns-eval writes, atomically.

    Numbers that are not finite are left out, as JSON has none.

    Args:
        config: Of the run.
    """
    is_infinite = {k: isinstance(v, float) and not math.isfinite(v) for k, v in metrics.items()}
    results = {
        "experiment_name": config.experiment_name,
        "method_name": config.method_name,
        "checkpoint": str(checkpoint),
        "results": {key: value for key, value in metrics.items() if not is_infinite[key]},
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf8")


def score_lines(metrics: Mapping[str, Any], num_photos: int, run: Path) -> list[str]:
    """How good held-out photos are, and where to look at them.

    Args:
        metrics: Averages: `psnr` in dB, `ssim`, and the protocol's name as `test_poses`.
        num_photos: That were scored.
        run: Folder of the run.
    """
    lpips = f", LPIPS {metrics['lpips']:.3f}" if "lpips" in metrics else ""
    corrected = f" ({metrics['cc_psnr']:.2f} with colours fitted)" if "cc_psnr" in metrics else ""
    return [
        f"Held-out photos: PSNR {metrics['psnr']:.2f} dB{corrected}, SSIM {metrics['ssim']:.3f}"
        f"{lpips} "
        f"(mean of {num_photos}, test poses: {metrics['test_poses']}; {run / RESULTS})",
        f"Pictures of them, photo | render | depth | error: {run / PICTURES}",
    ]


def command_lines(config: Path, is_scored: bool, further: Mapping[str, str]) -> list[str]:
    """What may be typed next, quoted for the shell.

    Args:
        config: config.yml of the run.
        is_scored: Whether photos are held out.
        further: Names and commands of what else may be done.
    """
    path = quote(str(config))
    commands = {"Look around": f"ns-viewer --load-config {path} --viewer.websocket-host 127.0.0.1"}
    if is_scored:
        commands["Score again"] = f"ns-eval --load-config {path} --output-path scores.json"
    return aligned(commands | dict(further))


def aligned(commands: Mapping[str, str]) -> list[str]:
    """Lines of a name and a command, which begin in one column."""
    width = max(map(len, commands), default=0) + 1
    return [f"{name + ':':<{width}} {command}" for name, command in commands.items()]


def first_line(method: str, steps: int, result: str, time: str) -> str:
    """What was made, in one line.

    Args:
        steps: That were trained; 0: none, as the method needs none.
        result: What there is now, and how large it is.
        time: That the run took, in words.
    """
    trained = f"{steps} steps, " if steps else ""
    return f"{method} is done: {trained}{result}, in {time}."


def stop_line(step: int, kept: int | None, folder: Path) -> str:
    """Where a stopped run was, and how to go on.

    Args:
        step: The last step that was done; -1: none.
        kept: Step of the newest checkpoint, if there is one.
        folder: Of the checkpoints.
    """
    if kept is None:
        return "Stopped before the first step was done: there is nothing to go on from."
    what = "of it" if kept == step else f"of step {kept}"
    return (
        f"Stopped after step {step}; a checkpoint {what} is kept. To go on, give the same command "
        f"and --load-dir {quote(str(folder))}"
    )
