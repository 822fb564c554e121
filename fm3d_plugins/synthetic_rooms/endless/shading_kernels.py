"""Colours of the surfaces of endless rooms, and the light on them; compiled by Numba."""

import math

import numpy as np

from fm3d_plugins.kernels.compiled import inlined_kernel
from fm3d_plugins.synthetic_rooms.endless.layout import (
    AMBIENT,
    AXES,
    BOX,
    BRICKS,
    CELL,
    CENTER,
    CHECKER,
    COLOR,
    CYLINDER,
    FACES,
    FBM,
    GAIN,
    GRAIN,
    HALF,
    KIND,
    LETTERS,
    LIGHTS,
    MIXING,
    NUM_LIGHTS,
    PATTERN,
    SEED,
    SHIFT,
    SIZE,
    SPHERE,
    STRIPES,
    TURN,
)

_C1, _C2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_C3 = np.uint64(0xD6E8FEB86659FD93)
_S32, _S29, _S11 = np.uint64(32), np.uint64(29), np.uint64(11)

NOISE_SIDE, NOISE_CELL = 512, 32
"""Texels of a side of a noise table, and of a cell of its coarsest octave."""

LOW = 0.55
"""Cells of the low-frequency noise per metre."""


@inlined_kernel
def hash_bits(i, j, seed):
    """Fixed random bits for a cell of a pattern."""
    h = np.uint64(np.int64(i)) * _C1 + np.uint64(np.int64(j)) * _C2 + np.uint64(np.int64(seed))
    h = (h ^ (h >> _S32)) * _C3
    h = (h ^ (h >> _S29)) * _C1
    return h ^ (h >> _S32)


@inlined_kernel
def hash01(i, j, seed):
    """A fixed random number in [0, 1) for a cell of a pattern."""
    return np.float64(hash_bits(i, j, seed) >> _S11) * (1.0 / 9007199254740992.0)


@inlined_kernel
def lookup(noise, level, x, y):
    """Tileable noise in [0, 1], interpolated; x and y in cells of its coarsest octave."""
    x, y = x * NOISE_CELL, y * NOISE_CELL
    fx, fy = math.floor(x), math.floor(y)
    i, j = np.int64(fx) & (NOISE_SIDE - 1), np.int64(fy) & (NOISE_SIDE - 1)
    x, y = x - fx, y - fy
    k, m = (i + 1) & (NOISE_SIDE - 1), (j + 1) & (NOISE_SIDE - 1)
    # Differences of unsigned numbers would wrap around.
    a, b = np.float64(noise[level, j, i]), np.float64(noise[level, j, k])
    c, d = np.float64(noise[level, m, i]), np.float64(noise[level, m, k])
    top, bottom = a + (b - a) * x, c + (d - c) * x
    return (top + (bottom - top) * y) * (1.0 / 255.0)


@inlined_kernel
def pattern_at(face, x, y, fine):  # noqa: PLR0911
    """A pattern in [0, 1], 0.5 in the mean.

    Args:
        x, y: In cells of the pattern.
        fine: The face's noise there.
    """
    kind, seed = np.int64(face[PATTERN]), np.int64(face[SEED])
    if kind == FBM:
        return min(1.0, max(0.0, 0.5 + 2.2 * (fine - 0.5)))
    if kind == BRICKS:
        y = 2.0 * y
        x = x + 0.5 * (np.int64(math.floor(y)) & 1)
    i, j = math.floor(x), math.floor(y)
    u, v = x - i, y - j
    tone = hash01(i, j if kind != STRIPES else 0, seed)
    if kind == CHECKER:
        return 0.75 * ((np.int64(i) + np.int64(j)) & 1) + 0.25 * tone
    if kind == STRIPES:
        return tone
    if kind == BRICKS:
        return 0.1 if u < 0.06 or v < 0.12 else 0.3 + 0.7 * tone
    if kind == LETTERS:
        # Strokes on a grid of 4 x 5 in the cell's middle; bits decide which are there.
        a, b = (
            np.int64(math.floor((u - 0.14) * (4.0 / 0.72))),
            np.int64(math.floor((v - 0.1) * 6.25)),
        )
        ground = 0.15 + 0.3 * tone
        if a < 0 or a > 3 or b < 0 or b > 4:
            return ground
        bits = hash_bits(i, j, seed + 77)
        return 1.0 - 0.3 * tone if (bits >> np.uint64(4 * b + a)) & np.uint64(1) else ground
    # DISCS
    radius = 0.2 + 0.25 * hash01(i, j, seed + 1)
    u, v = u - 0.5, v - 0.5
    return 0.35 + 0.65 * tone if u * u + v * v < radius * radius else 0.2


