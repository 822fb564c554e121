"""Photos of one scene: found, validated once, and always upright.

A photo is upright after its EXIF orientation has been applied, with eight bits and three colours.
Every size, camera and pixel in this package refers to that upright photo. Programs that read
files without looking at EXIF (nerfstudio does) are handed `PhotoSet.plain_files`: the original
file where it already is upright RGB, otherwise a converted copy.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from fm3d_plugins.errors import listed
from fm3d_plugins.photos.copies import is_copy, write_mask, write_plain_copy
from fm3d_plugins.photos.masks import mask_beside
from fm3d_plugins.photos.photo import READ_SUFFIXES, UNREAD_SUFFIXES, Photo, examine, fault_of

WIDEST_ASPECT = 8.0
"""Long side over short side above which a photo is taken with a warning."""


@dataclass(frozen=True)
class PhotoSet:
    """The photos of one scene, in natural order of their names (2.jpg before 10.jpg)."""

    folder: Path
    """The folder that holds the photos."""
    photos: tuple[Photo, ...]
    warnings: tuple[str, ...] = ()
    """What was found odd but taken, one sentence each."""

    def __len__(self) -> int:
        return len(self.photos)

    def __iter__(self):
        return iter(self.photos)

    def __repr__(self) -> str:
        """What there is, in one line."""
        sizes = sorted({f"{photo.width} x {photo.height}" for photo in self.photos})
        masked = sum(photo.mask_path is not None for photo in self.photos)
        masks = f", {masked} with a mask" if masked else ""
        return f"PhotoSet({len(self)} photos in {self.folder}, {listed(sizes, 3)} pixels{masks})"

    @cached_property
    def digest(self) -> str:
        """BLAKE2b over the names and contents of photos and masks."""
        total = hashlib.blake2b(digest_size=16)
        for photo in self.photos:
            mask = photo.mask_path.read_bytes() if photo.mask_path is not None else b""
            total.update(f"{photo.name}\0{photo.digest}\0".encode())
            total.update(hashlib.blake2b(mask).digest())
        return total.hexdigest()

    def plain_files(self, folder: Path, names: Iterable[str]) -> dict[str, Path]:
        """Files that any program reads as the upright photo: originals, or copies in `folder`.

        JPEG stays JPEG (quality 95, full chroma), anything else becomes PNG under the same name,
        so that a rotated, palette, CMYK or 16-bit photo keeps its name everywhere.

        Args:
            folder: Where copies go; made when the first copy is needed.
            names: The photos wanted.
        """
        wanted, files = set(names), {}
        for photo in self.photos:
            if photo.name not in wanted:
                continue
            files[photo.name] = photo.path if photo.is_plain else folder / photo.name
            if not photo.is_plain and not is_copy(files[photo.name], photo, ("RGB",)):
                write_plain_copy(photo, files[photo.name])
        return files

    def mask_files(self, folder: Path, names: Iterable[str]) -> dict[str, Path]:
        """A mask file for every named photo, written to `folder`; nothing if no photo has a mask.

        nerfstudio takes masks for all photos or for none: a photo without one gets a white mask.
        """
        wanted = set(names)
        chosen = [photo for photo in self.photos if photo.name in wanted]
        if all(photo.mask_path is None for photo in chosen):
            return {}
        files = {photo.name: folder / f"{photo.name}.png" for photo in chosen}
        for photo in chosen:
            if not is_copy(files[photo.name], photo, ("L",)):
                write_mask(photo, files[photo.name])
        return files


def find_photos(
    data: str | Path,
    *,
    skip_unreadable: bool = False,
    progress: Callable[[Iterable, str, int], Iterable] | None = None,
) -> PhotoSet:
    """Find and validate the photos of a folder.

    The photos lie in `data` itself, or in `data/images` or `data/photos`. Hidden files, folders
    and files that are no photos by name are passed over. Every photo is decoded once, so that a
    damaged file is found before any long work. Masks are taken from a folder `masks` inside or
    beside the photos' folder, named like the photo or with `.png` in place of its suffix or after.

    Args:
        data: A folder.
        skip_unreadable: Leave out photos that cannot be read, with a warning, instead of stopping.
        progress: Wraps the iteration over files, called with (iterable, label, total).

    Raises:
        FileNotFoundError: There is no such folder, or no photo in it.
        NotADirectoryError: `data` is a file.
        ValueError: Photos cannot be read or are too small; the message lists every one.
    """
    folder = _photo_folder(Path(data).expanduser())
    paths = sorted(_candidates(folder), key=_natural_key)
    outcomes: list[Photo | str] = []
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        steps: Iterable[Photo | str] = pool.map(examine, paths)
        outcomes.extend(progress(steps, "Reading photos", len(paths)) if progress else steps)
    photos = [outcome for outcome in outcomes if isinstance(outcome, Photo)]
    faults = [outcome for outcome in outcomes if isinstance(outcome, str)]
    photos, mask_faults = _with_masks(photos)
    faults += mask_faults
    if faults and not skip_unreadable:
        raise ValueError(
            f"{len(faults)} of {len(paths)} photos in {folder} cannot be used:\n"
            + "\n".join(f"  - {fault}" for fault in faults)
            + "\nRepair or remove them, or skip them: --skip-unreadable (in ns-train with True)."
        )
    if not photos:
        raise FileNotFoundError(_no_photo(folder))
    notes = [f"skipped: {fault}" for fault in faults] + _oddities(photos)
    return PhotoSet(folder=folder, photos=tuple(photos), warnings=tuple(notes))


def require_photos(data: Path) -> None:
    """Refuse a folder without photos, by their names alone: `find_photos` reads them.

    Raises:
        FileNotFoundError: There is no such folder, or no photo in it.
        NotADirectoryError: `data` is a file.
    """
    folder = _photo_folder(Path(data).expanduser())
    if not any(_candidates(folder)):
        raise FileNotFoundError(_no_photo(folder))


def count_photos(data: Path) -> int:
    """How many photos `find_photos` will look at, by their names alone.

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: `data` is a file.
    """
    return sum(1 for _ in _candidates(_photo_folder(Path(data).expanduser())))


def _no_photo(folder: Path) -> str:
    return (
        f"{folder} holds no photo that can be read. Expected files with one of the suffixes "
        f"{', '.join(sorted(READ_SUFFIXES))}. Point --data at the folder of photos."
    )


def _photo_folder(data: Path) -> Path:
    if not data.exists():
        raise FileNotFoundError(
            f"There is no folder {data}. Expected a folder of photos. Check the path after --data."
        )
    if not data.is_dir():
        raise NotADirectoryError(
            f"{data} is a file. Expected a folder of photos. Point --data at the folder it lies in."
        )
    for folder in (data, data / "images", data / "photos"):
        if folder.is_dir() and any(_candidates(folder)):
            return folder
    return data


def _candidates(folder: Path) -> Iterable[Path]:
    for path in folder.iterdir():
        named_as_photo = path.suffix.lower() in READ_SUFFIXES | UNREAD_SUFFIXES
        if named_as_photo and not path.name.startswith(".") and not path.is_dir():
            yield path


def _natural_key(path: Path) -> list:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts] + [path.name]


def _with_masks(photos: Sequence[Photo]) -> tuple[list[Photo], list[str]]:
    found, faults = [], []
    for photo in photos:
        mask = mask_beside(photo.path, photo.path.parent)
        fault = _mask_fault(photo, mask) if mask is not None else None
        if fault is not None:
            faults.append(fault)
        else:
            found.append(replace(photo, mask_path=mask))
    return found, faults


def _mask_fault(photo: Photo, mask: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(mask) as image:
            size = image.size
            image.load()
    except Exception as error:  # As for photos: decoders raise many types.
        return f"{mask.name} (mask of {photo.name}): {fault_of(error)}"
    if size != (photo.width, photo.height):
        return (
            f"{mask.name}: the mask is {size[0]} x {size[1]} pixels but its photo {photo.name} is "
            f"{photo.width} x {photo.height}. Expected equal sizes."
        )
    return None


def _oddities(photos: Sequence[Photo]) -> list[str]:
    notes = []
    for photo in photos:
        aspect = max(photo.width, photo.height) / min(photo.width, photo.height)
        if aspect > WIDEST_ASPECT:
            notes.append(
                f"{photo.name} is {photo.width} x {photo.height} (a panorama?): "
                "a pinhole camera may not describe it."
            )
    first_of: dict[str, str] = {}
    for photo in photos:
        if photo.digest in first_of:
            notes.append(f"{photo.name} is the same file as {first_of[photo.digest]}.")
        first_of.setdefault(photo.digest, photo.name)
    return notes
