"""COLMAP's database: cameras, features, and verified matches between pairs of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fm3d_plugins.backends.pycolmap.running import library
from fm3d_plugins.backends.pycolmap.verification import CameraGuess, VerifiedMatches
from fm3d_plugins.disk_space import require_room

MATCH_BYTES, PAIR_BYTES = 8, 1000
"""Of a match, and of a pair's geometry."""


def image_name(row: int) -> str:
    """How an image is called in COLMAP's files, whatever the photo's own name holds."""
    return f"{row:06d}"


def write_database(
    path: Path,
    cameras: Sequence[CameraGuess],
    camera_index: Sequence[int],
    keypoints: Sequence[Float32[np.ndarray, "_feature 6"]],
    matches: Mapping[tuple[int, int], VerifiedMatches],
) -> None:
    """Make a database for the mappers, which ask for no descriptors.

    Args:
        path: A file that does not exist yet.
        cameras: The physical cameras.
        camera_index: Which camera took each image.
        keypoints: Of each image, as `Features` has them.
        matches: Of pairs of images.

    Raises:
        OSError: The disk has no room for it.
    """
    found = sum(len(each.rows) for each in matches.values())
    needed = sum(each.nbytes for each in keypoints) + MATCH_BYTES * found
    require_room(path.parent, 2 * needed + PAIR_BYTES * len(matches), "the matches of photos")
    pycolmap = library()
    with pycolmap.Database.open(path) as file, pycolmap.DatabaseTransaction(file):
        for row, guess in enumerate(cameras, start=1):
            camera = guess.camera(row)
            file.write_camera(camera, use_camera_id=True)
            rig = pycolmap.Rig(rig_id=row)
            rig.add_ref_sensor(camera.sensor_id)
            file.write_rig(rig, use_rig_id=True)
        for row, (camera_row, found) in enumerate(zip(camera_index, keypoints, strict=True)):
            image = pycolmap.Image(image_name(row), image_id=row + 1, camera_id=camera_row + 1)
            file.write_image(image, use_image_id=True)
            frame = pycolmap.Frame(frame_id=row + 1, rig_id=camera_row + 1)
            frame.add_data_id(image.data_id)
            file.write_frame(frame, use_frame_id=True)
            file.write_keypoints(row + 1, found)
        for (first, second), each in matches.items():
            file.write_two_view_geometry(first + 1, second + 1, _geometry(each))


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


def _geometry(found: VerifiedMatches):
    geometry = library().TwoViewGeometry()
    geometry.config = found.configuration
    geometry.F, geometry.E, geometry.H = found.fundamental, found.essential, found.homography
    geometry.inlier_matches = found.rows.astype(np.uint32)
    return geometry
