"""What a path leads to: only regular files are read and replaced, and damage names its file."""

import contextlib
import gzip
import json
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GZIP_RATIO = 50
"""Text with numbers becomes 3 to 10 times smaller; a file made to fill memory, 1000 times."""

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


def is_file(path: Path) -> bool:
    """Whether a path leads to a file; asked of what stands in another file, however odd it is."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


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


@contextlib.contextmanager
def naming_damage(path: Path, expected: str) -> Iterator[None]:
    """Let only errors leave that name the file: a damaged one may raise anything in a decoder.

    Args:
        expected: Sentences that end the message: what the file should be, and what to do.

    Raises:
        ValueError: Whatever was raised, with its first line; as it was raised, if it names the file
            or one beside it.
        OSError: As it was raised, if it names a file.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        if isinstance(error, ValueError | OSError) and _names_a_neighbour(path, str(error)):
            raise
        reason = next(iter(str(error).strip().splitlines()), "") or "no reason is given"
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{path} cannot be read ({kind}{reason[:200]}). {expected}") from error


def _names_a_neighbour(path: Path, message: str) -> bool:
    """Whether a message names a file or another one of its folder."""
    folder = str(path.parent)
    return str(path) in message or (folder != "." and f"{folder}/" in message)


def parse_json(text: str) -> Any:
    """The content of a JSON text.

    Raises:
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_gzip(path: Path, remedy: str = "Fetch it again.") -> bytes:
    """What a file compressed by gzip holds, if that is not absurdly much.

    Raises:
        ValueError: It is damaged, or holds more than `GZIP_RATIO` times its own bytes.
        OSError: There is no such file, or it cannot be read.
    """
    most = GZIP_RATIO * require_regular(path).stat().st_size
    try:
        with gzip.open(path) as stream:
            content = stream.read(most + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be decompressed (gzip): {error}. {remedy}") from error
    if len(content) > most:
        raise ValueError(
            f"{path} holds more than {GZIP_RATIO} times its own bytes; expected text compressed by "
            f"gzip, which grows far less. {remedy}"
        )
    return content


def read_json(path: Path, remedy: str = "Write it anew.") -> Any:
    """The content of a JSON file in UTF-8.

    Args:
        remedy: What the message ends with.

    Raises:
        ValueError: It is no JSON, or nested too deeply.
        OSError: There is no such file, or it cannot be read.
    """
    content = require_regular(path).read_bytes()
    try:
        return parse_json(content.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON in UTF-8: {error}. {remedy}") from error


def read_json_object(path: Path, expected: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        expected: What the file should hold, for the message.

    Raises:
        ValueError: It holds no JSON, or something else than an object.
        OSError: It cannot be read.
    """
    remedy = f"Expected {expected}. Choose another file."
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}. {remedy}")
    return content
