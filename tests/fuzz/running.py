"""A reader and files that are damaged at random: what may come of it, and what came of it."""

import contextlib
import io
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.mutations import mutated

SECONDS = 30.0
"""After which a reader counts as hanging."""

ROOM = 3 << 29
"""Bytes of addresses that a reader may take for files of a few thousand bytes."""


@dataclass(frozen=True)
class Reader:
    """Something that reads files, and what is sound of that."""

    name: str
    write: Callable[[Path], Path]
    """Writes sound files into an empty folder, and tells what is to be read."""
    read: Callable[[Path], Any]
    check: Callable[[Any], None]
    """AssertionError where something was taken that makes no sense."""
    damaged: str = "*"
    """Which of the files are damaged (glob)."""
    in_suite: int = 80
    """Mutations in the suite of tests."""


@dataclass
class Tally:
    """What came of the mutations of one reader."""

    counts: Counter = field(default_factory=Counter)
    """refused, taken, and the faults by their kind."""
    faults: list[str] = field(default_factory=list)
    """One for each mutation that shows one: seed, kind, and what was seen."""


class HangError(BaseException):
    """Raised within a reader that takes too long."""


def fuzz(reader: Reader, folder: Path, seeds: range) -> Tally:
    """Read a damaged copy of a reader's files once for each seed.

    Args:
        folder: An empty one.
    """
    path = reader.write(folder)
    files = sorted(file for file in folder.rglob(reader.damaged) if file.is_file())
    sound = {file: file.read_bytes() for file in files}
    reader.check(reader.read(path))
    tally = Tally()
    for seed in seeds:
        random = Random(f"{reader.name} {seed}")
        file = random.choice(files)
        file.write_bytes(mutated(random, file.name, sound[file]))
        kind, seen = _outcome(reader, path, file)
        tally.counts[kind] += 1
        if kind not in ("refused", "taken"):
            tally.faults.append(f"{reader.name}, seed {seed}, {file.name}: {kind}: {seen}")
        file.write_bytes(sound[file])
    return tally


def _outcome(reader: Reader, path: Path, file: Path) -> tuple[str, str]:
    """What came of one damaged file: its kind and, of a fault, more."""
    said = io.StringIO()
    try:
        with (
            _limited(), warnings.catch_warnings(),
            contextlib.redirect_stdout(said), contextlib.redirect_stderr(said),
        ):  # fmt: skip
            warnings.simplefilter("ignore")
            found = reader.read(path)
            reader.check(found)
    except AssertionError as error:
        return "out of range", _last(error)
    except HangError as error:
        return "hang", _last(error)
    except Exception as error:
        text, is_plain = str(error), isinstance(error, ValueError | OSError)
        names_it = file.name in text or str(path) in text
        kind = "refused" if is_plain and names_it else "unnamed" if is_plain else "traceback"
        return "memory" if _ran_out(error) else kind, _last(error)
    return "taken", ""


def _ran_out(error: BaseException | None) -> bool:
    """Whether an error comes of memory that was asked for, at whatever distance."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _last(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))
    return f"{type(error).__name__}: {str(error)[:300]!r} at {where}"


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Time and memory run out."""

    def end(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with _limited_memory():
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
