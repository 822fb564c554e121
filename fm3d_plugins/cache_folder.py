"""Where this package keeps what it made or fetched: estimates, copies of photos, weights."""

import os
from pathlib import Path


def cache_folder(cache_dir: Path | None = None) -> Path:
    """The folder of all caches: the argument, FM3D_CACHE_DIR, or the user's cache folder.

    Raises:
        ValueError: It begins with `~NAME`, and there is no user of that name.
    """
    from platformdirs import user_cache_path

    chosen = cache_dir or os.environ.get("FM3D_CACHE_DIR")
    try:
        return Path(chosen).expanduser() if chosen else user_cache_path("fm3d_plugins")
    except RuntimeError as error:
        raise ValueError(
            f"The cache folder {chosen} cannot be found ({error}). Expected a folder that can be "
            "written. Change --cache-dir or FM3D_CACHE_DIR."
        ) from error
