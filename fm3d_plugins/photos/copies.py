"""Copies of photos and masks that any program reads alike."""

from collections.abc import Sequence
from pathlib import Path

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.files import kind_of, require_regular
from fm3d_plugins.photos.photo import Photo, fault_of
from fm3d_plugins.photos.pixels import counted_pixels
from fm3d_plugins.progress import say


def is_copy(path: Path, photo: Photo, modes: Sequence[str]) -> bool:
    """Whether a picture made of a photo is there and can be used; one that cannot is said."""
    from PIL import Image

    if kind_of(path) is None:
        return False
    try:
        with Image.open(require_regular(path)) as image:
            image.load()
            is_whole = image.size == (photo.width, photo.height) and image.mode in modes
        fault = None if is_whole else f"it is {image.size} in {image.mode}"
    except OSError as error:
        if kind_of(path) != "a file":
            raise
        fault = str(error)
    except Exception as error:  # Pillow's decoders raise many types on damaged files.
        fault = fault_of(error)
    if fault:
        say(f"{path} is not used and made anew: {fault}", "yellow")
    return fault is None


def write_plain_copy(photo: Photo, path: Path) -> None:
    """Write the upright photo, as JPEG where its name says so, else as PNG."""
    from PIL import Image

    is_jpeg = path.suffix.lower() in {".jpg", ".jpeg"}
    options = {"quality": 95, "subsampling": 0} if is_jpeg else {}
    image = Image.fromarray(photo.read())
    with atomic_write(path) as temporary:
        # A copy keeps its name even where Pillow cannot write that suffix's format without loss.
        image.save(temporary, format="JPEG" if is_jpeg else "PNG", **options)


def write_mask(photo: Photo, path: Path) -> None:
    """Write a photo's mask as PNG: white where a pixel counts, all of it where there is none."""
    from PIL import Image

    if photo.mask_path is None:
        mask = Image.new("L", (photo.width, photo.height), 255)
    else:
        with Image.open(photo.mask_path) as image:
            mask = Image.fromarray(counted_pixels(image)).convert("L")
    with atomic_write(path) as temporary:
        mask.save(temporary, format="PNG")
