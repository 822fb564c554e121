"""One photo: validated once, and always upright."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8

from fm3d_plugins.files import kind_of
from fm3d_plugins.photos.pixels import (
    ORIENTATION,
    alpha_channel,
    camera_from_exif,
    counted_pixels,
    open_stored,
    open_upright,
    rgb_pixels,
)

if TYPE_CHECKING:
    from PIL.Image import Image

READ_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
"""File names that are taken as photos (in any case); their content decides how they are decoded."""

UNREAD_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".jxl"}
)
"""Photo formats that are not read: refused by name, not overlooked."""

SMALLEST_SIDE = 32
"""Pixels. Below this no feature detector or patch embedding has anything to see."""


@dataclass(frozen=True)
class Photo:
    """One validated photo. Sizes and focal length are those of the upright photo, in pixels."""

    path: Path
    """The original file."""
    name: str
    """File name; the photo's identity within its set."""
    width: int
    height: int
    is_plain: bool
    """Whether the file itself is upright 8-bit RGB or RGBA, so that any program reads it alike."""
    focal_prior: float | None
    """Focal length from EXIF, or None when EXIF does not tell."""
    camera_key: str
    """Photos with the same key share size, camera and zoom, as far as EXIF tells."""
    digest: str
    """BLAKE2b of the file's bytes."""
    mask_path: Path | None = None
    """A single-channel image of the same size; zero marks pixels to ignore."""

    def open(self) -> "Image":
        """The upright picture, decoded, in the file's mode."""
        return open_upright(self.path.read_bytes())

    def read(self) -> UInt8[np.ndarray, "height width 3"]:
        """The upright RGB pixels; alpha is composited over black."""
        return rgb_pixels(self.open())

    def usable_pixels(self, image: "Image") -> Bool[np.ndarray, "height width"] | None:
        """True where a pixel is to be used, from the mask file and the alpha channel; None: all.

        Args:
            image: Of `open`.
        """
        from PIL import Image

        keep = None
        if self.mask_path is not None:
            with Image.open(self.mask_path) as mask:
                keep = counted_pixels(mask)
        alpha = alpha_channel(image)
        if alpha is not None:
            keep = alpha > 127 if keep is None else keep & (alpha > 127)
        return keep


def examine(path: Path) -> Photo | str:
    """The validated photo, or one sentence that says what is wrong with the file."""
    if path.suffix.lower() in UNREAD_SUFFIXES:
        return f"{path.name}: the format {path.suffix} is not read. Convert it to JPEG or PNG."
    try:
        kind = kind_of(path)
        if kind not in (None, "a file"):
            return f"{path.name}: is {kind}, no file. Move it away."
        content = path.read_bytes()
    except OSError as error:
        return f"{path.name}: cannot be opened ({error.strerror or error})."
    if not content:
        return f"{path.name}: the file is empty (0 bytes)."
    try:
        return _decode(path, content)
    except Exception as error:  # Pillow's decoders raise many types on damaged files.
        return f"{path.name}: {fault_of(error)}"


def fault_of(error: Exception) -> str:
    """What is wrong with a file that Pillow could not decode."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "is not an image of a known format, whatever its name says."
    if isinstance(error, Image.DecompressionBombError):
        return f"is too large to be decoded safely ({error}). Scale it down."
    return f"cannot be decoded ({error})."


def _decode(path: Path, content: bytes) -> Photo | str:
    image = open_stored(content)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        return f"{path.name}: holds {frames} frames. Expected a still photo; export one."
    width, height = image.size
    if min(width, height) < SMALLEST_SIDE:
        return (
            f"{path.name}: is {width} x {height} pixels. "
            f"The smallest size is {SMALLEST_SIDE} x {SMALLEST_SIDE}."
        )
    exif = image.getexif()
    mode, orientation = image.mode, exif.get(ORIENTATION, 1)
    # An eighth of the size is enough to see that the file decodes to its end.
    image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
    image.load()
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    focal_prior, camera_key = camera_from_exif(exif, width, height)
    return Photo(
        path=path,
        name=path.name,
        width=width,
        height=height,
        is_plain=mode in ("RGB", "RGBA", "L") and orientation in (0, 1),
        focal_prior=focal_prior,
        camera_key=camera_key,
        digest=hashlib.blake2b(content, digest_size=16).hexdigest(),
    )
