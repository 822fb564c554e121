"""All layouts, and the scenes that lie below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from fm3d_plugins.data.layouts.blended_mvs import BLENDED_MVS
from fm3d_plugins.data.layouts.captured import CHUNKS, SCENE_FILES
from fm3d_plugins.data.layouts.co3d import CO3D
from fm3d_plugins.data.layouts.colmap import COLMAP
from fm3d_plugins.data.layouts.layout import Layout
from fm3d_plugins.data.layouts.nerfstudio import NERFSTUDIO
from fm3d_plugins.data.layouts.realestate10k import REALESTATE10K

LAYOUTS = (NERFSTUDIO, CO3D, BLENDED_MVS, COLMAP, CHUNKS, SCENE_FILES, REALESTATE10K)
"""The first that finds something in a folder reads it, and nothing below is looked at."""

DEEPEST = 6
"""Levels of folders that are looked at."""

_OF_PHOTOS = ("images", "frames", "masks", "depth", "rgb")
"""Folders whose names begin so hold no scenes."""


def found_below(root: Path) -> Iterator[tuple[Layout, Path]]:
    """What is to be read of a folder and those below it, in the order of their names.

    Raises:
        OSError: A folder, or a file within that tells its layout, cannot be read.
        ValueError: A list of scenes is damaged.
    """
    yield from _found(root, 0, frozenset())


def _found(folder: Path, depth: int, above: frozenset[str]) -> Iterator[tuple[Layout, Path]]:
    # A link may lead to a folder that holds it.
    real = os.path.realpath(folder)
    if depth > DEEPEST or real in above:
        return
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    names = frozenset(entry.name for entry in entries)
    for layout in LAYOUTS:
        found = layout.find(folder, names)
        if found:
            yield from ((layout, path) for path in found)
            return
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith((".", *_OF_PHOTOS)):
            yield from _found(folder / entry.name, depth + 1, above | {real})
