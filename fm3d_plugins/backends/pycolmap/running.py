"""Long calls into pycolmap: silent, watched for progress, and stopped by Ctrl-C."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event, Thread
from types import ModuleType
from typing import Any

from fm3d_plugins.errors import require

Report = Callable[[int], None]
"""Called now and then with the number of steps done so far."""

POLL_SECONDS = 0.1
"""How often progress is reported and Ctrl-C is noticed."""

GRACE_SECONDS = 5.0
"""How long a cancelled call may take to end before it is left behind."""


def library() -> ModuleType:
    """The module pycolmap, imported on first use."""
    return require("pycolmap", purpose="The estimator sfm", install="pycolmap>=4.0")


def run_watched(
    call: Callable[[Any], Any],
    steps_done: Callable[[], int] | None = None,
    report: Report | None = None,
) -> Any:
    """What `call` returns, run in a thread while this one reports progress.

    pycolmap's long functions release the interpreter's lock but look for no signals: run directly,
    they would hold back Ctrl-C until they end. Their database must not be read for progress
    meanwhile: two copies of SQLite in one process (Python's and pycolmap's) undo each other's file
    locks, which ended in a bus error.

    Args:
        call: Takes a cancellation token of pycolmap, which stops it between two steps.
        steps_done: Counts the steps that `call` has completed.
        report: Gets that count now and then, and once more at the end.
    """
    pycolmap = library()
    token, future, ended = pycolmap.CancellationToken(), Future(), Event()

    def run() -> None:
        try:
            future.set_result(call(token))
        except BaseException as error:
            future.set_exception(error)
        finally:
            ended.set()

    thread = Thread(target=run, name="pycolmap", daemon=True)
    with _silent(pycolmap):
        thread.start()
        try:
            while not ended.wait(POLL_SECONDS):
                if report is not None and steps_done is not None:
                    report(steps_done())
        except BaseException:
            token.cancel()
            thread.join(GRACE_SECONDS)
            raise
    result = future.result()
    if report is not None and steps_done is not None:
        report(steps_done())
    return result


@contextmanager
def _silent(pycolmap: ModuleType) -> Iterator[None]:
    """Keep glog quiet; errors still come as exceptions."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level
