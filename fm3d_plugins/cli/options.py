"""How every `fm3d` command reads its options."""

from collections.abc import Callable, Sequence
from typing import Any

import tyro


def run_with_options(command: Callable[..., Any], prog: str, words: Sequence[str]) -> None:
    """Call a function with arguments made of the words of a command line.

    A switch is a word alone, --overwrite or --no-overwrite. nerfstudio's own commands, and so the
    dataparsers behind ns-train, want its value: --skip-unreadable True.

    Args:
        command: Its arguments are the options, its docstring is their help.
        prog: The command as it is typed, for usage and errors.
        words: What follows that.

    Raises:
        SystemExit: The words are not understood; what is wrong was printed. Or --help was one.
    """
    tyro.cli(command, prog=prog, args=list(words))
