"""When to look at held-out photos during training: often enough to see it learn, and cheaply."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

SHARE = 0.02
"""Of the time of training that looking may take."""

MOST_LOOKS = 20
"""In a run."""


class HeldOutWatch:
    """Says when the next look is due, by what the last one took."""

    def __init__(self, num_steps: int) -> None:
        """Args:
        num_steps: Of the whole run.
        """
        self._pause_steps = max(1, num_steps // MOST_LOOKS)
        self._next_step = self._pause_steps
        self._next_time = 0.0
        self._is_first = True

    def is_due(self, step: int) -> bool:
        """Whether it is time for a look after a step of the run, from 0."""
        return step >= self._next_step and time.monotonic() >= self._next_time

    @contextmanager
    def timed(self, step: int) -> Iterator[None]:
        """Look here; the longer it takes, the later comes the next.

        But for the first, which also reads the photos: that says nothing of the others.
        """
        start = time.monotonic()
        yield
        now = time.monotonic()
        self._next_step = step + self._pause_steps
        if not self._is_first:
            self._next_time = now + (now - start) / SHARE
        self._is_first = False
