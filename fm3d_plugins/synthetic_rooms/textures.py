"""Procedural albedo of the synthetic rooms; compiled by Numba.

A pattern gets the chart coordinates (u, v) and the extent of the chart in metres, the position in
the solid's own frame, and the footprint `w` of one sample in metres. Cells of a pattern draw
their colour and motif from a hash of their indices, so that nothing repeats and every corner has
its own surroundings. Colours are linear RGB.
"""

import math

import numpy as np

from fm3d_plugins.synthetic_rooms.noise import (
    fbm2,
    fbm3,
    hash01,
    kernel,
    mix,
    noise2,
    palette,
    ramp,
    shade,
)
from fm3d_plugins.synthetic_rooms.posters import poster
from fm3d_plugins.synthetic_rooms.scene import PATTERNS

(
    _PLASTER, _PLANKS, _BRICK, _TILES, _MARBLE, _SPOTS, _RUG, _POSTER, _SPINE, _GLOBE,
    _WALLPAPER, _WOOD, _QUILT, _SKY, _LANTERN,
) = range(len(PATTERNS))  # fmt: skip


@kernel
def _plaster(t, k, u, v, seed, scale, w):
    f = fbm2(u / scale, v / scale, seed, 6, w / scale)
    base = mix(palette(t, k, 0), palette(t, k, 1), 0.5 + 1.3 * f)
    stain = fbm2(0.37 * u / scale + 9.0, 0.37 * v / scale, seed + 5, 4, 0.37 * w / scale)
    base = mix(base, palette(t, k, 2), 3.0 * (stain - 0.08))
    brush = fbm2(4.0 * u / scale + 3.0 * f, 14.0 * v / scale, seed + 7, 4, 14.0 * w / scale)
    fleck = fbm2(22.0 * u / scale, 22.0 * v / scale, seed + 9, 3, 22.0 * w / scale)
    base = mix(base, palette(t, k, 3), 1.1 * abs(brush) + 1.6 * (fleck - 0.22))
    return shade(base, 1.0 + 0.25 * brush)


@kernel
def _planks(t, k, u, v, seed, scale, w):
    row = np.floor(v / scale)
    length = 7.0 * scale
    along = u / length + hash01(row, 1, 0, seed)
    board = np.floor(along)
    tone = hash01(row, board, 2, seed)
    shift = 50.0 * hash01(row, board, 3, seed)
    bend = 0.35 * fbm2(u / (4.0 * scale) + shift, v / scale, seed + 1, 3, w / scale)
    rings = 6.0 * (v / scale + bend) + shift
    grain = fbm2(0.35 * u / scale + shift, rings, seed + 2, 4, 6.0 * w / scale)
    fine = fbm2(3.0 * u / scale + shift, 24.0 * v / scale, seed + 3, 2, 24.0 * w / scale)
    color = mix(palette(t, k, 0), palette(t, k, 1), tone)
    color = mix(color, palette(t, k, 2), 0.25 + 1.6 * grain + 0.8 * fine)
    y, x = v / scale - row, along - board
    gap = min(min(y, 1.0 - y) * scale, min(x, 1.0 - x) * length)
    return mix(shade(palette(t, k, 2), 0.25), color, ramp(gap - 0.0025, max(w, 0.003)))


@kernel
def _brick(t, k, u, v, seed, scale, w):
    height = 0.36 * scale
    row = np.floor(v / height)
    along = u / scale + 0.5 * (np.int64(row) & 1) + 0.12 * hash01(row, 7, 0, seed)
    col = np.floor(along)
    tone, dark = hash01(row, col, 1, seed), hash01(row, col, 2, seed)
    rough = fbm2(9.0 * u / scale, 9.0 * v / scale, seed, 4, 9.0 * w / scale)
    color = mix(palette(t, k, 0), palette(t, k, 1), tone + 0.5 * rough)
    color = mix(color, palette(t, k, 3), 6.0 * (dark - 0.82))
    color = shade(color, 1.0 + 0.9 * rough)
    x, y = along - col, v / height - row
    edge = min(min(x, 1.0 - x) * scale, min(y, 1.0 - y) * height) + 0.006 * rough
    mortar = shade(palette(t, k, 2), 1.0 + 0.6 * rough)
    return mix(mortar, color, ramp(edge - 0.007, max(w, 0.003)))


