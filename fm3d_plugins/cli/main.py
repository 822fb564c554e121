"""Entry point of the command `fm3d`: finds the subcommand and imports only that."""

import sys
from collections.abc import Sequence
from importlib import import_module

from fm3d_plugins.errors import one_line_errors

COMMANDS = {
    "process": ("fm3d_plugins.cli.process:run", "photos -> cameras and points, in COLMAP's place"),
    "eval-poses": ("fm3d_plugins.cli.eval_poses:run", "compare estimated cameras with a reference"),
    "show": ("fm3d_plugins.cli.show:run", "one picture of a trained scene: photo, render, depth"),
    "evaluate": (
        "fm3d_plugins.cli.evaluate:run",
        "score a run under several test-pose protocols",
    ),
    "export": (
        "fm3d_plugins.cli.export:run",
        "points, cameras and depth of a feed-forward run as files",
    ),
    "export-cameras": (
        "fm3d_plugins.cli.export_cameras:run",
        "a run's optimised cameras as transforms.json and COLMAP model",
    ),
    "weights": ("fm3d_plugins.cli.weights:run", "published weights: list, fetch, verify, find"),
    "sample": ("fm3d_plugins.cli.sample:run", "write a synthetic capture to try things on"),
}
"""Name: where its `run(arguments)` is, and one line of help."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; what a user can mend ends with one message and exit status 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] not in COMMANDS:
        raise SystemExit(f"Error: fm3d has no command {words[0]!r}.\n\n{_help()}")
    module, _, function = COMMANDS[words[0]][0].partition(":")
    try:
        with one_line_errors():
            getattr(import_module(module), function)(words[1:])
    except KeyboardInterrupt:
        raise SystemExit("Stopped; nothing was left half-written.") from None


def _help() -> str:
    lines = [f"  {name:<15} {text}" for name, (_, text) in COMMANDS.items()]
    return (
        "usage: fm3d COMMAND ...   (fm3d COMMAND --help tells more)\n\n"
        + "\n".join(lines)
        + "\n\nTraining, viewing and evaluation go through ns-train, ns-viewer and ns-eval."
    )
