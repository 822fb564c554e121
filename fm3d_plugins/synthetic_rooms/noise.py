"""Hashes, band-limited noise and colour mixing for the procedural textures; compiled by Numba.

Every function takes the footprint `w`: the width of one sample in units of its argument, so that
detail finer than the sampling fades to its mean instead of aliasing.
"""

import inspect
from typing import Any

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz", "arcp"},
    # No reference counts: compiled code makes no arrays here, and counting who holds the tables
    # took a third of the time (Numba 0.68).
    "_nrt": False,
}
_NO_WRAPPERS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def entry(function):
    """Compile a function that Python calls; it runs without the global lock.

    As in the two below, type-checking wrappers (the tests' import hook) are taken off first. The
    cache watches the file of the outermost function alone: after editing an inner one, empty
    `__pycache__`.
    """
    return njit(**_OPTIONS)(inspect.unwrap(function))


def kernel(function):
    """Compile a function that only compiled functions call."""
    return njit(**_OPTIONS, **_NO_WRAPPERS)(inspect.unwrap(function))


def inlined(function):
    """As `kernel`, where handing the tables over would cost more than the work."""
    return njit(**_OPTIONS, **_NO_WRAPPERS, forceinline=True)(inspect.unwrap(function))


_C1, _C2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_C3, _C4 = np.uint64(0x165667B19E3779F9), np.uint64(0xD6E8FEB86659FD93)
_S32, _S29, _S11 = np.uint64(32), np.uint64(29), np.uint64(11)


@kernel
def hash01(i, j, k, seed):
    """A fixed uniform number in [0, 1) for integer coordinates: multiply and xor-shift mixing."""
    h = np.uint64(np.int64(i)) * _C1 + np.uint64(np.int64(j)) * _C2
    h += np.uint64(np.int64(k)) * _C3 + np.uint64(np.int64(seed)) * _C4
    h = (h ^ (h >> _S32)) * _C4
    h = (h ^ (h >> _S29)) * _C1
    return np.float64((h ^ (h >> _S32)) >> _S11) * (1.0 / 9007199254740992.0)


@kernel
def noise2(x, y, seed):
    """Value noise of lattice period 1, in [0, 1)."""
    fx, fy = np.floor(x), np.floor(y)
    i, j = np.int64(fx), np.int64(fy)
    x, y = x - fx, y - fy
    x, y = x * x * (3.0 - 2.0 * x), y * y * (3.0 - 2.0 * y)
    a, b = hash01(i, j, 0, seed), hash01(i + 1, j, 0, seed)
    c, d = hash01(i, j + 1, 0, seed), hash01(i + 1, j + 1, 0, seed)
    top, bottom = a + (b - a) * x, c + (d - c) * x
    return top + (bottom - top) * y


@kernel
def noise3(x, y, z, seed):
    """Value noise of lattice period 1 in three dimensions, in [0, 1)."""
    fz = np.floor(z)
    k = np.int64(fz)
    z = z - fz
    z = z * z * (3.0 - 2.0 * z)
    front = noise2(x, y, seed + 131 * k)
    return front + (noise2(x, y, seed + 131 * (k + 1)) - front) * z


@kernel
def fbm2(x, y, seed, octaves, w):
    """Fractal noise within about +-0.5: octaves of half the size and 0.55 of the height."""
    total, norm, height = 0.0, 0.0, 1.0
    for octave in range(octaves):
        fade = min(1.0, 2.0 - 3.0 * w)  # an octave is dropped where a lattice cell is unsampled
        if fade > 0.0:
            total += height * fade * (noise2(x, y, seed + 17 * octave) - 0.5)
        norm += height
        height *= 0.55
        x, y, w = 2.03 * x + 13.7, 2.03 * y + 5.1, 2.03 * w
    return total / norm * 2.0


@kernel
def fbm3(x, y, z, seed, octaves, w):
    """As `fbm2`, in three dimensions."""
    total, norm, height = 0.0, 0.0, 1.0
    for octave in range(octaves):
        fade = min(1.0, 2.0 - 3.0 * w)
        if fade > 0.0:
            total += height * fade * (noise3(x, y, z, seed + 17 * octave) - 0.5)
        norm += height
        height *= 0.55
        x, y, z, w = 2.03 * x + 13.7, 2.03 * y + 5.1, 2.03 * z + 3.3, 2.03 * w
    return total / norm * 2.0


@kernel
def ramp(x, w):
    """Step from 0 to 1 at x = 0, one footprint wide."""
    return min(1.0, max(0.0, x / max(w, 1e-9) + 0.5))


@kernel
def mix(a, b, t):
    """Colour `a` at t = 0, `b` at t = 1; t is clamped."""
    t = min(1.0, max(0.0, t))
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


@kernel
def shade(c, f):
    """The colour made lighter or darker by the factor `f`."""
    f = max(f, 0.0)
    return (c[0] * f, c[1] * f, c[2] * f)


@kernel
def palette(textures, k, i):
    """Colour 0..3 of texture `k`; other numbers wrap around.

    A row of the table holds pattern, seed, scale, gloss, emission, three spare columns, and four
    linear RGB colours.
    """
    c = 8 + 3 * (np.int64(i) & 3)
    return (textures[k, c], textures[k, c + 1], textures[k, c + 2])
