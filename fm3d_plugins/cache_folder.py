"""Where this package keeps what it made or fetched: estimates, copies of photos, weights."""

import os
from pathlib import Path


def cache_folder(cache_dir: Path | None = None) -> Path:
    """The folder of all caches: the argument, FM3D_CACHE_DIR, or the user's cache folder."""
    from platformdirs import user_cache_path

    chosen = cache_dir or os.environ.get("FM3D_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else user_cache_path("fm3d_plugins")
