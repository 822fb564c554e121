"""`fm3d evaluate`: a trained run under test-pose protocols, or weights under a paper's protocol."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fm3d_plugins.cli.options import run_with_options

SHOWN = {"psnr": "PSNR dB", "ssim": "SSIM", "lpips": "LPIPS"}
"""Metrics of the table and their titles; one that was not computed is left out."""


USAGE = """\
usage: fm3d evaluate --load-config CONFIG.yml ...        a trained run's held-out photos
       fm3d evaluate --protocol NAME --data PATH ...     published weights on a paper's data set

fm3d evaluate --load-config --help and fm3d evaluate --protocol --help tell more."""

FORMS = ("--load-config", "--protocol")


def run(arguments: Sequence[str]) -> None:
    """Parse the options of the form that one of them names, and score.

    Raises:
        ValueError: Both forms or neither are named, or there is nothing to score.
        OSError: Files are absent.
    """
    words = {word.partition("=")[0].replace("_", "-") for word in arguments}
    named = [form for form in FORMS if form in words]
    if not named and (not arguments or words & {"-h", "--help"}):
        print(USAGE)
        return
    if len(named) != 1:
        raise ValueError(
            f"fm3d evaluate was given {' and '.join(named) or 'neither ' + ' nor '.join(FORMS)}. "
            "Expected --load-config for a trained run, or --protocol for published weights on a "
            "paper's data set. Give one of the two."
        )
    if named == ["--load-config"]:
        chosen = command
    else:
        from fm3d_plugins.cli.protocol import command as chosen
    # The form's name alone has no value, and only asks for help.
    rest = ["--help"] if words & {"-h", "--help"} else list(arguments)
    run_with_options(chosen, "fm3d evaluate", rest)


def command(
    load_config: Path,
    test_poses: tuple[str, ...] = ("none", "sim3", "photometric:50"),
    output_path: Path | None = None,
) -> None:
    """Score the held-out photos of a trained run under one or more test-pose protocols.

    Args:
        load_config: config.yml of a finished run, or a folder: the newest run in it.
        test_poses: none (cameras as given), sim3 (moved as the training cameras were), and
            photometric:K (then K optimiser steps on each held-out pose, the scene frozen).
        output_path: Also write all metrics to this JSON file.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: A protocol is unknown, or the run has no cameras to move.
    """
    from rich.console import Console
    from rich.table import Table

    from fm3d_plugins.atomic import atomic_write, require_place
    from fm3d_plugins.camera_optimization.evaluation import PROTOCOL, score_held_out
    from fm3d_plugins.camera_optimization.held_out_poses import TestPoseProtocol
    from fm3d_plugins.cli.runs import files_of, find_run, load_run

    protocols = [TestPoseProtocol.parse(text) for text in test_poses]
    load_config = find_run(load_config)
    config, pipeline = load_run(load_config)
    inputs = [load_config, *files_of(pipeline)]
    if output_path is not None:
        require_place(output_path, inputs)
    rows: list[dict[str, Any]] = [score_held_out(pipeline, protocol) for protocol in protocols]
    shown = {name: title for name, title in SHOWN.items() if any(name in row for row in rows)}
    table = Table(title=f"{config.method_name}, {len(pipeline.datamanager.eval_dataset)} photos")
    table.add_column("test poses")
    for title in shown.values():
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(row[PROTOCOL], *[f"{row[name]:.3f}" for name in shown])
    Console().print(table)
    if output_path is not None:
        results = {"load_config": str(load_config), "results": rows}
        with atomic_write(output_path, inputs) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