@kernel
def _tiles(t, k, u, v, seed, scale, w):
    """Truchet tiles: two quarter circles, turned at random, on cells of random tone."""
    i, j = np.floor(u / scale), np.floor(v / scale)
    x, y = u / scale - i, v / scale - j
    w = w / scale
    if hash01(i, j, 0, seed) < 0.5:
        x = 1.0 - x
    near = min(math.hypot(x, y), math.hypot(1.0 - x, 1.0 - y))
    band = abs(near - 0.5) - (0.07 + 0.11 * hash01(i, j, 1, seed))
    color = mix(palette(t, k, 0), palette(t, k, 3), 0.9 * hash01(i, j, 2, seed))
    color = mix(color, palette(t, k, 2), ramp(0.27 - near, w))
    color = mix(palette(t, k, 1), color, ramp(band, w))
    wear = fbm2(3.0 * u / scale, 3.0 * v / scale, seed + 4, 5, 3.0 * w)
    edge = min(x, 1.0 - x, y, 1.0 - y) - 0.015
    return shade(color, (1.0 + 0.7 * wear) * (0.55 + 0.45 * ramp(edge, w)))


@kernel
def _marble(t, k, p, seed, scale, w):
    x, y, z = p[0] / scale, p[1] / scale, p[2] / scale
    bend = 2.2 * fbm3(x, y, z, seed, 3, w / scale)
    f = fbm3(x + bend, y - bend, 1.4 * z + bend, seed + 3, 5, 2.0 * w / scale)
    color = mix(palette(t, k, 0), palette(t, k, 1), 0.5 + 2.2 * f)
    color = mix(color, palette(t, k, 2), 5.0 * (f - 0.1))
    vein = abs(fbm3(x - bend, y, z + bend, seed + 8, 4, 2.0 * w / scale))
    return mix(palette(t, k, 3), color, ramp(vein - 0.018, 0.03 + w / scale))


@kernel
def _spots(t, k, p, seed, scale, w):
    """Solid dots of three sizes, at most one per cell and inside it, on a mottled ground."""
    mottle = fbm3(2.0 * p[0] / scale, 2.0 * p[1] / scale, 2.0 * p[2] / scale, seed, 4, w / scale)
    color = shade(palette(t, k, 0), 1.0 + 0.8 * mottle)
    size = scale
    for layer in range(3):
        x, y, z = p[0] / size, p[1] / size, p[2] / size
        i, j, m = np.floor(x), np.floor(y), np.floor(z)
        radius = 0.22 + 0.26 * hash01(i, j, m, seed + 10 + layer)
        free = 1.0 - 2.0 * radius
        dx = x - i - radius - free * hash01(i, j, m, seed + 20 + layer)
        dy = y - j - radius - free * hash01(i, j, m, seed + 30 + layer)
        dz = z - m - radius - free * hash01(i, j, m, seed + 40 + layer)
        inside = radius - math.sqrt(dx * dx + dy * dy + dz * dz)
        tone = np.int64(1.0 + 3.0 * hash01(i, j, m, seed + 50 + layer))
        color = mix(color, palette(t, k, tone), ramp(inside, w / size))
        size *= 0.61
    return shade(color, 1.0 + 0.3 * mottle)


@kernel
def _rug(t, k, u, v, extent_u, extent_v, seed, scale, w):
    """Woven bands: zigzag, lozenges, steps or dots by row, every row with its own two colours."""
    border = min(u, extent_u - u, v, extent_v - v)
    row = np.floor(v / scale)
    y = v / scale - row
    kind = np.int64(5.0 * hash01(row, 1, 0, seed))
    period = scale * (0.7 + 0.9 * hash01(row, 2, 0, seed))
    x = u / period + hash01(row, 3, 0, seed)
    cell = np.floor(x)
    x = abs(x - cell - 0.5) * 2.0
    ww = 2.0 * w / period
    d = x - y
    if kind == 1:
        d = x + abs(2.0 * y - 1.0) - 0.8
    elif kind == 2:
        d = 0.5 * np.floor(4.0 * x) / 2.0 - abs(y - 0.5)
    elif kind == 3:
        d = math.hypot(x, 2.0 * y - 1.0) - 0.3 - 0.5 * hash01(row, cell, 4, seed)
    elif kind == 4:
        d = abs(x - 0.5) + abs(y - 0.5) - 0.45
    a = np.int64(4.0 * hash01(row, 5, 0, seed))
    b = a + 1 + np.int64(2.99 * hash01(row, cell, 6, seed))
    color = mix(palette(t, k, a), palette(t, k, b), ramp(d, ww))
    color = mix(palette(t, k, b), color, ramp(min(y, 1.0 - y) - 0.07, w / scale))
    band = mix(
        palette(t, k, 0), palette(t, k, 2), ramp(noise2(9.0 * u, 9.0 * v, seed) - 0.5, 9.0 * w)
    )
    color = mix(band, color, ramp(border - 0.09, w))
    color = mix(color, palette(t, k, 3), ramp(0.012 - abs(border - 0.09), w))
    weave = fbm2(60.0 * u, 120.0 * v, seed + 7, 3, 90.0 * w)
    worn = fbm2(3.0 * u, 3.0 * v, seed + 8, 4, 3.0 * w)
    return shade(color, 1.0 + 0.35 * weave + 0.5 * worn)


