"""Which parts of a picture that stands still lie behind the thing.

A vase of one colour in the middle, or the turntable itself, stand as still as the wall.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from fm3d_plugins.backgrounds.regions import frame_of
from fm3d_plugins.backgrounds.sights import Sight, mean_around

WINDOW = 15
"""Pixels of a small copy along the side of the squares whose detail tells of a part."""

LEAST_SEEN = 0.25
"""Share of the photos that show a pixel of the picture. The thing is before all others."""

EDGE, FAINT_EDGE = 0.03, 0.012
"""Change of colour from pixel to pixel between two parts of the picture, and where it goes on."""

NARROW, BROAD = 2.0, 10.0
"""Half the width in pixels of a gap in an outline, and of what is told apart in spite of one."""

MOVING = 0.8
"""A pixel that a smaller share of the photos shows is sometimes before the thing or behind it."""

GRAIN, LEAST_GRAIN, SAME_GRAIN = 7, 0.012, 0.7
"""Pixels along the side of the squares that tell texture, the least deviation of their brightness,
and the least correlation with a photo's."""

WIDE = 6.0
"""Half the width in pixels of what is texture; narrower it may be an outline."""

MARK_THING, MARK_BEHIND = 1, 2
"""What a pixel is told to show; 0: it is not told yet."""


def lies_behind(
    sights: Sequence[Sight], picture: Float[np.ndarray, "h w 3"]
) -> Bool[np.ndarray, "h w"]:
    """What of the picture is behind the thing, and not a part of the thing that always looks alike.

    Texture that stands still does, as on a thing it would turn. Of what is plain, a part between
    edges does if it reaches the photo's border, if nothing moves beside it, or if it has faint
    detail. From there both go on as far as the strongest edge between them.
    """
    from scipy import ndimage

    alike = np.stack([sight.alike(picture) for sight in sights])
    seen = alike.mean(0)
    may_be = seen >= LEAST_SEEN
    texture = may_be & _has_texture(sights, picture, alike)
    # A pixel more, as outlines have gaps.
    slope = _slope(picture)
    to_edge = _to_edge(may_be & (ndimage.binary_dilation(_edges(slope)) == 0))
    parts = np.empty(seen.shape, np.int32)
    ndimage.label(to_edge > NARROW, output=parts)
    numbers = np.arange(parts.max() + 1)
    is_behind = _reaches_border(to_edge, parts, numbers)
    is_behind |= _has_detail(sights, picture, alike, parts, numbers)
    beside = ndimage.binary_dilation(seen < MOVING, iterations=3)
    is_behind |= ndimage.maximum(beside, parts, numbers) == 0
    is_behind |= ndimage.mean(texture, parts, numbers) >= 1 / 2
    is_behind[0] = False
    marks = np.where(parts > 0, MARK_THING, 0)
    marks[texture | is_behind[parts]] = MARK_BEHIND
    if not (marks == MARK_THING).any():  # As in tiny photos.
        marks[~may_be] = MARK_THING
    if not marks.any():
        return marks > 0
    # In thousandths; a quarter and more from pixel to pixel is as steep as it can be.
    heights = (1000 * slope).clip(0, 255).astype(np.uint8)
    regions = ndimage.watershed_ift(heights, marks.astype(np.int16), np.ones((3, 3), int))
    return (regions == MARK_BEHIND) & may_be


def _has_texture(
    sights: Sequence[Sight],
    picture: Float[np.ndarray, "h w 3"],
    alike: Bool[np.ndarray, "photo h w"],
) -> Bool[np.ndarray, "h w"]:
    """Where there is fine texture all around, the same in most of the photos that are alike."""
    grain, power = _grain(picture)
    agree = np.zeros(grain.shape, int)
    for sight, where in zip(sights, alike, strict=True):
        own, others = _grain(sight.colors)
        product = mean_around(own * grain, GRAIN)
        agree += where & (product >= SAME_GRAIN * np.sqrt(others * power))
    is_same = agree >= np.maximum(1, alike.sum(0)) / 2
    texture = is_same & (power > LEAST_GRAIN**2)
    core = _to_edge(texture) > WIDE
    # The squares reach beyond what they tell of.
    return _to_edge(~core) <= WIDE - GRAIN // 2


def _grain(
    colors: Float[np.ndarray, "h w 3"],
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Brightness less its mean around, and the mean of its square around."""
    bright = colors.mean(-1)
    rest = bright - mean_around(bright, GRAIN)
    return rest, mean_around(rest * rest, GRAIN)


def _reaches_border(
    to_edge: Float[np.ndarray, "h w"],
    parts: Int[np.ndarray, "h w"],
    numbers: Int[np.ndarray, " part"],
) -> Bool[np.ndarray, " part"]:
    """Whether parts reach the photo's border; those that are not broad also by a narrow way."""
    from scipy import ndimage

    at_border = frame_of(*parts.shape, share=0.01).numpy()
    whole = np.empty(parts.shape, np.int32)
    ndimage.label(to_edge > 0, output=whole)
    by_any_way = ndimage.maximum(at_border, whole, np.arange(whole.max() + 1)) > 0
    is_broad = ndimage.maximum(to_edge, parts, numbers) >= BROAD
    joined = by_any_way[ndimage.maximum(whole, parts, numbers).astype(int)]
    return (ndimage.maximum(at_border, parts, numbers) > 0) | joined & ~is_broad


def _has_detail(
    sights: Sequence[Sight],
    picture: Float[np.ndarray, "h w 3"],
    alike: Bool[np.ndarray, "photo h w"],
    parts: Int[np.ndarray, "h w"],
    numbers: Int[np.ndarray, " part"],
) -> Bool[np.ndarray, " part"]:
    """Whether most of a part has detail that stands still."""
    from scipy import ndimage

    same = np.stack([sight.same(picture, WINDOW)[1] for sight in sights])
    has_detail = (same & alike).sum(0) >= np.maximum(1, alike.sum(0)) / 2
    # Of a part that is wide enough, its core: squares at its edge show what is beyond.
    to_edge = _to_edge(parts > 0)
    width = ndimage.maximum(to_edge, parts, numbers)[parts]
    is_core = to_edge > np.minimum(WINDOW / 2, width / 2)
    return ndimage.mean(has_detail, np.where(is_core, parts, 0), numbers) >= 1 / 2


def _to_edge(inside: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Pixels from each to the nearest that is not inside: 0 there. A border is no edge."""
    from scipy import ndimage

    return np.asarray(ndimage.distance_transform_edt(inside), float)


def _edges(slope: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Where the colour changes at once, and fainter lines that go on from there."""
    from scipy import ndimage

    is_line = (slope > FAINT_EDGE) & (slope > 1.5 * mean_around(slope, WINDOW))
    return ndimage.binary_propagation(slope > EDGE, np.ones((3, 3)), is_line | (slope > EDGE))


def _slope(picture: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Change of colour from pixel to pixel."""
    down, across = np.gradient(picture, axis=(0, 1))
    return np.sqrt(down**2 + across**2).max(-1)
