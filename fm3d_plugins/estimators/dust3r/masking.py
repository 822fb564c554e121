"""What DUSt3R says of pixels that are of no use is given no weight."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.dust3r.network import PairPrediction
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.estimators.dense.depth_store import DepthStore
from fm3d_plugins.estimators.dense.seen_photos import SeenPhotos
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.photos.canvas import padded
from fm3d_plugins.view_depth import ViewDepth

NO_CONFIDENCE = 1.0
"""The network's lowest confidence: its logarithm, the weight of a pixel, is 0."""


def masked_pair(photos: SeenPhotos, first: int, second: int, seen: PairPrediction) -> PairPointmaps:
    """What the network says of two photos, with no confidence for pixels of no use."""
    sure_first, sure_second = (
        torch.where(photos.usable(row), confidence, NO_CONFIDENCE)
        for row, confidence in ((first, seen.confidence_first), (second, seen.confidence_second))
    )
    return PairPointmaps(
        first, second, seen.points_first, sure_first, seen.points_second_in_first, sure_second
    )


def view_depth(
    photos: SeenPhotos,
    map_from_photo: PixelMap,
    depth: Sequence[Float[Tensor, "_rows _columns"]],
    confidence: Sequence[Float[Tensor, "_rows _columns"]],
) -> ViewDepth:
    """Maps of all photos, padded to a common shape, with confidence 1 - 1/c.

    Args:
        depth: z-depth, scene units; not positive is unknown.
        confidence: The network's, from 1.
    """
    store = DepthStore((len(depth), *photos.common_shape), map_from_photo)
    for row, (own, certainty) in enumerate(zip(depth, confidence, strict=True)):
        known = photos.usable(row) & (own > 0) & (certainty > NO_CONFIDENCE)
        relative = torch.where(known, 1 - 1 / certainty, 0.0).float()
        maps = (padded(values, photos.common_shape) for values in (own.float(), relative))
        store.put(row, *maps)
    return store.finished(torch.ones(len(depth), dtype=torch.float64), photos.all_colors)