@kernel
def _spine(t, k, u, v, extent_u, extent_v, seed, w):
    """A book's back: cloth, two bands, and a title of block letters that runs along it."""
    cloth = shade(palette(t, k, 0), 1.0 + 0.8 * fbm2(40.0 * u, 40.0 * v, seed, 4, 40.0 * w))
    s, across = v / extent_v, u / extent_u
    bands = min(abs(s - 0.12 - 0.1 * hash01(1, 0, 0, seed)), abs(s - 0.9)) - 0.018
    color = mix(palette(t, k, 1), cloth, ramp(bands, w / extent_v))
    cell = extent_u / 5.0
    i, j = np.floor(u / cell), np.floor(v / cell)
    written = 0.3 < s < 0.82 and 0.18 < across < 0.82 and np.int64(j) % 4 != 0
    if written and hash01(i, j, 2, seed) < 0.55:
        color = mix(color, palette(t, k, 2), min(1.0, 0.7 * cell / w))
    return color


@kernel
def _globe(t, k, p, seed, w):
    r = math.sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2])
    x, y, z = p[0] / r, p[1] / r, p[2] / r
    w = w / r
    f = fbm3(1.5 * x, 1.5 * y, 1.5 * z, seed, 6, 1.5 * w)
    relief = fbm3(6.0 * x, 6.0 * y, 6.0 * z, seed + 3, 4, 6.0 * w)
    land = mix(palette(t, k, 1), palette(t, k, 2), 0.5 + 1.6 * relief + 0.5 * abs(z))
    sea = shade(palette(t, k, 0), 1.0 + 1.4 * f + 0.5 * relief)
    color = mix(sea, land, ramp(f - 0.02, 0.012 + w))
    color = mix(color, palette(t, k, 3), 8.0 * (abs(z) + 0.25 * f - 0.86))
    lines = 6.0 / math.pi
    a, b = math.atan2(y, x) * lines, math.asin(min(1.0, max(-1.0, z))) * lines
    d = min(abs(a - np.rint(a)) * math.sqrt(x * x + y * y), abs(b - np.rint(b))) / lines
    return shade(color, 0.6 + 0.4 * ramp(d - 0.006, w))


@kernel
def _wallpaper(t, k, u, v, seed, scale, w):
    """Flowers of three to seven petals, each turned, sized and coloured by its cell."""
    i, j = np.floor(u / scale), np.floor(v / scale)
    ground = fbm2(2.0 * u / scale, 2.0 * v / scale, seed, 5, 2.0 * w / scale)
    color = shade(palette(t, k, 0), 1.0 + 0.45 * ground)
    radius = 0.24 + 0.24 * hash01(i, j, 1, seed)
    free = 1.0 - 2.0 * radius
    x = u / scale - i - radius - free * hash01(i, j, 2, seed)
    y = v / scale - j - radius - free * hash01(i, j, 3, seed)
    petals = 3 + np.int64(5.0 * hash01(i, j, 4, seed))
    angle = math.atan2(y, x) * petals * 0.5 + 6.28 * hash01(i, j, 5, seed)
    r = math.hypot(x, y)
    w = w / scale
    outline = radius * (0.45 + 0.55 * abs(math.cos(angle)))
    flower = 1 + np.int64(2.0 * hash01(i, j, 6, seed))
    leaf = mix(palette(t, k, flower), palette(t, k, 3), 1.5 * ground + 0.8 * (r / radius) - 0.4)
    color = mix(color, leaf, ramp(outline - r, w))
    return mix(color, palette(t, k, 3), ramp(0.22 * radius - r, w))


@kernel
def _wood(t, k, p, seed, scale, w):
    """Growth rings around the solid's x axis, bent by noise, with fibres along it."""
    x, y, z = p[0] / scale, p[1] / scale + 2.3, p[2] / scale + 3.1
    bend = 0.5 * fbm3(0.4 * x, y, z, seed, 3, w / scale)
    ring = math.sqrt(y * y + z * z) * 3.0 + 2.5 * bend
    saw = ring - np.floor(ring)
    fibre = fbm3(1.5 * x, 22.0 * y, 22.0 * z, seed + 5, 3, 22.0 * w / scale)
    cloud = fbm3(2.0 * x, 2.0 * y, 2.0 * z, seed + 6, 3, 2.0 * w / scale)
    color = mix(palette(t, k, 0), palette(t, k, 1), saw * saw * min(1.0, 0.5 * scale / w))
    return shade(mix(color, palette(t, k, 2), 1.2 * fibre + 0.9 * cloud), 1.0 + 0.3 * fibre)


