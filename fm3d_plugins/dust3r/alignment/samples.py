"""The pixels of every photo on which an alignment is solved, with what all pairs say of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.neighbours import connected_parts
from fm3d_plugins.geometry.rays import pixel_centers


@dataclass(frozen=True)
class PhotoSamples:
    """Some pixels of one photo, and every pair's points of them. Double precision."""

    pixels: Float[Tensor, "pixel 2"]
    """Their centres, corner of the first pixel at (0, 0)."""
    pairs: Int[Tensor, " pair"]
    """Which pairs the photo is in."""
    is_first: list[bool]
    """Whether it is the first photo there."""
    points: Float[Tensor, "pair pixel 3"]
    """In the frame and unit of the pair."""
    weights: Float[Tensor, "pair pixel"]
    """Logarithm of the confidence, at least 0, as in DUSt3R's objective."""


@dataclass(frozen=True)
class Samples:
    """All photos' samples, and the pairs' rows (first photo, second photo)."""

    photos: list[PhotoSamples]
    pairs: Int[Tensor, "pair 2"]

    def of(self, photo: int, pair: int) -> tuple[Float[Tensor, "pixel 3"], Float[Tensor, " pixel"]]:
        """What one pair says of a photo: points and weights."""
        samples = self.photos[photo]
        row = int((samples.pairs == pair).nonzero()[0])
        return samples.points[row], samples.weights[row]


def take_samples(
    pairs: Iterable[PairPointmaps], sizes: Sequence[tuple[int, int]], samples_per_photo: int
) -> Samples:
    """Read all pairs once and keep a regular grid of pixels of every photo.

    Args:
        sizes: (height, width) of every photo.
        samples_per_photo: About how many pixels of each are kept.

    Raises:
        ValueError: A pair names no photo or one photo twice, comes twice, has maps of the wrong
            size, values that are not finite or no confident point, or a photo is in no pair as
            its first, or not joined to the others. The message names pair or photos.
    """
    grids = [_grid(size, samples_per_photo) for size in sizes]
    rows: list[tuple[int, int]] = []
    kept: list[list[tuple[int, bool, Tensor, Tensor]]] = [[] for _ in sizes]
    for number, pair in enumerate(pairs):
        _require_usable(pair, sizes, rows)
        rows.append((pair.first, pair.second))
        for is_second, (photo, points, confidence) in enumerate(pair.sides):
            y, x = grids[photo]
            taken, sampled = points[y, x].double().cpu(), confidence[y, x].double().cpu()
            weights = sampled.clamp(min=1).log()
            _require_points(pair, photo, taken, weights)
            kept[photo].append((number, not is_second, taken, weights))
    _require_joined(rows, len(sizes))
    photos = []
    for each, grid, size in zip(kept, grids, sizes, strict=True):
        numbers, is_first, points, weights = zip(*each, strict=True)
        pixels = pixel_centers(*size, dtype=torch.float64)[grid]
        stacked = torch.stack(points), torch.stack(weights)
        photos.append(PhotoSamples(pixels, torch.tensor(numbers), list(is_first), *stacked))
    return Samples(photos, torch.tensor(rows))


def _grid(size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of about `count` pixels in the middles of equal cells."""
    step = max(1.0, (size[0] * size[1] / count) ** 0.5)
    y, x = (
        ((torch.arange(int(side / step) or 1) + 0.5) * side / (int(side / step) or 1)).long()
        for side in size
    )
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return rows.flatten(), columns.flatten()


def _require_usable(
    pair: PairPointmaps, sizes: Sequence[tuple[int, int]], rows: list[tuple[int, int]]
) -> None:
    name = f"The pair of photos {pair.first} and {pair.second}"
    is_within = all(0 <= photo < len(sizes) for photo in (pair.first, pair.second))
    if not is_within or pair.first == pair.second or (pair.first, pair.second) in rows:
        raise ValueError(
            f"{name} cannot be used: expected two different photos from 0 to {len(sizes) - 1}, "
            "and every ordered pair once. Drop that pair from the graph."
        )
    for photo, points, confidence in pair.sides:
        found = (tuple(points.shape[:2]), tuple(confidence.shape))
        if found != (sizes[photo], sizes[photo]):
            raise ValueError(
                f"{name} has maps of {found[0]} and {found[1]} (height, width) for photo {photo}; "
                f"expected {sizes[photo]}. Give the sizes that the network saw."
            )


def _require_points(
    pair: PairPointmaps,
    photo: int,
    points: Float[Tensor, "pixel 3"],
    weights: Float[Tensor, " pixel"],
) -> None:
    is_finite = bool(points.isfinite().all() and weights.isfinite().all())
    if not is_finite or int((weights > 0).sum()) < 3:
        raise ValueError(
            f"The pair of photos {pair.first} and {pair.second} says nothing of photo {photo}: "
            f"{'all confidences are 1' if is_finite else 'some values are not finite'}. Expected "
            "finite points, some with a confidence above 1. Drop that pair from the graph, or "
            "run the network in float32."
        )


def _require_joined(rows: list[tuple[int, int]], num_photos: int) -> None:
    lacking = sorted(set(range(num_photos)) - {first for first, _ in rows})
    if lacking:
        raise ValueError(
            f"No pair has the photos {lacking} as its first, so their focal lengths are unknown. "
            "Expected every pair in both orders: symmetrise the graph, or drop those photos."
        )
    part = connected_parts(np.array(rows), num_photos)
    missing = np.flatnonzero(part != part[0]).tolist()
    if missing:
        raise ValueError(
            f"The photos {missing} are not joined to photo 0 by any chain of pairs. Expected one "
            "connected graph: nothing says where they are. Add a pair that joins them, or "
            "reconstruct the two groups on their own."
        )
