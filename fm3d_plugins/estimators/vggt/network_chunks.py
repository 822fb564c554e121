"""A network run on one chunk of photos after the other."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.estimators.chunks.plan import Chunks
from fm3d_plugins.estimators.chunks.prediction import ChunkPrediction
from fm3d_plugins.estimators.dense.cameras import mended_focals
from fm3d_plugins.estimators.dense.sky import sky_mask
from fm3d_plugins.photos.canvas import Canvas, NetworkPhotos, load_photos
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.vggt.inference import Geometry

Network = Callable[[Float[Tensor, "view 3 height width"]], Geometry]


def predictions(
    network: Network,
    chunks: Chunks,
    photos: PhotoSet,
    canvas: Canvas,
    *,
    drop_sky: bool,
    report: Callable[[int], None],
) -> Iterator[ChunkPrediction]:
    """What the network says of each chunk, made when it is asked for.

    Pixels outside the photos, masked ones and (if asked for) the sky have confidence 0.

    Args:
        report: Gets the number of photos seen so far.
    """
    done = 0
    for members in chunks.members:
        loaded = on_canvas(photos, canvas, members)
        seen = network(loaded.images)
        usable = loaded.usable
        if drop_sky:
            usable = usable & ~sky_of(loaded)
        intrinsics, fine = mended_focals(seen.intrinsics, max(canvas.width, canvas.height))
        if not bool(fine.all()):
            lost = [photos.photos[members[row]].name for row in (~fine).nonzero().flatten()]
            CONSOLE.print(
                f"Absurd fields of view, replaced by those of other photos: {', '.join(lost)}",
                style="yellow",
                markup=False,
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


def on_canvas(photos: PhotoSet, canvas: Canvas, rows: Sequence[int]) -> NetworkPhotos:
    """Some of the photos, read from their files."""
    return load_photos(
        [photos.photos[row] for row in rows], [canvas.placements[row] for row in rows], canvas
    )


def colors_on_canvas(photos: PhotoSet, canvas: Canvas, row: int) -> UInt8[Tensor, "height width 3"]:
    """One photo's colours, pixel by pixel of its depth map."""
    image = on_canvas(photos, canvas, [row]).images[0]
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0)


def sky_of(loaded: NetworkPhotos) -> Bool[Tensor, "view height width"]:
    """Pixels of photos on their canvas that show the sky, by looks (`sky_mask`)."""
    images = (loaded.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    # White margins above a photo are no sky, and must not stand between it and the border.
    masks = []
    for image, usable in zip(images, loaded.usable.numpy(), strict=True):
        rows = np.flatnonzero(usable.any(1))
        mask = np.zeros(usable.shape, bool)
        if len(rows):
            shown = slice(rows[0], rows[-1] + 1)
            mask[shown] = sky_mask(image[shown])
        masks.append(torch.from_numpy(mask & usable))
    return torch.stack(masks)
