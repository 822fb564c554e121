"""Pictures for the walls of the synthetic rooms, each composed from its seed; compiled by Numba."""

import math

import numpy as np

from fm3d_plugins.synthetic_rooms.noise import (
    fbm2,
    hash01,
    kernel,
    mix,
    noise2,
    palette,
    ramp,
    shade,
)


@kernel
def _discs(t, k, x, y, aspect, seed, w):
    """Overlapping discs and rings, the later over the earlier."""
    color = shade(palette(t, k, 0), 1.0 + 0.3 * fbm2(4.0 * x, 4.0 * y, seed, 4, 4.0 * w))
    for i in range(16):
        radius = 0.06 + 0.22 * hash01(i, 1, 0, seed) ** 2
        d = math.hypot(x - aspect * hash01(i, 2, 0, seed), y - hash01(i, 3, 0, seed))
        paint = palette(t, k, 1 + np.int64(3.0 * hash01(i, 4, 0, seed)))
        if hash01(i, 5, 0, seed) < 0.4:
            color = mix(color, paint, ramp(0.018 - abs(d - radius), w))
        else:
            paint = shade(paint, 0.75 + 0.5 * hash01(i, 6, 0, seed))
            color = mix(color, paint, ramp(radius - d, w))
    return color


@kernel
def _ridges(t, k, x, y, seed, w):
    """Mountains behind mountains under a low sun."""
    color = mix(palette(t, k, 1), palette(t, k, 0), 1.2 * y)
    d = math.hypot(x - 0.2 - 0.4 * hash01(1, 1, 0, seed), y - 0.72)
    color = mix(color, palette(t, k, 2), ramp(0.11 - d, w))
    for i in range(6):
        height = 0.72 - 0.12 * i
        rough = fbm2((1.5 + 0.7 * i) * x + 3.7 * i, 0.5, seed + i, 6, 0.0)
        ridge = height + 0.28 * rough
        paint = mix(palette(t, k, 1), palette(t, k, 3), 0.15 + 0.17 * i)
        paint = shade(paint, 1.0 + 0.5 * fbm2(14.0 * x, 20.0 * y, seed + 9 + i, 3, 17.0 * w))
        color = mix(color, paint, ramp(ridge - y, w))
    return color


@kernel
def _splits(t, k, x, y, aspect, seed, w):
    """A rectangle cut in two again and again, ruled in the darkest colour."""
    x0, x1, y0, y1 = 0.0, aspect, 0.0, 1.0
    node, edge = 1, 1.0
    for _ in range(6):
        cut = 0.28 + 0.44 * hash01(node, 1, 0, seed)
        node *= 2
        if x1 - x0 > y1 - y0:
            at = x0 + cut * (x1 - x0)
            edge = min(edge, abs(x - at))
            x0, x1, node = (x0, at, node) if x < at else (at, x1, node + 1)
        else:
            at = y0 + cut * (y1 - y0)
            edge = min(edge, abs(y - at))
            y0, y1, node = (y0, at, node) if y < at else (at, y1, node + 1)
    color = palette(t, k, np.int64(3.0 * hash01(node, 2, 0, seed)))
    color = shade(color, 0.7 + 0.6 * hash01(node, 3, 0, seed))
    color = shade(color, 1.0 + 0.4 * fbm2(9.0 * x, 9.0 * y, seed + node, 4, 9.0 * w))
    return mix(palette(t, k, 3), color, ramp(edge - 0.008, w))


