"""The ray caster of the synthetic rooms: what a ray meets, and how it is lit; compiled by Numba.

Light is stored as the radiance that a white diffuse surface would send out (irradiance / pi), so
that albedo times light is what the camera sees.
"""

import math

import numpy as np

from fm3d_plugins.synthetic_rooms.noise import entry, inlined, kernel
from fm3d_plugins.synthetic_rooms.shapes import (
    FIRST_CHART,
    chart_of,
    hit_solid,
    no_zeros,
    normal_at,
    slab,
    to_local,
    to_world,
)

OFFSET = 1e-4
"""Metres off a surface at which secondary rays start."""


@kernel
def trace(nodes, solids, o, d, t_max, hint, any_hit):
    """The nearest solid along a ray: its distance and row, or (t_max, -1).

    The tree lies in depth-first order; a node that is missed names the next one to look at.

    Args:
        o, d: Origin and unit direction; no component of `d` may be 0.
        hint: A solid that is likely to be hit, tested first; -1 for none.
        any_hit: Stop at the first solid found, whichever it is.
    """
    ix, iy, iz = 1.0 / d[0], 1.0 / d[1], 1.0 / d[2]
    px, py, pz = o[0] * ix, o[1] * iy, o[2] * iz
    best, found = t_max, -1
    if hint >= 0:
        t = hit_solid(solids, hint, o[0], o[1], o[2], d[0], d[1], d[2], 0.0)
        if t < best:
            best, found = t, hint
    node, num_nodes = 0, nodes.shape[0]
    while node < num_nodes:
        ax, bx = nodes[node, 0] * ix - px, nodes[node, 3] * ix - px
        ay, by = nodes[node, 1] * iy - py, nodes[node, 4] * iy - py
        az, bz = nodes[node, 2] * iz - pz, nodes[node, 5] * iz - pz
        enter = max(min(ax, bx), min(ay, by), min(az, bz))
        leave = min(max(ax, bx), max(ay, by), max(az, bz))
        if enter > leave or leave < 0.0 or enter > best:
            node = np.int64(nodes[node, 6])
            continue
        first = np.int64(nodes[node, 7])
        for s in range(first, first + np.int64(nodes[node, 8])):
            t = hit_solid(solids, s, o[0], o[1], o[2], d[0], d[1], d[2], 0.0)
            if t < best:
                best, found = t, s
                if any_hit:
                    return best, found
        node += 1
    return best, found


@kernel
def along(o, d, t):
    return o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]


@kernel
def ray_to(p, q):
    """Unit direction from p to q, and the distance."""
    x, y, z = q[0] - p[0], q[1] - p[1], q[2] - p[2]
    length = math.sqrt(x * x + y * y + z * z)
    return no_zeros((x / length, y / length, z / length)), length


@kernel
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@kernel
def row3(table, row, column):
    return table[row, column], table[row, column + 1], table[row, column + 2]


@inlined
def sunlight(nodes, solids, sun, p, n):
    """How much of the sun reaches a point through the window, times the cosine: 0 to 1.

    The window's edge is blurred over two centimetres, as by the sun's disc.
    """
    to_sun, inward = row3(sun, 0, 0), row3(sun, 0, 15)
    facing = dot(n, to_sun)
    if facing <= 0.0:
        return 0.0
    center = row3(sun, 0, 6)
    offset = (center[0] - p[0], center[1] - p[1], center[2] - p[2])
    t = dot(offset, inward) / dot(to_sun, inward)
    if t <= 0.0:
        return 0.0
    q = (t * to_sun[0] - offset[0], t * to_sun[1] - offset[1], t * to_sun[2] - offset[2])
    across, up = row3(sun, 0, 9), row3(sun, 0, 12)
    a, b = math.sqrt(dot(across, across)), math.sqrt(dot(up, up))
    inside = min(a - abs(dot(q, across)) / a, b - abs(dot(q, up)) / b)
    if inside <= 0.0:
        return 0.0
    start = along(p, n, OFFSET)
    if trace(nodes, solids, start, no_zeros(to_sun), t - 0.03, -1, True)[1] >= 0:
        return 0.0
    return facing * min(1.0, inside / 0.02)