@inlined_kernel
def turned(face, u, v):
    """A place of a face in its texture's own axes, metres."""
    x = face[TURN] * u - face[TURN + 1] * v + face[SHIFT]
    return x, face[TURN + 1] * u + face[TURN] * v + face[SHIFT + 1]


@inlined_kernel
def low_noise(face, noise, u, v):
    """Noise of low frequency, in +-0.5."""
    x, y = turned(face, u, v)
    return lookup(noise, 2, LOW * x, LOW * y) - 0.5


@inlined_kernel
def albedo(face, noise, low, u, v, w):
    """Colour, about in [0, 1], at a place of a face.

    Args:
        low: As `low_noise` says.
        u, v: Metres.
        w: Width of a pixel there, metres; what is finer fades to its mean.
    """
    x, y = turned(face, u, v)
    grain = 1.0 / face[GRAIN]
    level = 0 if w * grain < 0.06 else (1 if w * grain < 0.2 else 2)
    fine = lookup(noise, level, grain * x, grain * y)
    # Edges are a little uneven, as of things made by hand.
    size, bend = 1.0 / face[CELL], 0.25 * low
    fade = min(1.0, max(0.0, 1.6 - 2.4 * w * size))
    value = 0.0
    if fade > 0.0:
        value = fade * (pattern_at(face, x * size + bend, y * size - bend, fine) - 0.5)
    fine = (fine - 0.5) * min(1.0, max(0.0, 1.6 - 1.2 * w * grain))
    c, m = COLOR, MIXING
    return (
        face[c] + face[m] * value + face[m + 3] * low + face[m + 6] * fine,
        face[c + 1] + face[m + 1] * value + face[m + 4] * low + face[m + 7] * fine,
        face[c + 2] + face[m + 2] * value + face[m + 5] * low + face[m + 8] * fine,
    )


