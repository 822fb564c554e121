"""Files and folders that appear complete or not at all, also after a crash or a full disk."""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fm3d_plugins.disk_space import FullDiskError, naming_full_disk
from fm3d_plugins.files import kind_of, require_replaceable, require_writable
from fm3d_plugins.overwriting import mark_as_written, require_no_input, require_overwritable

ABANDONED_SECONDS = 24 * 3600.0
"""Age at which a leftover of another computer, whose processes cannot be asked, is removed."""

_PREFIX = ".fm3d-"
_HIDDEN = re.compile(
    r"\.fm3d-[0-9a-f]{12}-(new|old)-([0-9a-f]{12})-([0-9]{1,9})-[0-9a-f]{8}(\..*)?"
)
"""Names of `_hidden_beside`: role, computer and process."""


@contextmanager
def atomic_write(path: Path, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Write one file: yields a hidden path beside it, which replaces `path` at the end.

    The folder is made if it is absent; a link is written through. After an exception nothing is
    left behind; what a killed process leaves is removed by the next write to the same path.

    Args:
        inputs: Files that are read meanwhile, and folders of such, which are never written to.

    Raises:
        FileExistsError: The path leads to an input.
        OSError: The path leads to a device, a pipe or a folder, or cannot be written.
    """
    require_place(path, inputs)
    target = path.resolve()
    _make_folder(target.parent)
    _recover(target)
    # The suffix stays last: some writers choose the format by it, or append it.
    temporary = _hidden_beside(target, "new", target.suffix)
    try:
        with _naming(target, temporary):
            yield temporary
            _allow_as_usual(temporary)
            _flush(temporary)
            require_replaceable(target)
            os.replace(temporary, target)
            _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def require_place(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Refuse what `atomic_write` would refuse, before long work whose result goes there.

    Raises:
        FileExistsError, OSError: As `atomic_write`.
    """
    # As given: what /dev/stdout leads to is seen here only.
    require_replaceable(path)
    require_no_input(path, inputs)
    require_writable(path.resolve().parent)


@contextmanager
def atomic_directory(
    path: Path, overwrite: bool = False, inputs: Sequence[Path] = ()
) -> Iterator[Path]:
    """Write a folder: yields a new, hidden one beside it, which becomes `path` at the end.

    Args:
        overwrite: Replace a folder that this package wrote before. It is moved aside and deleted
            once the new one is in place; if the process is killed between these two moves, the
            next write to the same path first moves the old one back.
        inputs: What the work reads: a folder that is one of these, holds one or lies in one is
            not replaced. Asked at the begin and at the end; more may be found meanwhile.

    Raises:
        FileExistsError: `path` is a file, or holds something and `overwrite` is not set, or holds
            what this package did not write, or an input.
        OSError: It cannot be written.
    """
    target = path.resolve()
    _make_folder(target.parent)
    _recover(target)
    _require_free(target, overwrite, inputs)
    temporary = _hidden_beside(target, "new")
    try:
        with _naming(target, temporary):
            temporary.mkdir()
            yield temporary
            mark_as_written(temporary)
            for folder, _, files in os.walk(temporary):
                for name in files:
                    _flush(Path(folder, name))
                _flush(Path(folder))
            _require_free(target, overwrite, inputs)
            _exchange(temporary, target)
            _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _naming(target: Path, temporary: Path) -> Iterator[None]:
    """Let errors name what was to be written, not the hidden path; and a full disk for one."""
    try:
        with naming_full_disk(target.parent, target.name, temporary):
            yield
    except FullDiskError:
        raise
    except OSError as error:
        if temporary.name not in str(error):
            raise
        shown = error.strerror or str(error).replace(temporary.name, target.name)
        raise OSError(
            f"{target} cannot be written ({shown}). Expected a place that can be written. "
            "Choose another path."
        ) from error
    except ValueError as error:
        if temporary.name not in str(error):
            raise
        shown = str(error).replace(str(temporary), str(target)).replace(temporary.name, target.name)
        raise ValueError(shown) from error


def _make_folder(folder: Path) -> None:
    require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)


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


def _require_free(target: Path, overwrite: bool, inputs: Sequence[Path]) -> None:
    """Raise FileExistsError where writing would destroy what the user did not give up."""
    kind = kind_of(target)
    if kind not in (None, "a folder"):
        raise FileExistsError(
            f"{target} is {kind}; expected a folder or nothing at that path. "
            "Choose another path, or move it away."
        )
    if kind is None or not any(target.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(
            f"{target} already holds {sum(1 for _ in target.iterdir())} entries; expected an "
            "empty or absent folder. Choose another path; --overwrite replaces a folder that "
            "this package wrote."
        )
    require_overwritable(target, inputs)


def _recover(target: Path) -> None:
    """Undo what killed processes left beside `target`: restore its old content, remove drafts."""
    for leftover in target.parent.glob(f"{_PREFIX}{_digest(target.name)}-*"):
        if not _is_abandoned(leftover):
            continue
        is_folder = leftover.is_dir() and not leftover.is_symlink()
        if "-old-" in leftover.name and is_folder and not target.exists():
            os.rename(leftover, target)
        elif is_folder:
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _hidden_beside(target: Path, role: str, suffix: str = "") -> Path:
    """A fresh path in the same folder that tells role, computer and process."""
    owner = f"{_digest(socket.gethostname())}-{os.getpid()}"
    name = f"{_PREFIX}{_digest(target.name)}-{role}-{owner}-{secrets.token_hex(4)}{suffix}"
    return target.parent / name


def _is_abandoned(leftover: Path) -> bool:
    """Whether the process that made it is gone, or it is very old where that cannot be asked.

    False for what this module never named so.
    """
    parts = _HIDDEN.fullmatch(leftover.name)
    if parts is None:
        return False
    _, host, process, _ = parts.groups()
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


def _allow_as_usual(path: Path) -> None:
    """Give a file the rights of any new one: safetensors makes its files for the owner alone."""
    if path.stat().st_mode & 0o077:
        return
    probe = _hidden_beside(path, "new")
    probe.touch()
    try:
        path.chmod(probe.stat().st_mode & 0o777)
    finally:
        probe.unlink()


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
