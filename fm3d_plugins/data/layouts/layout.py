"""What a reader of a data set is, and what readers share."""

import os
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.data.scenes import CapturedScene
from fm3d_plugins.files import is_file

SCALED = (8, 4, 2, 1)
"""`images_8` holds photos an eighth as wide; nerfstudio, DL3DV and others name folders so."""

NAMELESS = frozenset({"nerfstudio", "colmap", "dense", "dense0", "undistorted", "gaussian_splat"})
"""Folders within a scene's own, which do not tell it from another."""


@dataclass(frozen=True)
class Layout:
    """How a data set keeps its scenes, and how they are read."""

    name: str
    find: Callable[[Path, Set[str]], list[Path]]
    """What is to be read of a folder, given the names in it; none if it has another layout. Reads
    no more than the beginning of a file."""
    read: Callable[[Path, "Where"], Iterable[CapturedScene]]
    """The scenes of what was found; photos and depth maps need not be there. Raises only ValueError
    and OSError, which name the file."""


@dataclass(frozen=True)
class Where:
    """The folder that is searched, and what is wanted of it."""

    root: Path
    side: int = 1
    """Of photos at several scales the smallest is taken whose shorter side has as many pixels."""

    def scene_name(self, folder: Path) -> str:
        """A scene by its folder, below the one that is searched."""
        inner = folder.relative_to(self.root).parts
        kept = [part for part in inner if part not in NAMELESS]
        return "/".join(kept) or self.root.absolute().name or "scene"

    def below(self, folder: Path, name: str, source: Path) -> Path:
        """A file that another one names, if it lies within the folder that is searched.

        Raises:
            ValueError: It does not, or no file has such a name.
        """
        root = os.path.normpath(self.root.absolute())
        path = os.path.normpath(folder.absolute() / name)
        if "\0" in name or os.path.commonpath([root, path]) != root or path == root:
            raise ValueError(
                f"{source} names the file {name!r:.200}, which is not within {self.root}. Expected "
                "files of the data set alone. Correct the file, or give the folder that holds both."
            )
        return folder / name

    def scaled(
        self, photos: Sequence[Path], sizes: Float[Tensor, "frame 2"]
    ) -> tuple[tuple[Path, ...], int]:
        """The photos in the folder of the scale that is wanted, and that scale.

        Folders are looked for by the first photo; without any the photos stay as they are named.

        Args:
            sizes: Width and height of the photos at full scale.
        """
        shortest, found = float(sizes.min()), 1
        for scale in SCALED:
            if is_file(_at_scale(photos[0], scale)):
                found = scale
                if shortest / scale >= self.side:
                    break
        return tuple(_at_scale(photo, found) for photo in photos), found


def _at_scale(photo: Path, scale: int) -> Path:
    folder = photo.parent
    return photo if scale == 1 else folder.with_name(f"{folder.name}_{scale}") / photo.name


def lenses(numbers: Sequence[Sequence[float]]) -> Float[Tensor, "frame 4"]:
    """fx, fy, cx, cy of frames, in double precision."""
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, 4)
