"""SIFT features of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from fm3d_plugins.backends.pycolmap.running import library, run_watched
from fm3d_plugins.disk_space import temporary_folder

LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
"""Weights of red, green and blue in grey (ITU-R BT.709)."""


FAINT = 0.002
"""Least contrast of fine features; COLMAP's own is 0.0067. Of a faint figure (16 photos), at 0.004
63 matches of neighbours are right, at 0.002 185, at 0.001 199; photos of noise get no worse."""

FINE_SIZES = 5
"""At which a fine feature is described; COLMAP's own are 10, which find as much in a third more
time."""

FEATURE_BYTES = 160
"""Of a keypoint with its descriptor in a database."""


Descriptors = UInt8[np.ndarray, "_feature 128"] | Float32[np.ndarray, "_feature 128"]
"""Of one image: SIFT's in bytes, of length 512; a network's as it says them, of length 1."""


@dataclass(frozen=True)
class Features:
    """Keypoints of one image, SIFT's largest or a network's surest first, and how they look."""

    keypoints: Float32[np.ndarray, "feature 6"]
    """x, y, and the 2x2 shape matrix row by row; pixels, the first one's centre at (0.5, 0.5)."""
    descriptors: Descriptors
    """SIFT is L1-root normalised (Arandjelovic and Zisserman 2012)."""

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, rows: np.ndarray) -> "Features":
        return Features(self.keypoints[rows], self.descriptors[rows])


def extract_features(
    images: Sequence[UInt8[np.ndarray, "_height _width 3"]],
    *,
    max_features: int,
    num_threads: int,
    is_fine: bool = False,
) -> list[Features]:
    """SIFT features of RGB images, the same for any number of threads.

    pycolmap's extractor for arrays holds the interpreter's lock; only the one that reads files
    runs in parallel, so the images make a detour through a temporary folder.

    Args:
        images: Of any sizes.
        max_features: Per image; the largest are kept.
        num_threads: Images that are worked on at once.
        is_fine: Fainter features as well, of affine shape (Mikolajczyk and Schmid 2004), described
            at several sizes (Dong and Soatto 2015): matched from farther apart, in more time.
    """
    pycolmap = library()
    names = [f"{row:06d}.pgm" for row in range(len(images))]
    # pycolmap ends the process where its database finds the disk full.
    needed = sum(image.size // 3 for image in images) + len(images) * max_features * FEATURE_BYTES
    with temporary_folder("features", needed) as folder:
        for name, image in zip(names, images, strict=True):
            _write_grey(Path(folder) / name, image)
        database = Path(folder) / "features.db"
        options = pycolmap.FeatureExtractionOptions()
        options.num_threads = num_threads
        options.use_gpu = False
        options.sift.max_num_features = max_features
        if is_fine:
            options.sift.estimate_affine_shape = options.sift.domain_size_pooling = True
            options.sift.dsp_num_scales = FINE_SIZES
            options.sift.peak_threshold = FAINT
        run_watched(
            lambda token: pycolmap.extract_features(
                database,
                folder,
                names,
                camera_mode=pycolmap.CameraMode.PER_IMAGE,
                extraction_options=options,
                device=pycolmap.Device.cpu,
                cancellation_token=token,
            )
        )
        return _read_features(database, names)


def _write_grey(path: Path, image: UInt8[np.ndarray, "height width 3"]) -> None:
    grey = (image.astype(np.float32) @ LUMA + 0.5).astype(np.uint8)
    height, width = grey.shape
    path.write_bytes(b"P5\n%d %d\n255\n" % (width, height) + grey.tobytes())


def _read_features(database: Path, names: Sequence[str]) -> list[Features]:
    found = []
    with library().Database.open(database) as file:
        for name in names:
            image = file.read_image_with_name(name)
            keypoints, descriptors = np.empty(0), np.empty(0)
            if image is not None and file.exists_keypoints(image.image_id):
                keypoints = file.read_keypoints(image.image_id)
                descriptors = file.read_descriptors(image.image_id).data
            keypoints = np.array(keypoints, np.float32).reshape(-1, 6)
            found.append(Features(keypoints, np.array(descriptors, np.uint8).reshape(-1, 128)))
    return found
