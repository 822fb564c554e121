"""Published weights: the catalogue, finding or fetching them, and loading them safely.

tensors = load(locate("facebook/VGGT-1B"))
"""

from fm3d_plugins.checkpoints.catalogue import (
    CATALOGUE,
    UNKNOWN_LICENCE,
    Licence,
    PublishedCheckpoint,
)
from fm3d_plugins.checkpoints.loading import (
    Verification,
    load,
    training_arguments,
    verify,
)
from fm3d_plugins.checkpoints.locating import (
    CheckpointFile,
    FoundFile,
    find,
    is_offline,
    locate,
)

__all__ = [
    "CATALOGUE",
    "UNKNOWN_LICENCE",
    "CheckpointFile",
    "FoundFile",
    "Licence",
    "PublishedCheckpoint",
    "Verification",
    "find",
    "is_offline",
    "load",
    "locate",
    "training_arguments",
    "verify",
]
