"""Photos at the size at which structure from motion works on them, and their features."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, UInt8

from fm3d_plugins.backends.kornia import learned_matcher
from fm3d_plugins.backends.pycolmap.features import Features, extract_features
from fm3d_plugins.backends.pycolmap.running import Report
from fm3d_plugins.estimators.matching.feature_kinds import FeatureKind
from fm3d_plugins.estimators.matching.found_once import found_before
from fm3d_plugins.estimators.matching.still_features import still_picture
from fm3d_plugins.kernels.descriptor_matching import prepare
from fm3d_plugins.photos.photo import Photo
from fm3d_plugins.photos.pixels import rgb_pixels
from fm3d_plugins.progress import say

PHOTOS_PER_THREAD = 4
"""Photos that are held in memory and in the temporary folder together, for each thread."""


@dataclass(frozen=True, eq=False)
class WorkingPhoto:
    """A photo's features in a copy of it that is scaled down by the same factor on both axes."""

    photo: Photo
    scale: float
    """Working pixels per pixel of the photo; 1 for a photo that is small enough."""
    width: int
    """Working pixels. Up to one row and column of the scaled photo that is not whole is left."""
    height: int
    features: Features
    """Working pixels; none where the photo's mask is zero."""
    colors: UInt8[np.ndarray, "feature 3"]
    """Of the pixels in which the features lie."""
    kind: FeatureKind = "sift"
    """Of the features."""
    still_shift: tuple[float, float] | None = None
    """Place of what stands still in all photos, from that in the first, working pixels; None where
    nothing does."""

    @property
    def center(self) -> tuple[float, float]:
        """The photo's centre, working pixels."""
        return self.photo.width * self.scale / 2, self.photo.height * self.scale / 2


def find_features(
    photos: Sequence[Photo],
    *,
    max_features: int,
    max_image_size: int,
    num_threads: int,
    report: Report,
    kind: FeatureKind = "sift",
    is_fine: bool = False,
) -> list[WorkingPhoto]:
    """Features of all photos, those found before in this estimation included.

    Args:
        photos: In any order. SIFT features that stand still in most of them are left out.
        max_features: Per photo; the largest are kept, the surest of a network, which has 2048 at
            most.
        max_image_size: Longest side of the working copies, pixels.
        num_threads: For decoding and for features.
        report: Gets the number of photos done.
        kind: Of features.
        is_fine: SIFT's as `extract_features` has them; networks know no other.

    Raises:
        ImportError, FileNotFoundError, ValueError: As `LearnedMatcher`.
    """
    known = found_before()
    keys = [(photo, max_features, max_image_size, kind, is_fine) for photo in photos]
    new = [key[0] for key in keys if key not in known]
    done = len(photos) - len(new)
    if done:
        report(done)
    with ThreadPoolExecutor(min(num_threads, 8)) as pool:
        step = PHOTOS_PER_THREAD * num_threads
        for start in range(0, len(new), step):
            group = new[start : start + step]
            read = list(pool.map(lambda photo: _read(photo, max_image_size), group))
            images = [image for image, _ in read]
            if kind == "sift":
                # Beside the extraction, which leaves the interpreter free.
                pool.submit(prepare)
            features = _features(images, kind, max_features, num_threads, is_fine)
            for photo, (image, keep), each in zip(group, read, features, strict=True):
                scale = working_scale(photo, max_image_size)
                working = _working_photo(photo, scale, image, keep, each, kind)
                known[photo, max_features, max_image_size, kind, is_fine] = working
            report(done + start + len(group))
    found = [known[key] for key in keys]
    if kind != "sift":
        return found
    # Once: what was matched before is known by the very objects.
    moving = (*keys, "moving")
    if moving not in known:
        known[moving] = _moving(found, num_threads)
    return known[moving]


def _moving(found: list[WorkingPhoto], num_threads: int) -> list[WorkingPhoto]:
    """Photos without features that stand still in all of them; says so."""
    still = still_picture([one.features for one in found], num_threads)
    if still is None:
        return found
    share = 1 - sum(each.sum() for each in still.moves) / sum(len(each) for each in still.moves)
    say(
        f"{100 * share:.0f} % of the features stay in place while the rest moves (a background "
        "behind a turntable, a watermark) and are left out. Mask them for training (masks/)."
    )
    return [
        replace(
            one,
            features=one.features[each],
            colors=one.colors[each],
            still_shift=(float(shift[0]), float(shift[1])),
        )
        for one, each, shift in zip(found, still.moves, still.shifts, strict=True)
    ]


def working_scale(photo: Photo, max_image_size: int) -> float:
    """Working pixels per pixel of the photo, at most 1."""
    return min(1.0, max_image_size / max(photo.width, photo.height))


def scaled_image(
    pixels: UInt8[np.ndarray, "rows columns 3"], scale: float
) -> UInt8[np.ndarray, "height width 3"]:
    """A photo scaled by exactly one number, at most 1, on both axes.

    A size in whole pixels would stretch one axis a little; instead, the last fraction of a row
    and column is cut off.
    """
    from PIL import Image

    if scale == 1.0:
        return pixels
    # 1e-6: a product that should be whole may come out a rounding error below it.
    rows, columns, _ = pixels.shape
    width, height = (max(1, int(side * scale + 1e-6)) for side in (columns, rows))
    box = (0.0, 0.0, min(width / scale, columns), min(height / scale, rows))
    scaled = Image.fromarray(pixels).resize(
        (width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0
    )
    return np.asarray(scaled)


def all_cores() -> int:
    """Number of this machine's cores."""
    return os.cpu_count() or 1


def _read(
    photo: Photo, max_image_size: int
) -> tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "rows columns"] | None]:
    """The working copy, and which pixels of the photo itself are to be used."""
    stored = photo.open()
    image = scaled_image(rgb_pixels(stored), working_scale(photo, max_image_size))
    return image, photo.usable_pixels(stored)


def _features(
    images: Sequence[UInt8[np.ndarray, "_height _width 3"]],
    kind: FeatureKind,
    max_features: int,
    num_threads: int,
    is_fine: bool,
) -> list[Features]:
    if kind == "sift":
        return extract_features(
            images, max_features=max_features, num_threads=num_threads, is_fine=is_fine
        )
    network, found = learned_matcher(kind), []
    for image in images:
        seen = network.features(image, max_features)
        # Without a size: only SIFT's have one.
        keypoints = np.tile(np.array([0, 0, 1, 0, 0, 1], np.float32), (len(seen.pixels), 1))
        keypoints[:, :2] = seen.pixels
        found.append(Features(keypoints, seen.descriptors))
    return found


def _working_photo(
    photo: Photo,
    scale: float,
    image: UInt8[np.ndarray, "height width 3"],
    keep: Bool[np.ndarray, "rows columns"] | None,
    features: Features,
    kind: FeatureKind,
) -> WorkingPhoto:
    if keep is not None:
        row, column = _pixel_of(features, scale, keep.shape)
        features = features[keep[row, column]]
    height, width, _ = image.shape
    row, column = _pixel_of(features, 1.0, (height, width))
    return WorkingPhoto(photo, scale, width, height, features, image[row, column], kind)


def _pixel_of(
    features: Features, scale: float, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the pixel in which each keypoint lies, in an image of this shape."""
    column, row = (features.keypoints[:, :2] / scale).astype(np.int64).T
    return row.clip(0, shape[0] - 1), column.clip(0, shape[1] - 1)
