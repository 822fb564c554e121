"""The table of formats of pose files, and what finds the format of a file or folder."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fm3d_plugins.errors import listed
from fm3d_plugins.files import kind_of
from fm3d_plugins.io.pose_files import (
    arkit,
    arkitscenes,
    bundler,
    gps,
    metashape,
    nvm,
    polycam,
    record3d,
    scenes,
)
from fm3d_plugins.io.pose_files.gps import Positions
from fm3d_plugins.io.pose_files.posed_photos import PosedPhotos

_DAMAGES = (
    ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RuntimeError,
)  # fmt: skip
"""What a file may raise in a reader that was written by another program, or by none."""


@dataclass(frozen=True)
class PoseFormat:
    """One format: what is looked for, how it is found, and how it is read."""

    name: str
    looked_for: str
    find: Callable[[Path], tuple[Path, ...]]
    """The files of a file's or folder's content that are read; empty if it is another format."""
    read: Callable[[tuple[Path, ...]], PosedPhotos | Positions]


FORMATS = (
    PoseFormat(
        "nerfstudio",
        scenes.LOOKED_FOR_TRANSFORMS,
        scenes.find_transforms,
        scenes.read_transforms_file,
    ),
    PoseFormat("COLMAP", scenes.LOOKED_FOR_COLMAP, scenes.find_colmap, scenes.read_colmap_model),
    PoseFormat("Metashape", metashape.LOOKED_FOR, metashape.find, metashape.read),
    PoseFormat("Bundler", bundler.LOOKED_FOR, bundler.find, bundler.read),
    PoseFormat("NVM", nvm.LOOKED_FOR, nvm.find, nvm.read),
    PoseFormat("Polycam", polycam.LOOKED_FOR, polycam.find, polycam.read),
    PoseFormat("Record3D", record3d.LOOKED_FOR, record3d.find, record3d.read),
    PoseFormat("ARKit", arkit.LOOKED_FOR, arkit.find, arkit.read),
    PoseFormat("ARKitScenes", arkitscenes.LOOKED_FOR, arkitscenes.find, arkitscenes.read),
    PoseFormat("EXIF GPS", gps.LOOKED_FOR, gps.find, gps.read),
)
"""In the order in which they go before each other where a folder holds several."""


@dataclass(frozen=True)
class PoseFiles:
    """Files of one format, not read yet."""

    path: Path
    """What the user named."""
    format: PoseFormat
    files: tuple[Path, ...]
    others: tuple[str, ...] = ()
    """Other formats that are there too, with a file of each."""

    def digest(self) -> str:
        """A hash of what the files hold, wherever they lie.

        Raises:
            OSError: One cannot be read.
        """
        total = hashlib.blake2b(self.format.name.encode(), digest_size=16)
        for file in self.files:
            total.update(file.name.encode("utf-8", "surrogateescape") + b"\0")
            if kind_of(file) == "a file":
                total.update(hashlib.blake2b(file.read_bytes()).digest())
        return total.hexdigest()

    def read(self) -> PosedPhotos | Positions:
        """Cameras, or of EXIF only positions.

        Raises:
            ValueError: A file is damaged, or holds no camera that can be used; it is named.
            OSError: A file is absent, no regular file, or cannot be read.
        """
        try:
            return self.format.read(self.files)
        except _DAMAGES as error:
            if isinstance(error, ValueError) and any(str(f) in str(error) for f in self.files):
                raise
            said = str(error) if isinstance(error, ValueError) else f"it is damaged ({error!r})"
            raise ValueError(f"{self.files[0]} ({self.format.name}): {said}") from error


def find_pose_files(path: Path) -> PoseFiles:
    """The pose files at a path, told by what they hold.

    Args:
        path: A file, or the folder of an export.

    Raises:
        ValueError: None of the formats is there; all that was looked for is listed.
        OSError: There is nothing, or it cannot be read.
    """
    kind = kind_of(path)
    if kind is None:
        raise FileNotFoundError(
            f"There is nothing at {path}. Expected a file or folder with poses. Check the path."
        )
    if kind not in ("a file", "a folder"):
        raise OSError(f"{path} is {kind}; expected a file or folder with poses. Give another path.")
    *exports, positions = FORMATS
    found = [PoseFiles(path, one, files) for one in exports if (files := one.find(path))]
    # Positions are of photos, all of which would be opened for them.
    if not found and (files := positions.find(path)):
        return PoseFiles(path, positions, files)
    if not found:
        looked_for = "".join(f"\n  - {one.looked_for}" for one in FORMATS)
        holds = listed(sorted(each.name for each in path.iterdir())) if kind == "a folder" else kind
        raise ValueError(
            f"{path} holds no poses that can be read (found: {holds or 'nothing'}). "
            f"Looked for:{looked_for}\nPoint at the file or the folder of such an export."
        )
    others = tuple(f"{one.format.name} ({one.files[0]})" for one in found[1:])
    return replace(found[0], others=others)
