"""From rays to pixels: samples of a synthetic room are gathered, then painted; compiled by Numba.

Patterns are by far the largest part of the renderer. They are evaluated in one place, over a
buffer of samples, so that they are compiled once.

A sample is a row of COLUMNS numbers: its chart (-1 for none), metres u and v on the chart,
position in the solid's frame, footprint in metres, and the light it multiplies.
"""

import math

import numpy as np

from fm3d_plugins.synthetic_rooms.kernels import (
    OFFSET,
    along,
    camera_ray,
    dot,
    first_hit,
    light_at,
    row3,
    sunlight,
    surface,
)
from fm3d_plugins.synthetic_rooms.noise import entry, inlined, kernel, mix
from fm3d_plugins.synthetic_rooms.shapes import MISS, hit_solid, no_zeros
from fm3d_plugins.synthetic_rooms.textures import albedo

COLUMNS = 10


@inlined
def _gather(tables, s, o, d, t, footprint, sun, samples, row):
    """Describe a hit on solid `s` in a row of `samples`.

    Args:
        footprint: Width of the sample at the hit, metres across the ray.
        sun: What `sunlight` gives at the hit; negative to have it worked out here.
    """
    p = along(o, d, t)
    q, n, chart, u, v = surface(tables.solids, s, p)
    charts = tables.charts
    samples[row, 0] = chart
    samples[row, 1], samples[row, 2] = u * charts[chart, 3], v * charts[chart, 4]
    samples[row, 3], samples[row, 4], samples[row, 5] = q
    # Between the short and the long axis of the ellipse that the sample covers.
    samples[row, 6] = footprint / math.sqrt(max(abs(dot(n, d)), 0.04))
    glow = tables.textures[np.int64(charts[chart, 5]), 4]
    if glow > 0.0:
        samples[row, 7], samples[row, 8], samples[row, 9] = glow, glow, glow
        return
    r, g, b = light_at(tables.charts, tables.light, chart, u, v)
    if sun < 0.0:
        sun = sunlight(tables.nodes, tables.solids, tables.sun, p, n)
    c = row3(tables.sun, 0, 3)
    samples[row, 7] = r + sun * c[0]
    samples[row, 8] = g + sun * c[1]
    samples[row, 9] = b + sun * c[2]


@kernel
def _mirror(tables, s, o, d, t, footprint, samples, row):
    """Describe in a row of `samples` what solid `s` mirrors at a hit; the share of it is returned.

    Schlick's approximation of Fresnel reflection at refractive index 1.5, less two percent, so
    that surfaces of little gloss mirror at grazing angles alone and cost no ray elsewhere.
    """
    samples[row, 0] = -1.0
    p = along(o, d, t)
    _, n, chart, _, _ = surface(tables.solids, s, p)
    gloss = tables.textures[np.int64(tables.charts[chart, 5]), 3]
    back = dot(n, d)
    share = gloss * (0.04 + 0.96 * (1.0 - min(1.0, abs(back))) ** 5) - 0.02
    if share <= 0.0:
        return 0.0
    m = no_zeros(along(d, n, -2.0 * back))
    start = along(p, n, OFFSET)
    t2, s2 = first_hit(tables.nodes, tables.solids, start, m, -1)
    _gather(tables, s2, start, m, t2, 2.0 * footprint + 0.01 * t2, -1.0, samples, row)
    return share


@kernel
def _is_edge(charts, sun, i, j):
    """Whether another chart or an edge of the sun's light touches a pixel."""
    for y in range(max(i - 1, 0), min(i + 2, charts.shape[0])):
        for x in range(max(j - 1, 0), min(j + 2, charts.shape[1])):
            if charts[y, x] != charts[i, j] or abs(sun[y, x] - sun[i, j]) > 0.04:
                return True
    return False


@entry
def sample_rows(
    tables, world_from_camera, intrinsics, first_row, grid, depth, sun, charts, samples, shares
):
    """Gather the samples of some rows of one view, after `find_rows` on all its rows.

    A pixel takes `grid`^2 samples. Within one chart they share the solid, the sun and the mirror
    image of the centre; at edges each sample finds its own.

    Args:
        depth, sun, charts: [height, width], the whole view.
        samples: [rows * width * (grid^2 + 1), COLUMNS], written: pixel by pixel, the last one of a
            pixel is the mirror image.
        shares: [rows, width], written: the share of the mirror image.
    """
    o = (world_from_camera[0, 3], world_from_camera[1, 3], world_from_camera[2, 3])
    pixel = 1.0 / intrinsics[0, 0]
    count = grid * grid
    for row in range(shares.shape[0]):
        i = first_row + row
        for j in range(shares.shape[1]):
            first = (row * shares.shape[1] + j) * (count + 1)
            center = np.int64(tables.charts[charts[i, j], 6])
            d, z = camera_ray(world_from_camera, intrinsics, j + 0.5, i + 0.5)
            width, t = depth[i, j] * pixel, depth[i, j] / z
            shares[row, j] = _mirror(tables, center, o, d, t, width, samples, first + count)
            edge = _is_edge(charts, sun, i, j)
            for sample in range(count):
                x, y = (sample % grid + 0.5) / grid, (sample // grid + 0.5) / grid
                d, z = camera_ray(world_from_camera, intrinsics, j + x, i + y)
                s, light, t = center, sun[i, j], MISS
                if not edge:
                    t = hit_solid(tables.solids, s, o[0], o[1], o[2], d[0], d[1], d[2], 0.0)
                if t == MISS:
                    t, s = first_hit(tables.nodes, tables.solids, o, d, s)
                    light = -1.0
                w = t * z * pixel / grid
                _gather(tables, s, o, d, t, w, light, samples, first + sample)


@kernel
def _display(x):
    """A tone curve that is linear in the shadows and saturates like film, then sRGB's transfer."""
    x = 1.0 - math.exp(-max(x, 0.0))
    return 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1.0 / 2.4) - 0.055


@kernel
def _painted(charts, textures, samples, row):
    chart = np.int64(samples[row, 0])
    k, eu, ev = np.int64(charts[chart, 5]), charts[chart, 3], charts[chart, 4]
    p = (samples[row, 3], samples[row, 4], samples[row, 5])
    c = albedo(textures, k, samples[row, 1], samples[row, 2], eu, ev, p, samples[row, 6])
    return c[0] * samples[row, 7], c[1] * samples[row, 8], c[2] * samples[row, 9]


@entry
def paint_rows(charts, textures, samples, shares, own, exposure, rgb):
    """Evaluate the patterns at all samples and average them to display colours in [0, 1].

    Args:
        own: [rows, width], chart at the centre: its samples get the mirror image.
        rgb: [rows, width, 3], written.
    """
    count = samples.shape[0] // shares.size - 1
    mirror = (0.0, 0.0, 0.0)
    for i in range(shares.shape[0]):
        for j in range(shares.shape[1]):
            first = (i * shares.shape[1] + j) * (count + 1)
            if samples[first + count, 0] >= 0.0:
                mirror = _painted(charts, textures, samples, first + count)
            r, g, b = 0.0, 0.0, 0.0
            for row in range(first, first + count):
                c = _painted(charts, textures, samples, row)
                if samples[row, 0] == own[i, j]:
                    c = mix(c, mirror, shares[i, j])
                # One bright sample must not outshine the others: edges of lamps would stay jagged.
                r, g, b = r + min(c[0], 4.0), g + min(c[1], 4.0), b + min(c[2], 4.0)
            scale = exposure / count
            rgb[i, j, 0], rgb[i, j, 1] = _display(r * scale), _display(g * scale)
            rgb[i, j, 2] = _display(b * scale)
