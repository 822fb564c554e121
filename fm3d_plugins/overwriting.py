"""What may be overwritten: no input of the work, and only folders that this package wrote.

A folder that is written gets a hidden file with the names and sizes of all that was put into it.
What is there besides, or has another size, is somebody's own.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fm3d_plugins.errors import listed
from fm3d_plugins.files import read_json

MARKER = ".written_by_fm3d_plugins.json"

_LITTER = frozenset({MARKER, ".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that systems leave in any folder that is looked at."""


def mark_as_written(folder: Path) -> None:
    """Note in a finished folder what this package put there."""
    content = {"written_by": "fm3d_plugins", "files": dict(_files(folder))}
    (folder / MARKER).write_text(json.dumps(content, indent=0), encoding="utf-8")


def require_overwritable(target: Path, inputs: Iterable[Path]) -> None:
    """Refuse to replace a folder, with all that it holds, that is not this package's to delete.

    Args:
        target: A folder that holds something.
        inputs: Files and folders that the work reads.

    Raises:
        FileExistsError: It is an input, holds one or lies in one; or it holds what this package
            did not write.
    """
    for path in inputs:
        relation = (
            "is" if _is_same(target, path)
            else "holds" if _is_within(path, target)
            else "lies in" if _is_within(target, path)
            else None
        )  # fmt: skip
        if relation:
            raise FileExistsError(
                f"{target} {relation} an input, {path}, and would be replaced with all that it "
                f"holds: {_named(target)}. Expected a folder apart from the input. Choose another "
                "path for the output."
            )
    written = _written(target)
    if written is None:
        raise FileExistsError(
            f"{target} was not written by this package (it has no {MARKER}); lost would be: "
            f"{_named(target)}. Expected an absent or empty folder, or an earlier output. Choose "
            "another path, or move the folder away."
        )
    own = [name for name, size in _files(target) if written.get(name) != size]
    if own:
        raise FileExistsError(
            f"{target} was written by this package, but {len(own)} files in it were added or "
            f"changed since and would be lost: {listed(own)}. Choose another path, or move these "
            "away."
        )


def require_no_input(target: Path, inputs: Iterable[Path]) -> None:
    """Refuse to replace a file that the work reads, or one in a folder that it reads.

    Raises:
        FileExistsError: It is one.
    """
    for path in inputs:
        if target.exists() and (_is_same(target, path) or _is_within(target, path)):
            raise FileExistsError(
                f"{target} is an input, or lies in {path}, which is one, and would be replaced. "
                "Choose another path for the output."
            )


def _is_same(a: Path, b: Path) -> bool:
    """Also by other links, letters or mounts."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return a.resolve() == b.resolve()


def _is_within(inner: Path, outer: Path) -> bool:
    inner = inner.resolve()
    return outer.is_dir() and any(_is_same(parent, outer) for parent in inner.parents)


def _written(folder: Path) -> dict[str, int] | None:
    """Names and sizes of what this package put there; None if it did not write the folder."""
    marker = folder / MARKER
    if not marker.is_file():
        return None
    try:
        files = read_json(marker)["files"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return files if isinstance(files, dict) else None


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Every file below a folder, and every link, which is not followed: its path and size."""
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in sorted([*links, *names]):
            if name not in _LITTER:
                path = Path(place, name)
                yield path.relative_to(folder).as_posix(), path.lstat().st_size


def _named(folder: Path) -> str:
    return listed(sorted(path.name for path in folder.iterdir())) or "nothing"
