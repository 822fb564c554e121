"""How alike photos look, without weights: which ones may show the same place."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

THUMBNAIL_SIDE = 16
"""Cells along each side of the grey thumbnail, whatever the photo's shape."""

COLOR_LEVELS = 4
"""Bins of the histogram along each of the three colour channels."""

COLOR_PIXELS = 2**14
"""About how many pixels, evenly spread, the histogram counts."""

COLOR_SHARE = 0.5
"""Share of the colour histogram in the similarity; the thumbnail has the rest."""


def photo_descriptor(
    photo: Float[Tensor, "height width 3"] | UInt8[Tensor, "height width 3"],
) -> Float[Tensor, " length"]:
    """What a photo looks like: a grey thumbnail without its mean, and a histogram of colours.

    A unit vector, shorter for a photo of one colour, which has no shape to compare.

    Args:
        photo: RGB; numbers in [0, 1], or bytes.
    """
    rgb = photo.float() / 255 if photo.dtype == torch.uint8 else photo.float()
    grey = rgb @ rgb.new_tensor([0.299, 0.587, 0.114])
    thumbnail = adaptive_avg_pool2d(grey[None], THUMBNAIL_SIDE).flatten()
    # What varies by less than a grey level is rounding, which must not become a shape.
    shape = normalize(thumbnail - thumbnail.mean(), dim=0, eps=THUMBNAIL_SIDE / 255)
    # The root of a histogram: its inner product is Bhattacharyya's coefficient.
    stride = max(1, math.isqrt(grey.numel() // COLOR_PIXELS))
    colors = _color_histogram(rgb[::stride, ::stride].flatten(0, 1)).sqrt()
    return torch.cat([(1 - COLOR_SHARE) ** 0.5 * shape, COLOR_SHARE**0.5 * colors])


def photo_descriptors(
    photos: Iterable[Float[Tensor, "_height _width 3"] | UInt8[Tensor, "_height _width 3"]],
) -> Float[Tensor, "photo length"]:
    """`photo_descriptor` of each; photos may differ in size and are taken one at a time."""
    return torch.stack([photo_descriptor(photo) for photo in photos])


def similarity_matrix(descriptors: Float[Tensor, "photo length"]) -> Float[Tensor, "photo photo"]:
    """Cosine of every pair, in [-1, 1]; a descriptor of zeros is like nothing."""
    unit = normalize(descriptors, dim=-1)
    return (unit @ unit.T).clamp(-1, 1)


def nearest_pairs(
    similarity: Float[Tensor, "photo photo"], neighbours: int
) -> list[tuple[int, int]]:
    """Each photo with those most like it: rows of two photos, the smaller first, sorted.

    Args:
        similarity: Larger is more alike; the diagonal has no meaning.
        neighbours: Of each photo; it may have more: those whose neighbour it is.
    """
    others = similarity.clone().fill_diagonal_(-torch.inf)
    count = min(neighbours, len(similarity) - 1)
    nearest = others.sort(dim=1, descending=True, stable=True).indices[:, :count].tolist()
    return sorted({(min(a, b), max(a, b)) for a, alike in enumerate(nearest) for b in alike})


def looks_like_a_sequence(similarity: Float[Tensor, "photo photo"]) -> bool:
    """Whether the photos' order is a walk: next neighbours look more alike than others.

    True if, for most photos, one of the two beside it ranks in the first tenth (or the first two)
    of all others by similarity. By chance that is so for about a fifth.
    """
    num_photos = len(similarity)
    if num_photos < 3:
        return True
    others = similarity.clone().fill_diagonal_(-torch.inf)
    ranks = others.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    place = torch.arange(num_photos)
    before = ranks[place[1:], place[:-1]]
    after = ranks[place[:-1], place[1:]]
    best = torch.full((num_photos,), num_photos)
    best[1:] = before
    best[:-1] = torch.minimum(best[:-1], after)
    return bool((best < max(2, num_photos // 10)).float().mean() > 0.5)


def _color_histogram(colors: Float[Tensor, "pixel 3"]) -> Float[Tensor, " bin"]:
    """Shares of the colours, each split between the bins on both sides of its value."""
    place = colors.clamp(0, 1) * (COLOR_LEVELS - 1)
    low = place.floor().clamp(max=COLOR_LEVELS - 2)
    part = place - low
    total = colors.new_zeros(COLOR_LEVELS**3)
    radix = torch.tensor([COLOR_LEVELS**2, COLOR_LEVELS, 1], device=colors.device)
    for corner in range(8):
        upper = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=colors.device)
        share = torch.where(upper.bool(), part, 1 - part).prod(dim=-1)
        total.index_add_(0, ((low.long() + upper) * radix).sum(-1), share)
    return total / len(colors)
