"""`fm3d evaluate`: one trained run under several test-pose protocols."""

import json
from pathlib import Path
from typing import Any

SHOWN = {"psnr": "PSNR dB", "ssim": "SSIM", "lpips": "LPIPS"}
"""Metrics of the table and their titles; one that was not computed is left out."""


def command(
    load_config: Path,
    test_poses: tuple[str, ...] = ("none", "sim3", "photometric:50"),
    output_path: Path | None = None,
) -> None:
    """Score the held-out photos of a trained run under one or more test-pose protocols.

    Args:
        load_config: config.yml of a finished run.
        test_poses: none (cameras as given), sim3 (moved as the training cameras were), and
            photometric:K (then K optimiser steps on each held-out pose, the scene frozen).
        output_path: Also write all metrics to this JSON file.

    Raises:
        FileNotFoundError: There is no such config.yml.
        ValueError: A protocol is unknown, or the run has no cameras to move.
    """
    from rich.console import Console
    from rich.table import Table

    from fm3d_plugins.atomic import atomic_write
    from fm3d_plugins.camera_optimization.evaluation import PROTOCOL, score_held_out
    from fm3d_plugins.camera_optimization.held_out_poses import TestPoseProtocol
    from fm3d_plugins.cli.runs import load_run

    protocols = [TestPoseProtocol.parse(text) for text in test_poses]
    config, pipeline = load_run(load_config)
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
        with atomic_write(output_path) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
