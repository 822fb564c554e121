"""Where the mask of a photo lies."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

MASKS = "masks"
"""Name of the folder of masks beside the photos."""


def mask_beside(photo: Path, scene: Path, folders: Sequence[str] = (MASKS,)) -> Path | None:
    """The mask of a photo's file in a folder `masks`; none without one.

    The folder lies beside that of the photos, or in it, and holds the masks in folders as those of
    the photos: that of `images/left/1.jpg` is `masks/left/1.jpg.png` (as COLMAP calls it),
    `masks/left/1.png` (as nerfstudio does) or `masks/left/1.jpg`.

    Args:
        scene: Folder in which everything of the scene lies. What lies beside it may be of another.
        folders: Names of the folder of masks, the first preferred.
    """
    for name in folders:
        for place in _places(photo, scene, name):
            for mask in names_of_mask(place):
                if mask.is_file():
                    return mask
    return None


def names_of_mask(place: Path) -> tuple[Path, Path, Path]:
    """How a mask may be called that stands in a folder of masks where the photo does in its own."""
    return place, place.with_name(f"{place.name}.png"), place.with_suffix(".png")


def folder_of_masks(photo: Path, scene: Path) -> Path | None:
    """The folder where a photo's mask is looked for, whether it is there or not; none without."""
    folders = (place.parent for place in _places(photo, scene, MASKS))
    return next((folder for folder in folders if folder.is_dir()), None)


def require_own_masks(masks: Mapping[Path, Path | None]) -> None:
    """Raise ValueError where photos, in several folders, have the same mask beside them.

    Args:
        masks: By photo.
    """
    photo_of: dict[Path, Path] = {}
    for photo, mask in masks.items():
        if mask is not None and photo_of.setdefault(mask, photo) != photo:
            raise ValueError(
                f"{mask} would be the mask of both {photo_of[mask]} and {photo}. Expected masks in "
                "folders as those of the photos. Move them there, or rename the folder of masks."
            )


def _places(photo: Path, scene: Path, name: str) -> Iterator[Path]:
    """Where a photo would lie if it were its own mask, from its own folder upwards."""
    yield photo.parent / name / photo.name
    yield photo.parent.parent / name / photo.name
    for root, images in zip(photo.parents[1:], photo.parents, strict=False):
        if not root.is_relative_to(scene):
            return
        yield root / name / photo.relative_to(root)
        yield root / name / photo.relative_to(images)
