"""What a path leads to: only regular files are read, and only those are replaced."""

import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(path: Path) -> str | None:
    """What a path leads to, links followed, with its article; None for nothing.

    Raises:
        OSError: It cannot be told: links in a circle, or a folder that may not be entered.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _KINDS.get(stat.S_IFMT(mode), "something else than a file")


def require_regular(path: Path) -> Path:
    """The path itself, if it leads to a regular file: a pipe would be waited for without end.

    Raises:
        FileNotFoundError: There is nothing.
        OSError: The path leads to something else.
    """
    kind = kind_of(path)
    if kind is None:
        raise FileNotFoundError(f"There is no file {path}. Check the path.")
    if kind != "a file":
        raise OSError(f"{path} is {kind}; expected a file. Move it away, or give another path.")
    return path


def require_replaceable(path: Path) -> None:
    """Refuse to write to what is neither a regular file nor absent: devices, pipes, folders.

    Raises:
        OSError: The path leads to such a thing.
    """
    kind = kind_of(path)
    if kind not in (None, "a file"):
        raise OSError(
            f"{path} is {kind}, which is not replaced; expected a file or nothing at that path. "
            "Choose another path."
        )


def require_writable(folder: Path) -> None:
    """Refuse a folder in which nothing can be made, or that cannot be made itself.

    Args:
        folder: Need not be there yet.

    Raises:
        OSError: It, or what is to hold it, is no folder, or may not be written to.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    kind = kind_of(place)
    if kind != "a folder":
        fault = f"{place} is {kind or 'a link to nothing'}"
    elif not os.access(place, os.W_OK | os.X_OK):
        fault = f"{place} may not be written to"
    else:
        return
    raise OSError(
        f"Nothing can be written in {folder}: {fault}. Expected a folder that can be written. "
        "Choose another path."
    )