@kernel
def _quilt(t, k, u, v, seed, scale, w):
    """Patches of cloth: plain, striped, checked, dotted or split along the diagonal."""
    i, j = np.floor(u / scale), np.floor(v / scale)
    x, y = u / scale - i, v / scale - j
    a = np.int64(4.0 * hash01(i, j, 1, seed))
    b = a + 1 + np.int64(2.99 * hash01(i, j, 2, seed))
    kind = np.int64(5.0 * hash01(i, j, 3, seed))
    count = 2.0 + np.floor(3.0 * hash01(i, j, 4, seed))
    fx, fy = abs(x * count - np.floor(x * count) - 0.5), abs(y * count - np.floor(y * count) - 0.5)
    ww = w / scale
    d = -1.0
    if kind == 1:
        d = 0.25 - fx
    elif kind == 2:
        d = (0.25 - fx) * (0.25 - fy) * 4.0
    elif kind == 3:
        d = 0.3 - math.hypot(fx, fy)
    elif kind == 4:
        d = (x - y) * count
    color = mix(palette(t, k, a), palette(t, k, b), ramp(d, ww * count))
    seam = min(x, 1.0 - x, y, 1.0 - y) - 0.02
    weave = fbm2(12.0 * u / scale, 12.0 * v / scale, seed + 6, 4, 12.0 * ww)
    return shade(color, (1.0 + 0.6 * weave) * (0.5 + 0.5 * ramp(seam, ww)))


@kernel
def _sky(t, k, u, v, extent_v, seed, w):
    """The view through a window: sky, clouds and two ridges of hills."""
    s = v / extent_v
    clouds = fbm2(2.0 * u, 4.0 * v, seed, 5, 4.0 * w)
    color = mix(palette(t, k, 1), palette(t, k, 0), s)
    color = mix(color, palette(t, k, 2), 4.0 * (clouds + 0.05) * s)
    far = 0.34 + 0.25 * fbm2(1.5 * u, 0.0, seed + 1, 5, 0.0)
    near = 0.2 + 0.25 * fbm2(2.5 * u, 7.0, seed + 2, 5, 0.0)
    color = mix(color, mix(palette(t, k, 3), palette(t, k, 1), 0.5), ramp(far - s, w))
    trees = shade(palette(t, k, 3), 1.0 + 2.0 * fbm2(20.0 * u, 20.0 * v, seed + 3, 4, 20.0 * w))
    return mix(color, trees, ramp(near - s, w))


@kernel
def _lantern(t, k, u, v, extent_v, seed, w):
    """A paper globe with ribs."""
    ring = 14.0 * v / extent_v
    rib = abs(ring - np.rint(ring)) - 0.07
    paper = 1.0 + 0.35 * fbm2(30.0 * u, 30.0 * v, seed, 3, 30.0 * w)
    return shade(palette(t, k, 0), paper * (0.62 + 0.38 * ramp(rib, 14.0 * w / extent_v)))


@kernel
def albedo(t, k, u, v, extent_u, extent_v, p, w):  # noqa: PLR0911, PLR0912 (compiled dispatch)
    """Diffuse colour of texture `k` of the table `t` at one point.

    Args:
        t: The texture table, one row per texture.
        u, v: Metres from the chart's corner; `extent_u`, `extent_v` the chart's size in metres.
        p: Position in the solid's own frame, metres.
        w: Footprint of the sample, metres.
    """
    kind, seed, scale = np.int64(t[k, 0]), np.int64(t[k, 1]), t[k, 2]
    if kind == _PLASTER:
        return _plaster(t, k, u, v, seed, scale, w)
    if kind == _PLANKS:
        return _planks(t, k, u, v, seed, scale, w)
    if kind == _BRICK:
        return _brick(t, k, u, v, seed, scale, w)
    if kind == _TILES:
        return _tiles(t, k, u, v, seed, scale, w)
    if kind == _MARBLE:
        return _marble(t, k, p, seed, scale, w)
    if kind == _SPOTS:
        return _spots(t, k, p, seed, scale, w)
    if kind == _RUG:
        return _rug(t, k, u, v, extent_u, extent_v, seed, scale, w)
    if kind == _POSTER:
        return poster(t, k, u, v, extent_u, extent_v, seed, w)
    if kind == _SPINE:
        return _spine(t, k, u, v, extent_u, extent_v, seed, w)
    if kind == _GLOBE:
        return _globe(t, k, p, seed, w)
    if kind == _WALLPAPER:
        return _wallpaper(t, k, u, v, seed, scale, w)
    if kind == _WOOD:
        return _wood(t, k, p, seed, scale, w)
    if kind == _QUILT:
        return _quilt(t, k, u, v, seed, scale, w)
    if kind == _SKY:
        return _sky(t, k, u, v, extent_v, seed, w)
    return _lantern(t, k, u, v, extent_v, seed, w)
