"""Data sets that LVSM, RayZer and pixelSplat made of others, by `scenes.py` and `chunks.py`.

pixelSplat's RealEstate10K and DL3DV: chunks (`*.torch`) of several scenes with their photos.
LVSM's: `full_list.txt`, which lists a JSON file per scene. RayZer's DL3DV: `opencv_cameras.json` in
each scene's folder.
"""

from collections.abc import Iterator, Set
from pathlib import Path

from fm3d_plugins.data.chunks import read_chunk
from fm3d_plugins.data.layouts.layout import Layout, Where
from fm3d_plugins.data.scenes import (
    FOLDER_PER_SCENE,
    CapturedScene,
    read_scene,
    read_scene_list,
)

_LIST = "full_list.txt"


def _find_chunks(folder: Path, names: Set[str]) -> list[Path]:
    return [folder / name for name in sorted(names) if name.endswith(".torch")]


def _read_chunk(path: Path, where: Where) -> Iterator[CapturedScene]:
    yield from read_chunk(path, in_pixels=False)


def _find_scenes(folder: Path, names: Set[str]) -> list[Path]:
    if _LIST in names:
        return read_scene_list(folder / _LIST)
    return [folder / FOLDER_PER_SCENE] * (FOLDER_PER_SCENE in names)


def _read_scene(path: Path, where: Where) -> Iterator[CapturedScene]:
    yield read_scene(path)


CHUNKS = Layout("pixelSplat's chunks", _find_chunks, _read_chunk)
SCENE_FILES = Layout("LVSM's or RayZer's scene files", _find_scenes, _read_scene)
