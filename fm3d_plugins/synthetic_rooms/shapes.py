"""Ray intersection, charts and normals of the solids of a synthetic room; compiled by Numba.

A row of the solid table holds kind, centre (3), rotation local_from_world (9, by rows), size (3),
the extra length, and the first of its charts. Sizes are half extents of boxes, semi-axes of
ellipsoids, (bottom radius, top radius, half height) of frustums and (ring radius, tube radius) of
tori; the extra length is the rounding of a rounded box. A chart is a rectangle (u, v) in [0, 1]^2
laid over one face: it carries texture coordinates and the light map.
"""

import math

import numpy as np

from fm3d_plugins.synthetic_rooms.noise import inlined, kernel
from fm3d_plugins.synthetic_rooms.scene import SHAPES

SHELL, BOX, ROUNDED_BOX, ELLIPSOID, FRUSTUM, TORUS = range(len(SHAPES))
FIRST_CHART = 17
"""Column of the solid table."""

MISS = 1e30
_TWO_PI = 2.0 * math.pi


@kernel
def to_local(solids, s, x, y, z):
    """A world vector in the axes of solid `s`; subtract the centre first from a point."""
    return (
        solids[s, 4] * x + solids[s, 5] * y + solids[s, 6] * z,
        solids[s, 7] * x + solids[s, 8] * y + solids[s, 9] * z,
        solids[s, 10] * x + solids[s, 11] * y + solids[s, 12] * z,
    )


@kernel
def to_world(solids, s, p):
    """A vector in the axes of solid `s` in world axes; add the centre to get a point."""
    return (
        solids[s, 4] * p[0] + solids[s, 7] * p[1] + solids[s, 10] * p[2],
        solids[s, 5] * p[0] + solids[s, 8] * p[1] + solids[s, 11] * p[2],
        solids[s, 6] * p[0] + solids[s, 9] * p[1] + solids[s, 12] * p[2],
    )


@kernel
def no_zeros(d):
    """A direction that `slab` can divide by."""
    return (
        d[0] if abs(d[0]) > 1e-12 else 1e-12,
        d[1] if abs(d[1]) > 1e-12 else 1e-12,
        d[2] if abs(d[2]) > 1e-12 else 1e-12,
    )


@kernel
def slab(o, d, low, high):
    """Where a ray enters and leaves the space low <= x <= high along one axis; d is not 0."""
    a, b = (low - o) / d, (high - o) / d
    return (a, b) if a < b else (b, a)


@kernel
def _box_span(o, d, hx, hy, hz):
    ax, bx = slab(o[0], d[0], -hx, hx)
    ay, by = slab(o[1], d[1], -hy, hy)
    az, bz = slab(o[2], d[2], -hz, hz)
    return max(ax, ay, az), min(bx, by, bz)


@inlined
def _hit_ellipsoid(o, d, sx, sy, sz, t_min):
    ox, oy, oz = o[0] / sx, o[1] / sy, o[2] / sz
    dx, dy, dz = d[0] / sx, d[1] / sy, d[2] / sz
    a = dx * dx + dy * dy + dz * dz
    b = (ox * dx + oy * dy + oz * dz) / a
    # The distance of the line from the centre, without cancellation of large squares.
    px, py, pz = ox - b * dx, oy - b * dy, oz - b * dz
    rest = 1.0 - (px * px + py * py + pz * pz)
    if rest < 0.0:
        return MISS
    root = math.sqrt(rest / a)
    if -b - root > t_min:
        return -b - root
    return -b + root if -b + root > t_min else MISS


@inlined
def _hit_frustum(o, d, r0, r1, h, t_min):
    slope = (r1 - r0) / (2.0 * h)
    middle = 0.5 * (r0 + r1)
    best = MISS
    radius, growth = middle + slope * o[2], slope * d[2]
    a = d[0] * d[0] + d[1] * d[1] - growth * growth
    b = o[0] * d[0] + o[1] * d[1] - radius * growth
    c = o[0] * o[0] + o[1] * o[1] - radius * radius
    rest = b * b - a * c
    if rest > 0.0 and a != 0.0:
        root = math.sqrt(rest)
        for sign in (-1.0, 1.0):
            t = (-b + sign * root) / a
            z = o[2] + t * d[2]
            if t_min < t < best and abs(z) <= h and middle + slope * z >= 0.0:
                best = t
    for sign in (-1.0, 1.0):
        t = (sign * h - o[2]) / d[2]
        r = r1 if sign > 0.0 else r0
        x, y = o[0] + t * d[0], o[1] + t * d[1]
        if t_min < t < best and x * x + y * y <= r * r:
            best = t
    return best


