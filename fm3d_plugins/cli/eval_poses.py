"""`fm3d eval-poses REFERENCE ESTIMATE`: how far estimated cameras are from a reference."""

import json
from collections.abc import Mapping
from pathlib import Path

import tyro
from torch import Tensor

from fm3d_plugins.geometry.pose_metrics import evaluate_poses


def command(
    reference: tyro.conf.Positional[Path],
    estimate: tyro.conf.Positional[Path],
    output: Path | None = None,
) -> None:
    """Compare estimated cameras with a reference; photos are matched by their file names.

    Photos of the reference without an estimate count as wrong. The world frames and scales of
    the two need not agree.

    Args:
        reference: transforms.json, a folder that holds one, or a folder with a COLMAP model.
        estimate: Likewise.
        output: Also write the figures to this JSON file.

    Raises:
        ValueError: A path holds no cameras, or the two share no photo.
    """
    from rich.console import Console
    from rich.table import Table

    expected, found = read_poses(reference), read_poses(estimate)
    figures = evaluate_poses(found, expected).summary()
    table = Table(title=f"{len(found)} estimated, {len(expected)} reference cameras")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, "-" if value is None else f"{value:.4f}")
    Console().print(table)
    if output is not None:
        from fm3d_plugins.atomic import atomic_write

        with atomic_write(output, inputs=(reference, estimate)) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n")


def read_poses(path: Path) -> Mapping[str, Tensor]:
    """world_from_camera (OpenCV) by file name, from transforms.json or a COLMAP model.

    Raises:
        ValueError: Neither is there.
    """
    from fm3d_plugins.io.posed_scenes import read_posed_scene

    scene = read_posed_scene(path)
    return {
        Path(name).name: pose.double()
        for name, pose in zip(scene.names, scene.world_from_camera, strict=True)
    }
