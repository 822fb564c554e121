"""COLMAP's database: cameras, features, and verified matches between pairs of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from fm3d_plugins.backends.pycolmap.features import Features
from fm3d_plugins.backends.pycolmap.running import Report, library, run_watched
from fm3d_plugins.disk_space import temporary_folder

TILE = 25
"""Images per side of a tile of pairs that is matched at once; progress is known between tiles."""


@dataclass(frozen=True)
class CameraGuess:
    """A camera before it is estimated."""

    width: int
    height: int
    center: tuple[float, float]
    """Principal point, pixels; it stays where it is."""
    focal: float
    """Pixels."""
    is_known: bool
    """Whether the focal length was told (by EXIF), not just guessed."""
    model: str
    """The lens: one of `CAMERA_MODELS`."""


def image_name(row: int) -> str:
    """How an image is called in COLMAP's files, whatever the photo's own name holds."""
    return f"{row:06d}"


def write_database(
    path: Path,
    cameras: Sequence[CameraGuess],
    camera_index: Sequence[int],
    features: Sequence[Features],
) -> None:
    """Make a database of images without matches.

    Args:
        path: A file that does not exist yet.
        cameras: The physical cameras.
        camera_index: Which camera took each image.
        features: Those of each image.
    """
    pycolmap = library()
    with pycolmap.Database.open(path) as file, pycolmap.DatabaseTransaction(file):
        for row, guess in enumerate(cameras, start=1):
            camera = pycolmap.Camera.create_from_model_name(
                row, guess.model, guess.focal, guess.width, guess.height
            )
            camera.principal_point_x, camera.principal_point_y = guess.center
            camera.has_prior_focal_length = guess.is_known
            file.write_camera(camera, use_camera_id=True)
            rig = pycolmap.Rig(rig_id=row)
            rig.add_ref_sensor(camera.sensor_id)
            file.write_rig(rig, use_rig_id=True)
        for row, (camera_row, found) in enumerate(zip(camera_index, features, strict=True)):
            image = pycolmap.Image(image_name(row), image_id=row + 1, camera_id=camera_row + 1)
            file.write_image(image, use_image_id=True)
            frame = pycolmap.Frame(frame_id=row + 1, rig_id=camera_row + 1)
            frame.add_data_id(image.data_id)
            file.write_frame(frame, use_frame_id=True)
            file.write_keypoints(row + 1, found.keypoints)
            sift = pycolmap.FeatureExtractorType.SIFT
            file.write_descriptors(row + 1, pycolmap.FeatureDescriptors(sift, found.descriptors))


def match_pairs(
    database: Path,
    pairs: Sequence[tuple[int, int]],
    *,
    seed: int,
    num_threads: int,
    report: Report | None = None,
) -> None:
    """Match the features of pairs of images and keep what one two-view geometry explains.

    Matches are mutual nearest neighbours, clearly nearer than the second nearest (ratio 0.8, Lowe
    2004); at least 15 must agree on a geometry. The same for any number of threads: every pair has
    its own generator of random numbers.
    """
    pycolmap = library()
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = num_threads
    matching.use_gpu = False
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    # Departure: 30 samples at least instead of 100. Most pairs need fewer for the confidence of
    # 0.999 that ends the search anyway; the same matches in two thirds of the time.
    verification.ransac.min_num_trials = 30
    done = 0
    for part in _tiles(pairs):
        _match_part(database, part, matching, verification)
        done += len(part)
        if report is not None:
            report(done)


def _tiles(pairs: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Parts of the pairs, each among few images: loading an image costs as much as matching it."""
    key = lambda pair: (pair[0] // TILE, pair[1] // TILE)  # noqa: E731
    parts: list[list[tuple[int, int]]] = []
    for _, tile in groupby(sorted(pairs, key=key), key=key):
        if parts and len(parts[-1]) < TILE * TILE // 2:
            parts[-1].extend(tile)
        else:
            parts.append(list(tile))
    return parts


def _match_part(database: Path, pairs: Sequence[tuple[int, int]], matching, verification) -> None:
    pycolmap = library()
    with temporary_folder("pairs") as folder:
        pairing = pycolmap.ImportedPairingOptions()
        pairing.match_list_path = Path(folder) / "pairs.txt"
        lines = [f"{image_name(a)} {image_name(b)}\n" for a, b in pairs]
        pairing.match_list_path.write_text("".join(lines))
        run_watched(
            lambda token: pycolmap.match_image_pairs(
                database,
                matching_options=matching,
                pairing_options=pairing,
                verification_options=verification,
                device=pycolmap.Device.cpu,
                cancellation_token=token,
            )
        )


def copy_matches(source: Path, target: Path) -> None:
    """Copy verified matches into a database of the same images, whose cameras may differ."""
    pycolmap = library()
    with pycolmap.Database.open(source) as found, pycolmap.Database.open(target) as file:
        with pycolmap.DatabaseTransaction(file):
            pair_ids, geometries = found.read_two_view_geometries()
            for pair_id, geometry in zip(pair_ids, geometries, strict=True):
                pair = pycolmap.pair_id_to_image_pair(pair_id)
                file.write_two_view_geometry(*pair, geometry)


def count_inliers(database: Path) -> dict[tuple[int, int], int]:
    """Matches that agree on a two-view geometry, for each pair of images that has any."""
    pycolmap = library()
    with pycolmap.Database.open(database) as file:
        pair_ids, counts = file.read_two_view_geometry_num_inliers()
    found = {}
    for pair_id, count in zip(pair_ids, counts, strict=True):
        first, second = pycolmap.pair_id_to_image_pair(pair_id)
        if count:
            found[first - 1, second - 1] = count
    return found


def read_matches(database: Path) -> dict[tuple[int, int], Int64[np.ndarray, "_match 2"]]:
    """Rows of the keypoints that agree on a two-view geometry, for each pair that has any.

    The first image of a pair is the one with the smaller row.
    """
    pycolmap = library()
    with pycolmap.Database.open(database) as file:
        pair_ids, geometries = file.read_two_view_geometries()
    found = {}
    for pair_id, geometry in zip(pair_ids, geometries, strict=True):
        first, second = pycolmap.pair_id_to_image_pair(pair_id)
        rows = np.asarray(geometry.inlier_matches, dtype=np.int64).reshape(-1, 2)
        if len(rows):
            ordered = first < second
            found[min(first, second) - 1, max(first, second) - 1] = (
                rows if ordered else rows[:, ::-1].copy()
            )
    return dict(sorted(found.items()))