@kernel
def _distance(kind, x, y, z, sx, sy, sz, extra):
    """Signed distance to a rounded box or a torus, and its gradient."""
    if kind == TORUS:
        ring = math.sqrt(x * x + y * y)
        out = ring - sx
        length = math.sqrt(out * out + z * z)
        if length < 1e-12 or ring < 1e-12:
            return length - sy, 0.0, 0.0, 1.0
        scale = out / (length * ring)
        return length - sy, x * scale, y * scale, z / length
    qx = x - min(max(x, extra - sx), sx - extra)
    qy = y - min(max(y, extra - sy), sy - extra)
    qz = z - min(max(z, extra - sz), sz - extra)
    length = math.sqrt(qx * qx + qy * qy + qz * qz)
    if length < 1e-12:
        return -extra, 0.0, 0.0, 1.0
    return length - extra, qx / length, qy / length, qz / length


@kernel
def _march(kind, o, d, sx, sy, sz, extra, t, t_end):
    """Sphere tracing down to a micrometre, then Newton steps to rounding error."""
    for _ in range(128):
        f = _distance(kind, o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2], sx, sy, sz, extra)[0]
        if f < 1e-6:
            break
        t += f
        if t > t_end:
            return MISS
    for _ in range(4):
        f, gx, gy, gz = _distance(
            kind, o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2], sx, sy, sz, extra
        )
        speed = gx * d[0] + gy * d[1] + gz * d[2]
        if f < -1e-4 or speed > -1e-3:  # started inside, or a grazing ray: close enough already
            break
        t -= f / speed
    return t


@kernel
def hit_solid(solids, s, ox, oy, oz, dx, dy, dz, t_min):
    """Distance along a ray to the first surface of solid `s` beyond `t_min`, or MISS.

    A ray that starts inside meets the surface from within.
    """
    o = to_local(solids, s, ox - solids[s, 1], oy - solids[s, 2], oz - solids[s, 3])
    d = no_zeros(to_local(solids, s, dx, dy, dz))
    kind = np.int64(solids[s, 0])
    sx, sy, sz, extra = solids[s, 13], solids[s, 14], solids[s, 15], solids[s, 16]
    if kind == ELLIPSOID:
        return _hit_ellipsoid(o, d, sx, sy, sz, t_min)
    if kind == FRUSTUM:
        return _hit_frustum(o, d, sx, sy, sz, t_min)
    hx, hy, hz = (sx + sy, sx + sy, sy) if kind == TORUS else (sx, sy, sz)
    enter, leave = _box_span(o, d, hx, hy, hz)
    if enter > leave or leave < t_min:
        return MISS
    if kind == SHELL:
        return leave
    if kind == BOX:
        return enter if enter > t_min else leave
    return _march(kind, o, d, sx, sy, sz, extra, max(enter, t_min), leave)


@kernel
def _box_face(p, sx, sy, sz):
    """The face nearest to a point of the surface: 2 * axis, + 1 on the positive side."""
    ax, ay, az = abs(p[0]) / sx, abs(p[1]) / sy, abs(p[2]) / sz
    if ax >= ay and ax >= az:
        return 1 if p[0] > 0.0 else 0
    if ay >= az:
        return 3 if p[1] > 0.0 else 2
    return 5 if p[2] > 0.0 else 4


