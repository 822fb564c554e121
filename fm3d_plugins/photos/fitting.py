"""How photo files become the pixels that their cameras were made for: the one place that decides.

Programs differ in whether they look at a file's EXIF orientation, so a camera may mean the picture
as it is stored or as it is upright; and a scaled-down copy may be a pixel larger or smaller than
its camera, as programs round differently. Sizes tell which; where they fit neither, none is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, UInt8

from fm3d_plugins.files import naming_damage
from fm3d_plugins.photos.pixels import ORIENTATION, alpha_channel, counted_pixels, rgb_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

OrientationRule = Literal["auto", "upright", "stored"]
"""Which picture of a file is meant where its size does not tell."""

Size = tuple[int, int]
"""Width and height in pixels."""

_EXPECTED = "Expected an image that can be decoded to its end. Restore it, or drop its frame."

AS_STORED = 1
"""EXIF orientation of a picture that is stored upright."""

OPAQUE = 255
"""Alpha of a pixel behind which nothing shows."""

TURNED = (5, 6, 7, 8)
"""EXIF orientations that lay a picture on its side."""


@dataclass(frozen=True)
class FittedPhoto:
    """A photo's file, and how its pixels become those of its camera."""

    path: Path
    exif_orientation: int
    """What the file says; 1 where it says nothing."""
    is_upright: bool
    """Whether that is applied."""
    size: Size
    """Of the picture, after that."""
    downscale: int = 1
    """By how much the file is smaller than its camera, of whose size a mask may be too."""

    def read(self) -> UInt8[np.ndarray, "height width channel"]:
        """RGB, or RGBA where some pixel of it is not opaque."""
        from PIL import Image

        with naming_damage(self.path, _EXPECTED), Image.open(self.path) as stored:
            image = _oriented(stored, self.exif_orientation if self.is_upright else AS_STORED)
            alpha = alpha_channel(image)
            if alpha is not None and (alpha < OPAQUE).any():
                return np.array(image.convert("RGBA"))
            return rgb_pixels(image)

    def mask_fault(self, path: Path) -> str | None:
        """What is wrong with a mask of this photo, by its header; none if it can be used."""
        try:
            self._mask_orientation(path)
        except ValueError as error:
            return f"{path.name} {error}"
        return None

    def read_mask(self, path: Path) -> Bool[np.ndarray, "height width"]:
        """Which pixels count, as `counted_pixels` says.

        A mask that lies on its side as the photo is stored is turned with it.

        Raises:
            ValueError: It is no image, or of another size than the photo.
        """
        from PIL import Image

        with naming_damage(path, _EXPECTED):
            orientation = self._mask_orientation(path)
            with Image.open(path) as stored:
                mask = Image.fromarray(counted_pixels(_oriented(stored, orientation)))
        if mask.size != self.size:
            mask = mask.resize(self.size, Image.Resampling.NEAREST)
        return np.asarray(mask)

    def _mask_orientation(self, path: Path) -> int:
        """The orientation to apply to a mask so that it lies on the photo; ValueError if none."""
        header = _read_header(path)
        for orientation in (header.orientation, AS_STORED, self.exif_orientation):
            size = _turned_size(header.stored, orientation)
            for times in {1, self.downscale}:
                # A mask, or a smaller copy, may be rounded otherwise than its photo.
                if all(abs(a - times * b) <= times for a, b in zip(size, self.size, strict=True)):
                    return orientation
        width, height = header.stored
        raise ValueError(
            f"is {width} x {height} but its photo {self.path.name} {self.size[0]} x {self.size[1]}"
        )


@dataclass(frozen=True)
class Fit:
    """How the photos of a scene fit their cameras."""

    photos: tuple[FittedPhoto, ...]
    told: bool | None
    """Whether cameras are of upright pictures, by the photos whose size tells; None: none does, or
    they differ."""
    undecided: tuple[str, ...]
    """Names of files with an EXIF orientation whose size does not tell whether it is meant."""


