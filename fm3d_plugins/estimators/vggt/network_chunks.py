"""A network run on one chunk of photos after the other."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.estimators.chunks.plan import Chunks
from fm3d_plugins.estimators.chunks.prediction import ChunkPrediction
from fm3d_plugins.estimators.dense.cameras import mended_focals
from fm3d_plugins.estimators.dense.seen_photos import SeenPhotos
from fm3d_plugins.progress import say
from fm3d_plugins.vggt.inference import Geometry

Network = Callable[[Float[Tensor, "view 3 height width"]], Geometry]


def predictions(
    network: Network,
    chunks: Chunks,
    photos: SeenPhotos,
    report: Callable[[int], None],
) -> Iterator[ChunkPrediction]:
    """What the network says of each chunk, made when it is asked for.

    Pixels that are of no use have confidence 0.

    Args:
        photos: Of one shape.
        report: Gets the number of photos seen so far.
    """
    done = 0
    for members in chunks.members:
        seen = network(torch.stack([photos.image(row) for row in members]))
        usable = torch.stack([photos.usable(row) for row in members])
        intrinsics, fine = mended_focals(seen.intrinsics, max(photos.common_shape))
        if not bool(fine.all()):
            lost = [photos.names[members[row]] for row in (~fine).nonzero().flatten()]
            say(
                f"Absurd fields of view, replaced by those of other photos: {', '.join(lost)}",
                "yellow",
            )
        done += len(members)
        report(done)
        yield ChunkPrediction(
            view_index=tuple(members),
            world_from_camera=seen.world_from_camera,
            intrinsics=intrinsics,
            depth=seen.depth,
            confidence=seen.confidence * usable,
        )