@inlined_kernel
def surface(room, solids, number, p):  # noqa: PLR0912
    """Normal (towards the room), row of the face, and place on it in metres.

    Args:
        number: Of the solid; -1 for the walls.
    """
    if number < 0:
        x, y = 0.5 * room[SIZE], 0.5 * room[SIZE + 1]
        gaps = (x - abs(p[0]), y - abs(p[1]), min(p[2], room[SIZE + 2] - p[2]))
        if gaps[0] <= gaps[1] and gaps[0] <= gaps[2]:
            side = 1.0 if p[0] > 0.0 else -1.0
            return -side, 0.0, 0.0, 0 if side > 0.0 else 1, p[1], p[2]
        if gaps[1] <= gaps[2]:
            side = 1.0 if p[1] > 0.0 else -1.0
            return 0.0, -side, 0.0, 2 if side > 0.0 else 3, p[0], p[2]
        side = 1.0 if p[2] > 0.5 * room[SIZE + 2] else -1.0
        return 0.0, 0.0, -side, 4 if side > 0.0 else 5, p[0], p[1]
    solid = solids[number]
    x, y, z = p[0] - solid[CENTER], p[1] - solid[CENTER + 1], p[2] - solid[CENTER + 2]
    # The place in the solid's frame, metres and units of its half sizes.
    a = solid[AXES] * x + solid[AXES + 1] * y + solid[AXES + 2] * z
    b = solid[AXES + 3] * x + solid[AXES + 4] * y + solid[AXES + 5] * z
    c = solid[AXES + 6] * x + solid[AXES + 7] * y + solid[AXES + 8] * z
    qa, qb, qc = a / solid[HALF], b / solid[HALF + 1], c / solid[HALF + 2]
    kind = solid[KIND]
    is_cap = abs(qc) >= 0.9999 if kind == CYLINDER else abs(qc) >= max(abs(qa), abs(qb))
    first = np.int64(solid[FACES])
    if is_cap:
        face, u, v = first + (4 if qc > 0.0 else 5), a, b
    elif abs(qa) >= abs(qb):
        face, u, v = first + (0 if qa > 0.0 else 1), b, c
    else:
        face, u, v = first + (2 if qb > 0.0 else 3), a, c
    na, nb, nc = 0.0, 0.0, 0.0
    if kind == SPHERE:
        na, nb, nc = qa / solid[HALF], qb / solid[HALF + 1], qc / solid[HALF + 2]
    elif is_cap:
        nc = 1.0 if qc > 0.0 else -1.0
    elif kind == BOX:
        if abs(qa) >= abs(qb):
            na = 1.0 if qa > 0.0 else -1.0
        else:
            nb = 1.0 if qb > 0.0 else -1.0
    else:
        na, nb = qa / solid[HALF], qb / solid[HALF + 1]
    if kind != BOX:
        scale = 1.0 / math.sqrt(na * na + nb * nb + nc * nc)
        na, nb, nc = na * scale, nb * scale, nc * scale
    return (
        solid[AXES] * na + solid[AXES + 3] * nb + solid[AXES + 6] * nc,
        solid[AXES + 1] * na + solid[AXES + 4] * nb + solid[AXES + 7] * nc,
        solid[AXES + 2] * na + solid[AXES + 5] * nb + solid[AXES + 8] * nc,
        face,
        u,
        v,
    )


@inlined_kernel
def light_at(room, gloss, o, p, n, clear):
    """Light that a white surface sends to a camera at `o`, and what it mirrors: display values.

    Args:
        n: Normal.
        clear: Share of the first lamp's light that arrives.
    """
    sky = 0.75 + 0.25 * n[2]
    red, green, blue = sky * room[AMBIENT], sky * room[AMBIENT + 1], sky * room[AMBIENT + 2]
    vx, vy, vz = o[0] - p[0], o[1] - p[1], o[2] - p[2]
    scale = 1.0 / math.sqrt(vx * vx + vy * vy + vz * vz)
    vx, vy, vz = vx * scale, vy * scale, vz * scale
    shine = 0.0
    for k in range(NUM_LIGHTS):
        lamp = LIGHTS + 6 * k
        lx, ly, lz = room[lamp] - p[0], room[lamp + 1] - p[1], room[lamp + 2] - p[2]
        square = lx * lx + ly * ly + lz * lz
        scale = 1.0 / math.sqrt(square)
        lx, ly, lz = lx * scale, ly * scale, lz * scale
        facing = n[0] * lx + n[1] * ly + n[2] * lz
        if facing <= 0.0:
            continue
        reach = (clear if k == 0 else 1.0) / (0.6 + square)
        share = facing * reach
        red += share * room[lamp + 3]
        green += share * room[lamp + 4]
        blue += share * room[lamp + 5]
        if gloss > 0.0:
            hx, hy, hz = lx + vx, ly + vy, lz + vz
            middle = n[0] * hx + n[1] * hy + n[2] * hz
            peak = middle * middle / (hx * hx + hy * hy + hz * hz)
            peak = peak * peak
            peak = peak * peak
            peak = peak * peak
            shine += gloss * peak * peak * min(1.0, reach * room[lamp + 4])
    gain = room[GAIN]
    return gain * math.sqrt(red), gain * math.sqrt(green), gain * math.sqrt(blue), shine


@inlined_kernel
def shown(albedo, light, shine):
    """A display value in [0, 1]."""
    return min(1.0, min(max(albedo, 0.02), 1.0) * light + shine)
