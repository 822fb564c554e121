"""Files and folders that appear complete or not at all, also after a crash or a full disk."""

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ABANDONED_SECONDS = 24 * 3600.0
"""Age at which a leftover of another computer, whose processes cannot be asked, is removed."""

_PREFIX = ".fm3d-"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write one file: yields a hidden path beside it, which replaces `path` at the end.

    The folder is made if it is absent; a link is written through. After an exception nothing is
    left behind; what a killed process leaves is removed by the next write to the same path.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    _recover(target)
    # The suffix stays last: some writers choose the format by it, or append it.
    temporary = _hidden_beside(target, "new", target.suffix)
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
        _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Write a folder: yields a new, hidden one beside it, which becomes `path` at the end.

    Args:
        overwrite: Replace a folder that holds something. It is moved aside and deleted once the
            new one is in place; if the process is killed between these two moves, the next write
            to the same path first moves the old one back.

    Raises:
        FileExistsError: `path` is a file, or holds something and `overwrite` is not set.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    _recover(target)
    _require_replaceable(target, overwrite)
    temporary = _hidden_beside(target, "new")
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, files in os.walk(temporary):
            for name in files:
                _flush(Path(folder, name))
            _flush(Path(folder))
        _require_replaceable(target, overwrite)
        _exchange(temporary, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(temporary: Path, target: Path) -> None:
    """Put a finished folder in the place of another one, or of none."""
    if not target.exists():
        os.rename(temporary, target)
        return
    old = _hidden_beside(target, "old")
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _require_replaceable(target: Path, overwrite: bool) -> None:
    """Raise FileExistsError where writing would destroy what the user did not give up."""
    if target.exists() and not target.is_dir():
        raise FileExistsError(
            f"{target} is a file; expected a folder or nothing at that path. "
            "Choose another path or move the file away."
        )
    if not overwrite and target.is_dir() and any(target.iterdir()):
        raise FileExistsError(
            f"{target} already holds {sum(1 for _ in target.iterdir())} entries; expected an "
            "empty or absent folder. Choose another path, or replace it with --overwrite True."
        )


def _recover(target: Path) -> None:
    """Undo what killed processes left beside `target`: restore its old content, remove drafts."""
    for leftover in target.parent.glob(f"{_PREFIX}{_digest(target.name)}-*"):
        if not _is_abandoned(leftover):
            continue
        if leftover.name.split("-")[2] == "old" and not target.exists():
            os.rename(leftover, target)
        elif leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _hidden_beside(target: Path, role: str, suffix: str = "") -> Path:
    """A fresh path in the same folder that tells role, computer and process."""
    owner = f"{_digest(socket.gethostname())}-{os.getpid()}"
    name = f"{_PREFIX}{_digest(target.name)}-{role}-{owner}-{secrets.token_hex(4)}{suffix}"
    return target.parent / name


def _is_abandoned(leftover: Path) -> bool:
    """Whether the process that made it is gone, or it is very old where that cannot be asked."""
    host, process = leftover.name.split("-")[3:5]
    if host == _digest(socket.gethostname()) and os.name == "posix":
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False
    try:
        return time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:
        return False


def _digest(name: str) -> str:
    """Short and free of odd characters, so that the longest file name still has a hidden twin."""
    return hashlib.blake2b(os.fsencode(name), digest_size=6).hexdigest()


def _flush(path: Path) -> None:
    """Bring a file, or a folder's entries, to the disk before anything refers to it."""
    is_posix = os.name == "posix"
    if path.is_dir() and not is_posix:
        return
    descriptor = os.open(path, os.O_RDONLY if is_posix else os.O_RDWR)
    try:
        # Some network file systems cannot flush folders.
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
