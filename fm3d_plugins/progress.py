"""What a user sees meanwhile: progress bars and lines."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

LINE_SECONDS = 20.0
"""From one line about long work to the next, where no bar can be shown."""

_last_said = 0.0
"""When a line was last printed; `time.monotonic`."""

_speaking = threading.Lock()


def say(text: str, style: str | None = None) -> None:
    """Print a text as it is, in one colour; paths in it are no markup and are not broken."""
    global _last_said  # noqa: PLW0603 (of the process, as the console is)
    from nerfstudio.utils.rich_utils import CONSOLE

    CONSOLE.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    _last_said = time.monotonic()


@contextmanager
def signs_of_life(text: Callable[[float], str]) -> Iterator[None]:
    """While the body runs and no line was printed for `LINE_SECONDS`, print one.

    Args:
        text: Makes it of the seconds since the body began.
    """
    start, is_over = time.monotonic(), threading.Event()

    def speak() -> None:
        spoken = _last_said or start
        at_least = min(1.0, LINE_SECONDS)
        while not is_over.wait(max(at_least, spoken + LINE_SECONDS - time.monotonic())):
            with _speaking:  # One of several that run within each other is enough.
                now, spoken = time.monotonic(), max(spoken, _last_said)
                if now - spoken >= LINE_SECONDS:
                    say(text(now - start))
                    spoken = now

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        is_over.set()
        speaker.join()


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
    count = 0

    def line(seconds: float) -> str:
        if not count:
            return f"{label}: none of {total} yet, after {seconds:.0f} s."
        left = seconds / count * (total - count)
        return f"{label}: {count} of {total}, about {left / 60:.1f} minutes left."

    with signs_of_life(line):
        for item in items:
            yield item
            count += 1
