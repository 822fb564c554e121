"""`fm3d weights list|fetch|verify|path|export`: weights on this computer, published and own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from fm3d_plugins.checkpoints import CATALOGUE, FoundFile, find, locate, verify
from fm3d_plugins.checkpoints.downloading import absent
from fm3d_plugins.cli.options import run_with_options
from fm3d_plugins.disk_space import size_of
from fm3d_plugins.progress import say

PIPED_WIDTH = 240
"""Columns of what goes to a file or a program: no name is cut or continued on another line."""

_Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
_NameOrPath = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME_OR_PATH")]


def run(arguments: Sequence[str]) -> None:
    """Parse the word and its options, and do it.

    Raises:
        ValueError: No such word or weights, the licence is refused, or a file is damaged.
        OSError: Weights are absent and cannot be fetched.
    """
    words = {
        "list": list_weights,
        "fetch": fetch,
        "verify": verify_file,
        "path": print_path,
        "export": export,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: fm3d weights WORD ...   (fm3d weights WORD --help tells more)\n\n"
            "  list                            names, licences, and what is on this computer\n"
            "  fetch NAME [--commercial-only]  bring weights here once, checked\n"
            "  verify NAME_OR_PATH             compare a file with its hash, and open it\n"
            "  path NAME                       print where the file is, and nothing else\n"
            "  export --load-config RUN --output FILE   weights of a network trained here"
        )
        return
    word, *rest = arguments
    if word not in words:
        raise ValueError(
            f"fm3d weights has no word {word!r}. Expected one of: {', '.join(words)}. "
            "Run `fm3d weights --help`."
        )
    run_with_options(words[word], f"fm3d weights {word}", rest)


def list_weights() -> None:
    """List the published weights, their licences, and which are here. Contacts nothing."""
    from rich.box import HEAVY_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:  # Programs read lines.
        console = Console(width=PIPED_WIDTH)
    table = Table(show_lines=console.is_terminal, box=HEAVY_HEAD if console.is_terminal else None)
    for column in ("name", "method", "licence", "commercial", "size", "where"):
        table.add_column(column, overflow="fold", no_wrap=not console.is_terminal)
    for name, published in CATALOGUE.items():
        found = find(name)
        licence = published.licence
        table.add_row(
            name,
            published.estimator,
            licence.name,
            "yes" if licence.commercial else "no",
            size_of(found.path.stat().st_size)
            if found
            else f"about {size_of(published.num_bytes)}",
            str(found.path) if found else "absent" + (" (log-in)" if published.is_gated else ""),
        )
    console.print(table)
    for licence in dict.fromkeys(published.licence for published in CATALOGUE.values()):
        text = f"{licence.name}: {licence.permits}. {licence.url}"
        console.print(text, markup=False, highlight=False)


def fetch(name: _Name, commercial_only: bool = False) -> None:
    """Bring published weights to this computer; nothing is contacted if they are here.

    An interrupted download goes on where it stopped. What arrives is compared with the hub's
    hash before it counts.

    Args:
        name: A name that `fm3d weights list` shows.
        commercial_only: Refuse weights whose licence forbids commercial use.
    """
    file = locate(name, commercial_only=commercial_only)
    say(f"{name} is at {file.path}")


def verify_file(name_or_path: _NameOrPath) -> None:
    """Read a whole file of weights: compare its hash with the recorded one, and open it.

    Args:
        name_or_path: A name that `fm3d weights list` shows, a file, or a folder with one.
    """
    found = _present(name_or_path)
    result = verify(found)
    origin = "is the hub's" if result.is_hash_of_hub else "no hash of the hub is known"
    say(
        f"{found.path} is in order: {result.num_tensors} tensors, {result.num_parameters} "
        f"numbers, SHA-256 {result.sha256} ({origin})"
    )


def print_path(name: _NameOrPath) -> None:
    """Print the path of weights that are on this computer, and nothing else, for scripts.

    Args:
        name: A name that `fm3d weights list` shows, a file, or a folder with one.
    """
    print(_present(name).path)


def export(load_config: Path, output: Path) -> None:
    """Write the weights of a network that was trained here, as its method takes them.

    Their metadata say the network's sizes, and under `provenance` how they came to be: options,
    seed, steps, images, time, hardware, and the scores of the run.

    Args:
        load_config: config.yml of a run of a method such as lvsm-train, or a folder: the newest run
            in it.
        output: Safetensors file to write.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The run is of another method, or the file is not named *.safetensors.
    """
    from fm3d_plugins.cli.trained_weights import write_trained_weights

    size = write_trained_weights(load_config, output)
    say(f"{output} holds {size} numbers. Use it: ns-train METHOD --data ... --weights {output}")


def _present(name: str) -> FoundFile:
    """Weights that are here, or the message how to get them."""
    found = find(name)
    if found is None:
        raise FileNotFoundError(absent(CATALOGUE[name], "nothing was contacted"))
    return found
