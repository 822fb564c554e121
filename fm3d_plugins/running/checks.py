"""What can be known before a run, asked before anything of it is written."""

import contextlib
import socket
from pathlib import Path
from typing import Any

from fm3d_plugins.disk_space import require_room
from fm3d_plugins.input_checks import check_input, data_of

LEAST_ROOM = 100_000_000
"""Bytes for checkpoints, pictures and logs; the smallest runs take less."""


def check_run(config: Any) -> None:
    """Refuse a run that would fail for its photos, weights, checkpoint, disk or port.

    Args:
        config: Of the trainer.

    Raises:
        ValueError, OSError: One of them is not as it must be.
    """
    if config.load_dir is not None:
        require_checkpoints(config.load_dir)
    manager = config.pipeline.datamanager
    data = data_of(manager)
    if data is not None and hasattr(manager, "dataparser"):
        check_input(manager.dataparser, data)
    check_weights = getattr(config.pipeline.model, "check_weights", None)
    if check_weights is not None:
        check_weights()
    require_room(config.output_dir, LEAST_ROOM, "the run")
    viewer = config.viewer
    if config.is_viewer_enabled() and viewer.websocket_port is not None:
        require_port(viewer.websocket_host, viewer.websocket_port)


def require_checkpoints(folder: Path) -> None:
    """Refuse a folder from which no run can go on.

    Raises:
        FileNotFoundError: It holds no checkpoint.
    """
    if not any(folder.glob("step-*.ckpt")):
        raise FileNotFoundError(
            f"{folder} holds no checkpoint. Expected files named step-*.ckpt. Pass the folder "
            "`nerfstudio_models` of an earlier run to --load-dir."
        )


def require_port(host: str, port: int) -> None:
    """Refuse a port that nobody can listen on.

    Raises:
        OSError: It is taken, or not allowed.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"The viewer cannot listen on port {port} of {host} ({reason}). Expected a free port. "
            "Give another one, or none: then a free one is looked for."
        ) from error


def forget_refused(run: Path, output_dir: Path) -> None:
    """Remove the folder of a run that was refused, if nothing but its config lies in it.

    Folders above it, up to where all runs lie, go with it if they are empty.
    """
    with contextlib.suppress(OSError):
        if {path.name for path in run.iterdir()} == {"config.yml"}:
            (run / "config.yml").unlink()
        for folder in (run, *run.parents):
            if output_dir in (folder, *folder.parents):
                folder.rmdir()
