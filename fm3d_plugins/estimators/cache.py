"""Estimates on disk, found again by what they were made from."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from nerfstudio.utils.rich_utils import CONSOLE

from fm3d_plugins.cache_folder import cache_folder
from fm3d_plugins.estimators.base import Estimator
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.scene import FORMAT, SceneGeometry


def cache_key(estimator: Estimator, photos: PhotoSet) -> str:
    """A hash of photos, estimator, options, package version and file format."""
    made_from = {
        "photos": photos.digest,
        "package": version("fm3d-plugins"),
        "format": FORMAT,
        **estimator.identity(),
    }
    text = json.dumps(made_from, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def estimate_cached(
    estimator: Estimator, photos: PhotoSet, cache_dir: Path | None = None
) -> SceneGeometry:
    """The estimate for these photos: read when it was made before, otherwise made and kept.

    Processes that want the same estimate at once wait for the first (so do the ranks of a
    distributed run). A file that cannot be read is made anew.

    Raises:
        ValueError: The estimator finds nothing usable.
        OSError: The cache folder cannot be written.
    """
    folder = cache_folder(cache_dir) / "scenes"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"The cache folder {folder} cannot be made ({error.strerror}). Expected a folder that "
            "can be written. Choose another with --cache-dir or FM3D_CACHE_DIR."
        ) from error
    path = folder / f"{estimator.name}-{cache_key(estimator, photos)}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            try:
                scene = SceneGeometry.load(path)
            except ValueError as error:
                CONSOLE.print(str(error), style="yellow", markup=False)
            else:
                CONSOLE.print(f"Cameras of {len(scene)} photos read from {path}", markup=False)
                return scene
        scene = estimator.estimate(photos)
        scene.save(path)
    return scene