@inlined
def chart_of(solids, s, p):
    """Chart number within solid `s` and (u, v) in [0, 1] of a surface point in local axes.

    On upright faces u runs to the right for who looks at the face, and v runs up.
    """
    kind = np.int64(solids[s, 0])
    sx, sy, sz = solids[s, 13], solids[s, 14], solids[s, 15]
    if kind == ELLIPSOID:
        x, y, z = p[0] / sx, p[1] / sy, p[2] / sz
        z = min(1.0, max(-1.0, z))
        return 0, math.atan2(y, x) / _TWO_PI + 0.5, math.asin(z) / math.pi + 0.5
    if kind == TORUS:
        out = math.hypot(p[0], p[1]) - sx
        return 0, math.atan2(p[1], p[0]) / _TWO_PI + 0.5, math.atan2(p[2], out) / _TWO_PI + 0.5
    if kind == FRUSTUM:
        radius = 0.5 * (sx + sy) + 0.5 * (sy - sx) * p[2] / sz
        if abs(math.hypot(p[0], p[1]) - radius) < abs(abs(p[2]) - sz):
            return 0, math.atan2(p[1], p[0]) / _TWO_PI + 0.5, 0.5 * p[2] / sz + 0.5
        r = sy if p[2] > 0.0 else sx
        return (2 if p[2] > 0.0 else 1), 0.5 * p[0] / r + 0.5, 0.5 * p[1] / r + 0.5
    face = _box_face(p, sx, sy, sz)
    if face >= 4:
        return face, 0.5 * p[0] / sx + 0.5, 0.5 * p[1] / sy + 0.5
    across = p[1] / sy if face < 2 else -p[0] / sx
    if (face & 1 == 0) != (kind == SHELL):
        across = -across
    return face, 0.5 * across + 0.5, 0.5 * p[2] / sz + 0.5


@inlined
def normal_at(solids, s, p):
    """Unit normal in local axes, out of the solid (into the room for the shell)."""
    kind = np.int64(solids[s, 0])
    sx, sy, sz, extra = solids[s, 13], solids[s, 14], solids[s, 15], solids[s, 16]
    if kind in (ROUNDED_BOX, TORUS):
        _, x, y, z = _distance(kind, p[0], p[1], p[2], sx, sy, sz, extra)
    elif kind == ELLIPSOID:
        x, y, z = p[0] / (sx * sx), p[1] / (sy * sy), p[2] / (sz * sz)
    elif kind == FRUSTUM:
        face, _, _ = chart_of(solids, s, p)
        ring = max(math.hypot(p[0], p[1]), 1e-12)
        x, y, z = p[0] / ring, p[1] / ring, (sx - sy) / (2.0 * sz)
        if face > 0:
            x, y, z = 0.0, 0.0, 2.0 * face - 3.0
    else:
        face = _box_face(p, sx, sy, sz)
        sign = 2.0 * (face & 1) - 1.0
        if kind == SHELL:
            sign = -sign
        x, y, z = (
            sign if face < 2 else 0.0,
            sign if 2 <= face < 4 else 0.0,
            sign if face >= 4 else 0.0,
        )
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


@kernel
def chart_point(solids, s, chart, u, v):
    """The surface point, in local axes, at (u, v) of one chart: the inverse of `chart_of`."""
    kind = np.int64(solids[s, 0])
    sx, sy, sz, extra = solids[s, 13], solids[s, 14], solids[s, 15], solids[s, 16]
    turn, a, b = _TWO_PI * (u - 0.5), 2.0 * u - 1.0, 2.0 * v - 1.0
    if kind == ELLIPSOID:
        rise = math.pi * (v - 0.5)
        flat = math.cos(rise)
        return sx * flat * math.cos(turn), sy * flat * math.sin(turn), sz * math.sin(rise)
    if kind == TORUS:
        ring = sx + sy * math.cos(_TWO_PI * (v - 0.5))
        return ring * math.cos(turn), ring * math.sin(turn), sy * math.sin(_TWO_PI * (v - 0.5))
    if kind == FRUSTUM:
        if chart == 0:
            r = 0.5 * (sx + sy) + 0.5 * (sy - sx) * b
            return r * math.cos(turn), r * math.sin(turn), sz * b
        r = sy if chart == 2 else sx
        return r * a, r * b, sz * (2.0 * chart - 3.0)
    sign = 2.0 * (chart & 1) - 1.0
    if chart >= 4:
        p = (sx * a, sy * b, sz * sign)
    else:
        across = a * sign if kind != SHELL else -a * sign
        p = (sx * sign, sy * across, sz * b) if chart < 2 else (-sx * across, sy * sign, sz * b)
    if kind != ROUNDED_BOX:
        return p
    x, y, z = p
    cx = min(max(x, extra - sx), sx - extra)
    cy = min(max(y, extra - sy), sy - extra)
    cz = min(max(z, extra - sz), sz - extra)
    scale = extra / math.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2)
    return cx + (x - cx) * scale, cy + (y - cy) * scale, cz + (z - cz) * scale