@kernel
def _shards(t, k, x, y, seed, w):
    """Stained glass: the cells of scattered seeds, leaded where two are equally near."""
    cx, cy = 6.0 * x, 6.0 * y
    i0, j0 = np.int64(np.floor(cx)), np.int64(np.floor(cy))
    first, second, tone = 9.0, 9.0, 0.0
    for dj in range(-1, 2):
        for di in range(-1, 2):
            i, j = i0 + di, j0 + dj
            d = math.hypot(i + hash01(i, j, 1, seed) - cx, j + hash01(i, j, 2, seed) - cy)
            if d < first:
                first, second, tone = d, first, hash01(i, j, 3, seed)
            elif d < second:
                second = d
    color = palette(t, k, np.int64(3.0 * tone))
    glow = 1.15 - 0.5 * first + 0.5 * fbm2(2.0 * cx, 2.0 * cy, seed + 4, 3, 12.0 * w)
    color = shade(color, glow * (0.7 + 0.6 * (37.0 * tone - np.floor(37.0 * tone))))
    return mix(palette(t, k, 3), color, ramp(second - first - 0.09, 6.0 * w))


@kernel
def _swirl(t, k, x, y, seed, w):
    """Bands of colour along bent level lines."""
    a = fbm2(1.3 * x, 1.3 * y, seed, 3, w)
    b = fbm2(1.3 * x + 7.0, 1.3 * y, seed + 1, 3, w)
    level = 13.0 * (0.7 * x + 0.4 * y + 0.9 * fbm2(x + 2.0 * a, y + 2.0 * b, seed + 2, 4, w))
    band = np.floor(level)
    near = min(level - band, band + 1.0 - level)
    color = palette(t, k, np.int64(4.0 * hash01(band, 1, 0, seed)))
    color = shade(color, 0.75 + 0.5 * hash01(band, 2, 0, seed))
    color = shade(color, 1.0 + 0.5 * fbm2(12.0 * x, 12.0 * y, seed + 5, 3, 12.0 * w))
    return mix(shade(palette(t, k, 3), 0.4), color, ramp(near - 0.05, 30.0 * w))


@kernel
def _page(t, k, x, y, aspect, seed, w):
    """A printed sheet: a headline of block letters, an initial, and lines of words."""
    color = shade(palette(t, k, 0), 1.0 + 0.12 * noise2(3.0 * x, 3.0 * y, seed))
    cell = aspect / 28.0 if y > 0.74 else aspect / 70.0
    i, j = np.int64(np.floor(x / cell)), np.int64(np.floor(y / cell))
    ink = hash01(i, j, 1, seed) < 0.6 and i % 4 != 3 and j % 6 < 5
    word = hash01(np.floor(i / 4), np.floor(j / 6), 2, seed) < 0.82
    if y < 0.74 and x < 0.36 * aspect and 0.42 < y < 0.7:
        d = math.hypot(x - 0.17 * aspect, y - 0.56)
        rays = math.cos(7.0 * math.atan2(y - 0.56, x - 0.17 * aspect) + 30.0 * d)
        inside = ramp(0.13 - d, w)
        return mix(color, mix(palette(t, k, 2), palette(t, k, 1), ramp(rays, 60.0 * w)), inside)
    if ink and word and 0.06 < y < 0.94 and 0.06 * aspect < x < 0.94 * aspect:
        paint = palette(t, k, 1 if y > 0.74 else 3)
        color = mix(color, paint, min(1.0, 0.8 * cell / w))
    return color


@kernel
def poster(t, k, u, v, extent_u, extent_v, seed, w):
    """A picture with a paper margin; the seed chooses among six kinds of composition."""
    margin = 0.06 * min(extent_u, extent_v)
    inside = min(u, extent_u - u, v, extent_v - v) - margin
    size = extent_v - 2.0 * margin
    x, y, w = (u - margin) / size, (v - margin) / size, w / size
    aspect = (extent_u - 2.0 * margin) / size
    style = seed % 6
    if style == 0:
        color = _discs(t, k, x, y, aspect, seed, w)
    elif style == 1:
        color = _ridges(t, k, x, y, seed, w)
    elif style == 2:
        color = _splits(t, k, x, y, aspect, seed, w)
    elif style == 3:
        color = _shards(t, k, x, y, seed, w)
    elif style == 4:
        color = _swirl(t, k, x, y, seed, w)
    else:
        color = _page(t, k, x, y, aspect, seed, w)
    return mix((0.72, 0.69, 0.62), color, ramp(inside / size, w))
