"""Ctrl-C, and a request to end, wait for a moment at which a run can be kept."""

import signal
import threading
from types import FrameType
from typing import Any

_CAUGHT = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Notes the first SIGINT or SIGTERM within; a second one is KeyboardInterrupt, at once.

    Only Python's main thread can do so; elsewhere signals do what they did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        """What came, if something did."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _CAUGHT}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


def exit_status(number: int) -> int:
    """As shells have it for a process that a signal ended: 130 for Ctrl-C."""
    return 128 + number