@inlined
def light_at(charts, light, chart, u, v):
    """The light map, interpolated between its nodes."""
    nu, nv = np.int64(charts[chart, 1]), np.int64(charts[chart, 2])
    x = min(max(u, 0.0), 1.0) * (nu - 1)
    y = min(max(v, 0.0), 1.0) * (nv - 1)
    i, j = min(np.int64(x), nu - 2), min(np.int64(y), nv - 2)
    x, y = x - i, y - j
    at = np.int64(charts[chart, 0]) + j * nu + i
    a, b, c, d = (1.0 - x) * (1.0 - y), x * (1.0 - y), (1.0 - x) * y, x * y
    up = at + nu
    return (
        a * light[at, 0] + b * light[at + 1, 0] + c * light[up, 0] + d * light[up + 1, 0],
        a * light[at, 1] + b * light[at + 1, 1] + c * light[up, 1] + d * light[up + 1, 1],
        a * light[at, 2] + b * light[at + 1, 2] + c * light[up, 2] + d * light[up + 1, 2],
    )


@inlined
def surface(solids, s, p):
    """Local position, world normal, chart row and (u, v) of a point on solid `s`."""
    q = to_local(solids, s, p[0] - solids[s, 1], p[1] - solids[s, 2], p[2] - solids[s, 3])
    n = to_world(solids, s, normal_at(solids, s, q))
    face, u, v = chart_of(solids, s, q)
    return q, n, np.int64(solids[s, FIRST_CHART]) + face, u, v


@inlined
def first_hit(nodes, solids, o, d, hint):
    """Distance and row of what a ray meets; the room's shell when nothing else."""
    x = slab(o[0], d[0], -solids[0, 13], solids[0, 13])[1]
    y = slab(o[1], d[1], -solids[0, 14], solids[0, 14])[1]
    z = slab(o[2], d[2], 0.0, 2.0 * solids[0, 15])[1]
    wall = min(x, y, z)
    t, s = trace(nodes, solids, o, d, wall, hint, False)
    return t, max(s, 0)


@inlined
def camera_ray(rotation, intrinsics, x, y):
    """Unit direction in the world through pixel position (x, y), and its z in the camera."""
    a = (x - intrinsics[0, 2]) / intrinsics[0, 0]
    b = (y - intrinsics[1, 2]) / intrinsics[1, 1]
    z = 1.0 / math.sqrt(a * a + b * b + 1.0)
    d = (
        z * (rotation[0, 0] * a + rotation[0, 1] * b + rotation[0, 2]),
        z * (rotation[1, 0] * a + rotation[1, 1] * b + rotation[1, 2]),
        z * (rotation[2, 0] * a + rotation[2, 1] * b + rotation[2, 2]),
    )
    return no_zeros(d), z


@entry
def find_rows(tables, world_from_camera, intrinsics, first_row, depth, sun, charts):
    """Geometry of some rows of one view, at the pixels' centres.

    Args:
        world_from_camera: [4, 4], OpenCV.
        intrinsics: [3, 3], pixels.
        first_row: Row of the image that goes to row 0 of the outputs.
        depth: [rows, width], written: z in the camera.
        sun: [rows, width], written: see `sunlight`.
        charts: [rows, width], written: row of the chart that is seen.
    """
    o = (world_from_camera[0, 3], world_from_camera[1, 3], world_from_camera[2, 3])
    s = -1
    for i in range(depth.shape[0]):
        for j in range(depth.shape[1]):
            d, z = camera_ray(world_from_camera, intrinsics, j + 0.5, first_row + i + 0.5)
            t, s = first_hit(tables.nodes, tables.solids, o, d, s)
            p = along(o, d, t)
            _, n, chart, _, _ = surface(tables.solids, s, p)
            depth[i, j] = t * z
            sun[i, j] = sunlight(tables.nodes, tables.solids, tables.sun, p, n)
            charts[i, j] = chart
