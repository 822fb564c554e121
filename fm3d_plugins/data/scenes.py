"""Photos with known cameras, as the data sets of LVSM, RayZer and pixelSplat hold them."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fm3d_plugins.errors import listed
from fm3d_plugins.files import is_file, read_json_object, require_regular
from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.poses import nearest_rotation
from fm3d_plugins.io.scene_checks import MAX_ROTATION_ERROR
from fm3d_plugins.photos.canvas import on_white
from fm3d_plugins.scene import FARTHEST, LARGEST_FOCAL

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER_PER_SCENE = "opencv_cameras.json"
"""The name that all scene files have in RayZer's layout; the scene is named by its folder."""

SHORTEST_FOCAL = 1e-2
"""Pixels; no pinhole has less."""

_NEAR_FOLDERS = 3
"""A moved file is looked for below the folder of the file that lists it, and this many in all."""


@dataclass(frozen=True)
class DepthFile:
    """Where the depth of one frame is."""

    path: Path
    read: Callable[[Path], Float[np.ndarray, "rows columns"]]
    """z in the camera over the whole photo; what is not finite or not above 0 is not known."""
    unit: float = 1.0
    """Scene units per unit of the file."""
    mask: Path | None = None
    """An image of the map's size, 0 where the depth is not to be trusted."""


@dataclass(frozen=True)
class CapturedScene:
    """Photos of one scene in the order they were taken, and their cameras in float64."""

    name: str
    photos: tuple[Path | bytes | UInt8[Tensor, " _"], ...]
    """Files, or their content; as a tensor it may still lie on the disk."""
    world_from_camera: Float[Tensor, "frame 4 4"]
    """OpenCV axes."""
    intrinsics: Float[Tensor, "frame 3 3"]
    """In pixels of the stored photo, or of `sizes`."""
    source: Path
    """The file that describes the scene."""
    sizes: Float[Tensor, "frame 2"] | None = None
    """Width and height that the intrinsics are of: the photo's, stored or upright, whichever fits,
    times `downscale`; (1, 1) where they are in units of the stored photo's sides. None: the stored
    photo's own."""
    downscale: int = 1
    distortion: Float[Tensor, "frame 6"] | None = None
    """As `geometry.cameras.distort`; none for pinholes."""
    depths: tuple[DepthFile | None, ...] = ()
    """Of each frame, or of none."""
    typical_depth: Float[Tensor, " frame"] | None = None
    """What is seen lies about so far from each camera, scene units, where the files tell."""

    def __len__(self) -> int:
        return len(self.photos)

    def of_frames(self, is_kept: Bool[Tensor, " frame"]) -> "CapturedScene":
        """Some of the frames."""
        rows = is_kept.nonzero().flatten().tolist()
        optional = {
            name: None if (values := getattr(self, name)) is None else values[rows]
            for name in ("sizes", "distortion", "typical_depth")
        }
        return replace(
            self,
            photos=tuple(self.photos[row] for row in rows),
            world_from_camera=self.world_from_camera[rows],
            intrinsics=self.intrinsics[rows],
            depths=tuple(self.depths[row] for row in rows) if self.depths else (),
            **optional,
        )

    def photo_bytes(self, number: int) -> bytes:
        """A photo's file, wherever it is kept.

        Raises:
            OSError: It cannot be read.
        """
        photo = self.photos[number]
        match photo:
            case Path():
                return require_regular(photo).read_bytes()
            case Tensor():
                return photo.numpy().tobytes()
            case _:
                return photo

    def open(self, number: int) -> "Image":
        """A photo as 8-bit RGB, transparency on white.

        As stored: the camera belongs to those pixels, whatever an EXIF orientation says.

        Raises:
            ValueError: It cannot be decoded.
            OSError: It cannot be read.
        """
        from PIL import Image

        photo, content = self.photos[number], self.photo_bytes(number)
        try:
            return on_white(Image.open(io.BytesIO(content)))
        except Exception as error:  # Pillow's decoders raise many types on damaged files.
            where = str(photo) if isinstance(photo, Path) else f"in {self.source}"
            raise ValueError(
                f"Frame {number} of the scene {self.name} ({where}) is no image that can be "
                f"decoded: {error}. Restore it, or drop the frame from the scene."
            ) from error


