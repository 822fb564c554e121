"""Room on disks: asked for before it is needed, and named in one line where it ends."""

import contextlib
import errno
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_LITTLE = 1 << 20
"""Bytes; a disk with less is full whatever else a library says of it."""
_PREFIX = "fm3d-temporary-"
_LOCK = ".lock"
_YOUNG_SECONDS = 60.0
"""Age below which a folder may be one whose process is about to lock it."""


class FullDiskError(OSError):
    """A disk has no room; the message says which, how much is free and what is needed."""

    def __init__(self, folder: Path, free: int, needed: str) -> None:
        super().__init__(
            f"The disk of {folder} has no room: {size_of(free)} are free; expected {needed}. Make "
            "room, or choose a folder on another disk (temporary files: TMPDIR; caches: "
            "FM3D_CACHE_DIR; outputs: the command's option)."
        )
        self.errno = errno.ENOSPC


def require_room(folder: Path, needed: int, what: str) -> None:
    """Refuse work that the disk has no room for.

    Args:
        folder: On the disk; need not be there yet.
        needed: Bytes.
        what: What they are for, for the message.

    Raises:
        FullDiskError: There is less room.
    """
    free = _free(folder)
    if free is not None and free < needed:
        raise FullDiskError(folder, free, f"{size_of(needed)} for {what}")


@contextmanager
def naming_full_disk(folder: Path, what: str, written: Path | None = None) -> Iterator[None]:
    """Turn whatever a library says of a full disk into one line.

    Args:
        folder: On the disk that is written to.
        what: What is written, for the message.
        written: A file or folder that holds what was written so far.

    Raises:
        FullDiskError: The disk is full; other errors pass as they are.
    """
    try:
        yield
    except Exception as error:
        free = _free(folder)
        is_full = (
            getattr(error, "errno", None) in _FULL
            or "No space left" in str(error)
            or (free is not None and free < _LITTLE and not isinstance(error, ValueError))
        )
        if not is_full or isinstance(error, FullDiskError):
            raise
        so_far = _bytes_in(written) if written is not None else 0
        needed = f"more than {size_of(so_far)} for {what}"
        raise FullDiskError(folder, (free or 0) + so_far, needed) from error


@contextmanager
def temporary_folder(purpose: str, needed: int = 0) -> Iterator[Path]:
    """A new folder for files that are worked on, removed at the end.

    Those of killed processes are removed before: a lock tells which are in use.

    Args:
        needed: Bytes that are sure to be written.

    Raises:
        FullDiskError: The disk has less room than that, or is full later.
    """
    from filelock import FileLock

    root = Path(tempfile.gettempdir())
    _remove_abandoned(root)
    require_room(root, needed, f"temporary files of {purpose}")
    with naming_full_disk(root, f"temporary files of {purpose}"):
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-", dir=root))
    try:
        with naming_full_disk(root, f"temporary files of {purpose}", folder):
            with FileLock(folder / _LOCK):
                yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def size_of(count: int) -> str:
    """Bytes as a text."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _remove_abandoned(root: Path) -> None:
    from filelock import FileLock, Timeout

    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):
            is_old = time.time() - folder.lstat().st_mtime > _YOUNG_SECONDS
            if is_old and folder.is_dir() and not folder.is_symlink():
                with FileLock(folder / _LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


def _free(folder: Path) -> int | None:
    """Bytes; None where that cannot be told."""
    for place in (folder, *folder.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def _bytes_in(path: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for file in path.rglob("*") if path.is_dir() else [path]:
            with contextlib.suppress(OSError):
                total += file.lstat().st_size
    return total
