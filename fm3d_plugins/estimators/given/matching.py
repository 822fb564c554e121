"""Which pose of a file is that of which photo, by their names."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fm3d_plugins.errors import listed
from fm3d_plugins.io.pose_files.posed_photos import printable
from fm3d_plugins.photos.photo import READ_SUFFIXES, UNREAD_SUFFIXES


@dataclass(frozen=True)
class Matched:
    """Photos and poses that belong together."""

    pose_of: dict[int, int]
    """Row of the pose by row of the photo."""
    unused: tuple[int, ...]
    """Rows of poses without a photo."""


def match_names(photos: Sequence[Path], names: Sequence[str], source: str) -> Matched:
    """Match photos to the names that a file gives its poses.

    A photo has the pose of its file name; of several such, that whose path has most folders in
    common with the photo's, from the end. What is left is matched likewise by names without the
    suffixes of photos, in any case, where that leads to one pose and one photo only: exports change
    .heic to .jpg, and some name no suffix.

    Args:
        photos: Their files.
        names: Of the poses: paths of any system, file names, or names without a suffix.
        source: Of the poses, for messages.

    Raises:
        ValueError: No photo has a pose, or a photo has several.
    """
    parts = [
        [part for part in re.split(r"[/\\]+", name) if part not in ("", ".")] for name in names
    ]
    pose_of: dict[int, int] = {}
    doubtful: dict[int, list[int]] = {}
    for key in (str, _stem):
        left = [row for row in range(len(photos)) if row not in pose_of and row not in doubtful]
        found = {row: _best(photos[row], parts, key) for row in left}
        count = Counter(rows[0] for rows in found.values() if len(rows) == 1)
        taken = set(pose_of.values())
        for row, rows in found.items():
            if taken & set(rows):
                continue
            if len(rows) > 1:
                doubtful[row] = rows
            elif rows and count[rows[0]] == 1:
                pose_of[row] = rows[0]
    if doubtful:
        row = min(doubtful)
        raise ValueError(
            f"{source} has several poses for {len(doubtful)} of {len(photos)} photos, such as "
            f"{listed(printable([names[each] for each in doubtful[row]]))} for {photos[row]}. "
            "Expected one for each. Rename the photos, or give the file of one folder only."
        )
    if not pose_of:
        raise ValueError(
            f"{source} has poses of {len(names)} photos ({listed(printable(names), 3)}), none of "
            f"which is among the {len(photos)} photos given "
            f"({listed((photo.name for photo in photos), 3)}). Expected equal file names, but for "
            "the suffix. Give the photos that the poses were made from, or rename them."
        )
    used = set(pose_of.values())
    return Matched(pose_of, tuple(row for row in range(len(names)) if row not in used))


def _best(photo: Path, parts: Sequence[list[str]], key: Callable[[str], str]) -> list[int]:
    """Rows of the poses whose paths agree with a photo's in most parts from the end, if any."""
    own = [*photo.parts[:-1], key(photo.name)]
    agreeing = {}
    for row, path in enumerate(parts):
        if not path or key(path[-1]) != own[-1]:
            continue
        pairs = zip(reversed(own[:-1]), reversed(path[:-1]), strict=False)
        agreeing[row] = next((i for i, (a, b) in enumerate(pairs) if a != b), len(path) - 1)
    most = max(agreeing.values(), default=0)
    return [row for row, count in agreeing.items() if count == most]


def _stem(name: str) -> str:
    """A file name without its suffix if that is a photo's, in lower case."""
    stem, dot, suffix = name.casefold().rpartition(".")
    return stem if stem and f"{dot}{suffix}" in READ_SUFFIXES | UNREAD_SUFFIXES else name.casefold()