@dataclass(frozen=True)
class _Header:
    path: Path
    stored: Size
    orientation: int

    def ways(self, camera: Size, downscale: int) -> list[bool]:
        """Whether to apply the orientation: all answers that give the camera's size."""
        both = (False,) if self.orientation == AS_STORED else (True, False)
        return [up for up in both if _is_copy(self.size(up), camera, downscale)]

    def size(self, is_upright: bool) -> Size:
        return _turned_size(self.stored, self.orientation) if is_upright else self.stored


def fitted_photos(
    paths: Sequence[Path],
    cameras: Sequence[Size],
    *,
    downscale: int = 1,
    orientation: OrientationRule = "auto",
) -> tuple[Fit, dict[int, str]]:
    """How the files become the pixels of their cameras. Only headers are read.

    A file is upright or as stored, whichever has its camera's size. Where both have it (mirrored,
    upside-down and square pictures), the other photos of the scene tell, and if none does the
    photo is upright, as everywhere in this package.

    Args:
        paths: One file per camera.
        cameras: Sizes of the cameras.
        downscale: The files are copies that many times smaller than their cameras, each side
            rounded up or down.
        orientation: What counts in the place of other photos.

    Returns:
        The fit, and by their rows what is wrong with photos that do not fit, which it lacks.
    """
    faults, fitting = {}, []
    for row, (path, camera) in enumerate(zip(paths, cameras, strict=True)):
        try:
            header = _read_header(path)
        except ValueError as error:
            faults[row] = str(error)
            continue
        ways = header.ways(camera, downscale)
        if ways:
            fitting.append((header, ways))
        else:
            faults[row] = _size_fault(header, camera, downscale)
    answers = {way[0] for header, way in fitting if len(way) == 1 and header.orientation in TURNED}
    told = answers.pop() if len(answers) == 1 else None
    is_upright = told is not False if orientation == "auto" else orientation == "upright"
    chosen = [(header, is_upright if len(ways) > 1 else ways[0]) for header, ways in fitting]
    photos = tuple(
        FittedPhoto(h.path, h.orientation, up, h.size(up), downscale) for h, up in chosen
    )
    undecided = tuple(header.path.name for header, ways in fitting if len(ways) > 1)
    return Fit(photos, told, undecided), faults


def exif_orientation(path: Path) -> int:
    """EXIF orientation of a photo, by its header; 1 where it says nothing.

    Raises:
        ValueError: It is no readable image.
    """
    return _read_header(path).orientation


def _is_copy(size: Size, camera: Size, downscale: int) -> bool:
    if downscale == 1:
        return size == camera
    return all(abs(a - b / downscale) < 1 for a, b in zip(size, camera, strict=True))


def _size_fault(header: _Header, camera: Size, downscale: int) -> str:
    width, height = header.stored
    turned = header.size(is_upright=True)
    upright = f" ({turned[0]} x {turned[1]} upright)" if turned != header.stored else ""
    times = f", {downscale} times smaller" if downscale > 1 else ""
    return f"is {width} x {height}{upright} but its camera {camera[0]} x {camera[1]}{times}"


def _read_header(path: Path) -> _Header:
    """Size and orientation of an image; ValueError if it is none, without its name."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(ORIENTATION, AS_STORED)
            is_known = isinstance(orientation, int) and 1 <= orientation <= 8
            return _Header(path, image.size, orientation if is_known else AS_STORED)
    except Exception as error:  # Pillow's decoders raise many types on damaged files.
        raise ValueError(f"is no readable image ({error})") from error


def _turned_size(size: Size, orientation: int) -> Size:
    return (size[1], size[0]) if orientation in TURNED else size


def _oriented(image: "Image", orientation: int) -> "Image":
    """The picture after an EXIF orientation is applied to it."""
    from PIL.Image import Transpose

    steps = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(steps[orientation]) if orientation in steps else image