def checked_scene(
    name: str,
    photos: Sequence[Path | bytes | UInt8[Tensor, " _"]],
    lenses: Float[Tensor, "frame 4"],
    camera_from_world: Float[Tensor, "frame 4 4"],
    source: Path,
) -> CapturedScene:
    """A scene whose cameras are possible ones.

    Args:
        lenses: fx, fy, cx, cy in pixels of the stored photos, or in units of their sides.

    Raises:
        ValueError: Some are not; all are listed.
    """
    rotations = camera_from_world[:, :3, :3]
    errors = (rotations - nearest_rotation(rotations.nan_to_num(0, 0, 0))).abs().amax((1, 2))
    is_affine = (camera_from_world[:, 3] == torch.tensor([0.0, 0, 0, 1]).double()).all(1)
    is_near = (camera_from_world.abs() <= FARTHEST).all(2).all(1)
    is_rigid = is_affine & (errors <= MAX_ROTATION_ERROR) & is_near
    is_lens = (lenses.abs() <= LARGEST_FOCAL).all(1) & (lenses[:, :2] >= SHORTEST_FOCAL).all(1)
    for is_right, field, expected in (
        (is_rigid, "a pose", "a rotation and a translation, from the world to the camera"),
        (
            is_lens,
            "intrinsics",
            f"focal lengths above 0 (from {SHORTEST_FOCAL}) and a principal point, in pixels up to "
            f"{LARGEST_FOCAL:g}",
        ),
    ):
        if not bool(is_right.all()):
            wrong = (~is_right).nonzero().flatten().tolist()
            raise ValueError(
                f"{source}: in the scene {name}, {len(wrong)} of {len(photos)} frames have {field} "
                f"that no camera has (frames {listed(wrong)}). Expected {expected}. Drop these "
                "frames or estimate their cameras anew."
            )
    return CapturedScene(
        name=name,
        photos=tuple(photos),
        world_from_camera=torch.linalg.inv(camera_from_world),
        intrinsics=intrinsics_matrix(*lenses.unbind(-1)),
        source=source,
    )


def read_scene_list(path: Path) -> list[Path]:
    """The scene files that a text file lists, one in each line.

    Raises:
        FileNotFoundError: The list, or scenes of it, are absent.
        ValueError: It lists nothing, or is no text.
    """
    try:
        lines = require_regular(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        lines = []
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(
            f"{path} lists no scene, or is no text in UTF-8. Expected the path of one scene's JSON "
            "file in each line. Choose the list file."
        )
    return locate(names, path)


def scene_name(path: Path) -> str:
    """What an evaluation index calls the scene of a file."""
    if path.name == FOLDER_PER_SCENE:
        return path.absolute().parent.name
    return path.name.partition(".")[0]


def read_scene(path: Path) -> CapturedScene:
    """A scene file of LVSM's (`image_path`, `fxfycxcy`) or of RayZer's (`file_path`, `fx`...).

    Raises:
        FileNotFoundError: The file, or photos that it lists, are absent.
        ValueError: A field is missing or impossible.
    """
    frames = read_json_object(path, "a scene with a list `frames`").get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) for f in frames):
        raise ValueError(
            f"{path} has no list `frames` of objects; expected one object for each photo, with its "
            "path, fx, fy, cx, cy and w2c. Choose a scene file of LVSM's or RayZer's layout."
        )
    names, lenses, poses = [], [], []
    for index, frame in enumerate(frames):
        photo = frame.get("image_path", frame.get("file_path"))
        if not isinstance(photo, str) or not photo:
            raise ValueError(
                f"{path}: frame {index} has neither image_path nor file_path; expected the path "
                f"of a photo. {_SCENE_REMEDY}"
            )
        names.append(photo)
        numbers = frame.get("fxfycxcy", [frame.get(key) for key in ("fx", "fy", "cx", "cy")])
        lenses.append(_numbers(path, index, "fx, fy, cx, cy", numbers, (4,)))
        poses.append(_numbers(path, index, "w2c", frame.get("w2c"), (4, 4)))
    photos = locate(names, path)
    return checked_scene(scene_name(path), photos, torch.stack(lenses), torch.stack(poses), path)


_SCENE_REMEDY = "Correct the file, or drop the frame from it."


def _numbers(
    path: Path, index: int, field: str, value: object, shape: tuple[int, ...]
) -> Float[Tensor, "*shape"]:
    """Numbers of one frame in float64."""
    try:
        numbers = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        numbers = None
    if numbers is None or numbers.shape != shape:
        raise ValueError(
            f"{path}: frame {index} has {value!r:.80} as {field}; expected "
            f"{' x '.join(map(str, shape))} numbers. {_SCENE_REMEDY}"
        )
    return numbers


def locate(names: Sequence[str], source: Path) -> list[Path]:
    """Files that another file lists, also after both were moved together.

    Relative paths are relative to the listing file. Where a path leads nowhere, as an absolute one
    of another machine, its last folders and name are looked for below the listing file's folder
    and the folders around that; the longest ending that is found counts.

    Raises:
        FileNotFoundError: Some are found nowhere.
    """
    found = [_located(name, source) for name in names]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing:
        around = source.absolute().parents[:_NEAR_FOLDERS][-1]
        raise FileNotFoundError(
            f"{source} lists {len(names)} files but {len(missing)} are absent: {listed(missing)}. "
            f"Expected them there, or under the same folders below {around}. Restore them, correct "
            "the paths, or drop their entries."
        )
    return [path for path in found if path is not None]


def _located(name: str, source: Path) -> Path | None:
    if is_file(source.parent / name):
        return source.parent / name
    parts = PurePosixPath(name.replace("\\", "/").lstrip("/.")).parts
    # A name without its folder could be another scene's.
    for first in range(len(parts) - 1):
        for folder in source.absolute().parents[:_NEAR_FOLDERS]:
            path = folder.joinpath(*parts[first:])
            if is_file(path):
                return path
    return None
