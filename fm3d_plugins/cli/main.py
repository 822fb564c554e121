"""Entry point of the command `fm3d`: finds the subcommand and imports only that."""

import sys
from collections.abc import Sequence
from importlib import import_module

import fm3d_plugins
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.running.foreign_warnings import known_warnings_hidden

COMMANDS = {
    "process": "photos -> cameras and points, in COLMAP's place",
    "eval-poses": "compare estimated cameras with a reference",
    "show": "one picture of a trained scene: photo, render, depth",
    "evaluate": "score a run under test-pose protocols, or weights as papers do",
    "film": "an mp4 of a run along a camera path, without ffmpeg",
    "export": "points, cameras and depth of a feed-forward run as files",
    "export-cameras": "a run's optimised cameras as transforms.json and COLMAP model",
    "weights": "published weights: list, fetch, verify, find",
    "sample": "write a synthetic capture to try things on",
}
"""Name, which is also that of a module, and one line of help.

The module has a function `command`, whose arguments are the options, or `run(arguments)` where a
word chooses the options.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; what a user can mend ends with one message and exit status 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        print(f"fm3d {fm3d_plugins.__version__}")
        return
    name, *rest = words
    if name not in COMMANDS:
        raise SystemExit(f"Error: fm3d has no command {name!r}.\n\n{_help()}")
    try:
        with known_warnings_hidden(), one_line_errors():
            module = import_module(f"fm3d_plugins.cli.{name.replace('-', '_')}")
            if hasattr(module, "run"):
                module.run(rest)
            else:
                from fm3d_plugins.cli.options import run_with_options

                run_with_options(module.command, f"fm3d {name}", rest)
    except KeyboardInterrupt:
        raise SystemExit("Stopped; nothing was left half-written.") from None


def _help() -> str:
    lines = [f"  {name:<15} {text}" for name, text in COMMANDS.items()]
    return (
        "usage: fm3d COMMAND ...   (fm3d COMMAND --help tells more; fm3d --version)\n\n"
        + "\n".join(lines)
        + "\n\nTraining, viewing and evaluation go through ns-train, ns-viewer and ns-eval."
    )
