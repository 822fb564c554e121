"""Pixels and camera of one photo file, whatever way it is stored."""

import io
import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8

if TYPE_CHECKING:
    from PIL.Image import Exif, Image

_EXIF_IFD, ORIENTATION, _MAKE, _MODEL = 0x8769, 0x0112, 0x010F, 0x0110
_FOCAL_35MM, _FOCAL_MM, _LENS_MODEL = 0xA405, 0x920A, 0xA434
_DIAGONAL_35MM = math.hypot(36.0, 24.0)


def camera_from_exif(exif: "Exif", width: int, height: int) -> tuple[float | None, str]:
    """Focal length in pixels from its 35 mm equivalent, and the key of the camera.

    Photos with the same key share size, camera and zoom, as far as EXIF tells. CIPA
    DCG-001 defines the 35 mm equivalent by the diagonal of the picture.
    """
    details = exif.get_ifd(_EXIF_IFD)
    focal_prior = None
    try:
        focal_35mm = float(details.get(_FOCAL_35MM, 0))
        if math.isfinite(focal_35mm) and focal_35mm > 0:
            focal_prior = focal_35mm / _DIAGONAL_35MM * math.hypot(width, height)
    except (TypeError, ValueError, ZeroDivisionError):
        pass  # A damaged EXIF field is no prior.
    named = (exif.get(_MAKE), exif.get(_MODEL), details.get(_LENS_MODEL))
    zoom = (details.get(_FOCAL_MM), details.get(_FOCAL_35MM))
    parts = (width, height, *named, *zoom)
    return focal_prior, "|".join("" if part is None else str(part).strip() for part in parts)


def open_stored(content: bytes) -> "Image":
    """The picture in a file's bytes, not decoded yet."""
    from PIL import Image

    with warnings.catch_warnings():
        # Up to Pillow's hard limit (DecompressionBombError) a large photo is just a large photo.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(content))


def open_upright(content: bytes) -> "Image":
    """The picture in a file's bytes with its EXIF orientation applied; mode as stored."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(open_stored(content))


def alpha_channel(image: "Image") -> UInt8[np.ndarray, "height width"] | None:
    """Opacity of a picture of any mode; None where it has none."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return None
    return np.asarray(image.convert("RGBA").getchannel("A"))


def rgb_pixels(image: "Image") -> UInt8[np.ndarray, "height width 3"]:
    """Eight-bit RGB of a picture of any mode; alpha is composited over black."""
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips 16-bit grey to 255 when it converts; the high byte is the 8-bit picture.
        grey = np.asarray(image).astype(np.int64)
        shift = 8 if grey.max(initial=0) > 255 or image.mode.startswith("I;16") else 0
        return np.repeat((grey >> shift).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if alpha_channel(image) is not None:
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float32)
        return (rgba[..., :3] * (rgba[..., 3:] / 255.0) + 0.5).astype(np.uint8)
    return np.array(image.convert("RGB"))


def counted_pixels(mask: "Image") -> Bool[np.ndarray, "height width"]:
    """Which pixels a mask lets count: those that are not black and, where it has alpha, opaque.

    Editors save masks with alpha, and say by it, by grey or by both what counts. So whichever of
    the two is the same everywhere says nothing, and is passed over.
    """
    is_bright, alpha = np.asarray(mask.convert("L")) > 0, alpha_channel(mask)
    if alpha is None or (alpha == alpha.flat[0]).all():
        return is_bright
    grey = np.asarray(mask.convert("RGB").convert("L"))
    return alpha > 0 if (grey == grey.flat[0]).all() else is_bright & (alpha > 0)
