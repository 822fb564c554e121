"""Structure from motion by pycolmap (COLMAP in process, CPU): features, matches, models.

The only package that touches pycolmap. What enters and leaves are arrays in this package's
conventions: pixels with the corner of the first pixel at (0, 0), OpenCV cameras, images named by
their row. COLMAP's own artefacts (a database file, folders of models) stay on disk where the
caller wants them.
"""

from fm3d_plugins.backends.pycolmap.database import (
    CameraGuess,
    copy_matches,
    count_inliers,
    match_pairs,
    write_database,
)
from fm3d_plugins.backends.pycolmap.features import Features, extract_features
from fm3d_plugins.backends.pycolmap.mapping import (
    LensSettings,
    MapperSettings,
    drop_views,
    map_globally,
    map_incrementally,
    refine_model,
)
from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.backends.pycolmap.running import library

__all__ = [
    "CameraGuess",
    "Features",
    "LensSettings",
    "MapperSettings",
    "SparseModel",
    "copy_matches",
    "count_inliers",
    "drop_views",
    "extract_features",
    "library",
    "map_globally",
    "map_incrementally",
    "match_pairs",
    "refine_model",
    "write_database",
]
