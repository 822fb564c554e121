"""What rays meet in an endless room, sixteen rays at a time; compiled by Numba.

Directions are no unit vectors: for cameras their z component in the camera is 1, and a distance is
a depth. Distances are float32, good to about 1e-5 m in a room.
"""

import numpy as np

from fm3d_plugins.kernels.compiled import inlined_kernel, kernel
from fm3d_plugins.kernels.simd import (
    LANES,
    absolute,
    load,
    minimum,
    pointer,
    splat,
    square_root,
    store,
    where_greater,
)
from fm3d_plugins.synthetic_rooms.endless.layout import AXES, BOX, CENTER, HALF, KIND, SIZE, SPHERE

MAP_COLUMNS = 13
"""A solid as rays from one origin see it: the map into its frame (9), where the origin is there
(3), and its kind."""

NEAR, FAR = np.float32(1e-4), np.float32(1e9)
"""Distances, in units of a ray's direction, between which things are met."""

LIT = np.float32(1.0 - 1e-3)
"""Share of the way from a lamp to a point that has to be free for light to arrive."""

_ZERO, _ONE, _HALF, _WALL = np.float32(0.0), np.float32(1.0), np.float32(0.5), np.float32(-1.0)


@kernel
def map_solids(solids, count, o, maps):
    """Write the solids as rays from `o` see them."""
    for s in range(count):
        for i in range(3):
            scale = 1.0 / solids[s, HALF + i]
            at = 0.0
            for j in range(3):
                entry = scale * solids[s, AXES + 3 * i + j]
                maps[s, 3 * i + j] = entry
                at += entry * (o[j] - solids[s, CENTER + j])
            maps[s, 9 + i] = at
        maps[s, 12] = solids[s, KIND]


@inlined_kernel
def larger(x, y):
    return where_greater(x, y, x, y)


@inlined_kernel
def way_in(m, x, y, z, is_whole):
    """Distance at which rays enter a solid from outside; FAR where they do not.

    Args:
        m: A row of the solids' maps.
        x, y, z: Directions.
        is_whole: Whether a cylinder is one; otherwise it counts as the ellipsoid in it.
    """
    dx = m[0] * x + m[1] * y + m[2] * z
    dy = m[3] * x + m[4] * y + m[5] * z
    dz = m[6] * x + m[7] * y + m[8] * z
    if m[12] == BOX:
        ix, iy, iz = _ONE / dx, _ONE / dy, _ONE / dz
        mx, my, mz = m[9] * ix, m[10] * iy, m[11] * iz
        ax, ay, az = absolute(ix), absolute(iy), absolute(iz)
        enter = _ZERO - minimum(mx + ax, minimum(my + ay, mz + az))
        leave = minimum(ax - mx, minimum(ay - my, az - mz))
        enter = where_greater(enter, leave, FAR, enter)
    elif m[12] == SPHERE or not is_whole:
        inside = m[9] * m[9] + m[10] * m[10] + m[11] * m[11] - _ONE
        a = dx * dx + dy * dy + dz * dz
        b = m[9] * dx + m[10] * dy + m[11] * dz
        under = b * b - inside * a
        enter = (_ZERO - b - square_root(larger(under, _ZERO))) / a
        enter = where_greater(under, _ZERO, enter, FAR)
    else:
        inside = m[9] * m[9] + m[10] * m[10] - _ONE
        a, b = dx * dx + dy * dy, m[9] * dx + m[10] * dy
        under = b * b - inside * a
        root, ia, iz = square_root(larger(under, _ZERO)), _ONE / a, _ONE / dz
        mz, az = m[11] * iz, absolute(iz)
        enter = larger(_ZERO - (b + root) * ia, _ZERO - mz - az)
        leave = minimum((root - b) * ia, az - mz)
        enter = where_greater(enter, leave, FAR, enter)
        enter = where_greater(under, _ZERO, enter, FAR)
    return where_greater(enter, NEAR, enter, FAR)


@inlined_kernel
def to_wall(low, high, at, d):
    """Distance from inside to one of two parallel walls."""
    return where_greater(d, _ZERO, high - at, low - at) / d


@kernel
def trace(room, maps, count, o, d, t, found):
    """What rays from one origin in the room meet.

    Args:
        d: [3, ray], float32; no component may be 0, and rays are multiples of 16.
        t: [ray], float32, written: distances.
        found: [ray], float32, written: numbers of the solids; -1 for walls.
    """
    half_x, half_y = np.float32(0.5 * room[SIZE]), np.float32(0.5 * room[SIZE + 1])
    height = np.float32(room[SIZE + 2])
    ox, oy, oz = np.float32(o[0]), np.float32(o[1]), np.float32(o[2])
    num_rays = t.shape[0]
    rays, distances, numbers = pointer(d), pointer(t), pointer(found)
    for first in range(0, num_rays, LANES):
        x, y = load(rays, first), load(rays, num_rays + first)
        z = load(rays, 2 * num_rays + first)
        best = minimum(
            to_wall(-half_x, half_x, ox, x),
            minimum(to_wall(-half_y, half_y, oy, y), to_wall(_ZERO, height, oz, z)),
        )
        number = splat(_WALL)
        for s in range(count):
            enter = way_in(maps[s], x, y, z, True)
            number = where_greater(best, enter, np.float32(s), number)
            best = minimum(best, enter)
        store(distances, first, best)
        store(numbers, first, number)


@kernel
def shadows(maps, count, d, clear):
    """Whether light of a lamp arrives at points at distance 1 along rays: 1 or 0.

    A cylinder throws the shadow of the ellipsoid in it.

    Args:
        maps: As the lamp sees the solids.
        d, clear: As `d` and `t` of `trace`.
    """
    num_rays = clear.shape[0]
    rays, results = pointer(d), pointer(clear)
    for first in range(0, num_rays, LANES):
        x, y = load(rays, first), load(rays, num_rays + first)
        z = load(rays, 2 * num_rays + first)
        nearest = splat(FAR)
        for s in range(count):
            nearest = minimum(nearest, way_in(maps[s], x, y, z, False))
        store(results, first, where_greater(LIT, nearest, _ZERO, _ONE))
