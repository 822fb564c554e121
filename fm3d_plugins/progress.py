"""What a user sees meanwhile: progress bars and lines."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

LINE_SECONDS = 30.0
"""From one line about long work to the next, where no bar can be shown."""


def say(text: str, style: str | None = None) -> None:
    """Print a text as it is, in one colour; paths in it are no markup and are not broken."""
    from nerfstudio.utils.rich_utils import CONSOLE

    CONSOLE.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Pass items on while a bar shows how many there were; the bar goes when it is full.

    Where there is no terminal, as in a log, a line says so every `LINE_SECONDS`.
    """
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
        yield from _with_lines(items, label, total)
        return
    with Progress(*columns, console=CONSOLE, transient=True) as progress:
        task = progress.add_task(label, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _with_lines(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Pass items on, and now and then say how many there were."""
    start = said = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= LINE_SECONDS and count < total:
            left = (now - start) / count * (total - count)
            say(f"{label}: {count} of {total}, about {left / 60:.1f} minutes left.")
            said = now
