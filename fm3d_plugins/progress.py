"""What a user sees meanwhile: progress bars and lines."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def say(text: str, style: str | None = None) -> None:
    """Print a text as it is, in one colour; paths in it are no markup and are not broken."""
    from nerfstudio.utils.rich_utils import CONSOLE

    CONSOLE.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Pass items on while a bar shows how many there were; the bar goes when it is full."""
    from nerfstudio.utils.rich_utils import CONSOLE
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    if not CONSOLE.is_terminal:  # A bar that goes would leave an empty line there each time.
        yield from items
        return
    with Progress(*columns, console=CONSOLE, transient=True) as progress:
        task = progress.add_task(label, total=total)
        for item in items:
            yield item
            progress.advance(task)
