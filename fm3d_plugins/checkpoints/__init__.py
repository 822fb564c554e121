"""Published weights: the catalogue, finding or fetching them, and loading them safely.

tensors = load(locate("facebook/VGGT-1B"))
"""

from fm3d_plugins.checkpoints.catalogue import CATALOGUE, about_small, weights_meant
from fm3d_plugins.checkpoints.loading import load, training_arguments, verify
from fm3d_plugins.checkpoints.locating import (
    CheckpointFile,
    FoundFile,
    find,
    locate,
    require_obtainable,
)

__all__ = [
    "CATALOGUE",
    "CheckpointFile",
    "FoundFile",
    "about_small",
    "find",
    "load",
    "locate",
    "require_obtainable",
    "training_arguments",
    "verify",
    "weights_meant",
]
