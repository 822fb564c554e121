"""What readers of pose files share: files found and opened, numbers checked."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from fm3d_plugins.files import kind_of, read_json, require_regular
from fm3d_plugins.scene import LARGEST_SIDE

HEAD = 4096
"""Bytes from which a text format is told."""


def files_in(path: Path, folders: Iterable[str], patterns: Iterable[str]) -> list[Path]:
    """The path itself if it is a file, else regular files of the first folder that has any.

    Args:
        folders: Below the path; "." is the path itself.
        patterns: Of file names; hidden files do not count.
    """
    if kind_of(path) == "a file":
        return [path]
    for folder in folders:
        if kind_of(path / folder) != "a folder":
            continue
        found = sorted(
            {
                file
                for pattern in patterns
                for file in (path / folder).glob(pattern)
                if not file.name.startswith(".") and kind_of(file) == "a file"
            }
        )
        if found:
            return found
    return []


def head(path: Path) -> bytes:
    """The beginning of a regular file, without a byte order mark."""
    with require_regular(path).open("rb") as file:
        return file.read(HEAD).removeprefix(b"\xef\xbb\xbf")


def read_text(path: Path) -> str:
    """A text file in UTF-8; names in other encodings keep their bytes.

    Raises:
        OSError: It is no regular file, or cannot be read.
    """
    return require_regular(path).read_bytes().removeprefix(b"\xef\xbb\xbf").decode(
        "utf-8", errors="surrogateescape"
    )  # fmt: skip


def json_or_none(path: Path) -> Any:
    """Likewise, and None for a file that is no JSON; one that does not begin so is not read."""
    if head(path).lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        return read_json(path)
    except ValueError:
        return None


def is_transforms(document: Any) -> bool:
    """Whether a JSON document is laid out as nerfstudio's transforms.json."""
    frames = document.get("frames") if isinstance(document, dict) else None
    return isinstance(frames, list) and all(
        isinstance(frame, dict) and {"file_path", "transform_matrix"} <= set(frame)
        for frame in frames
    )


class _NoDoctype(ElementTree.TreeBuilder):
    """Entities are declared in a document type, and a few of them grow without bounds."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type (DOCTYPE), which is not read")


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file.

    Raises:
        ValueError: It is none, or declares a document type.
        OSError: It is no regular file, or cannot be read.
    """
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(require_regular(path).read_bytes())
        return parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(
            f"{path} cannot be read as XML: {error}. Expected a pose file. Export it anew."
        ) from error


def numbers(values: object, count: int, what: str) -> list[float]:
    """So many finite numbers, of nested lists row by row.

    Args:
        values: A list, or text with spaces between numbers.
        what: Named in the message.

    Raises:
        ValueError: They are not.
    """
    flat: list[Any] = values.split() if isinstance(values, str) else _flattened(values)
    try:
        found = [float(value) for value in flat if not isinstance(value, bool)]
    except (TypeError, ValueError, OverflowError):
        found = []
    if len(found) != count or len(flat) != count or not all(map(math.isfinite, found)):
        raise ValueError(f"{what} is {shown(values)}; expected {count} finite numbers.")
    return found


def number(values: Mapping[str, object], key: str, what: str) -> float:
    """One finite number of a JSON object.

    Raises:
        ValueError: It is absent, or none.
    """
    value = values.get(key)
    if isinstance(value, list | dict | str):
        raise ValueError(f"{key} of {what} is {shown(value)}; expected a finite number.")
    return numbers([value], 1, f"{key} of {what}")[0]


def size(values: Sequence[object], what: str) -> tuple[int, int]:
    """Width and height in whole pixels.

    Raises:
        ValueError: They are not.
    """
    sides = numbers(values, 2, f"the size of {what}")
    if not all(side.is_integer() and 1 <= side <= LARGEST_SIDE for side in sides):
        raise ValueError(
            f"The size of {what} is {shown(values)}; expected whole pixels, 1 to {LARGEST_SIDE}."
        )
    return int(sides[0]), int(sides[1])


def shown(value: object) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _flattened(values: object) -> list[Any]:
    if not isinstance(values, list | tuple):
        return [values]
    return [
        each for value in values for each in (value if isinstance(value, list | tuple) else [value])
    ]
