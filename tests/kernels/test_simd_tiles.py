"""Matrix tiles and vectors of four against numpy."""

import numpy as np
import pytest

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.simd import pointer
from fm3d_plugins.kernels.simd_tiles import (
    dot4,
    fma4,
    load4,
    matrix_tile,
    scale4,
    store4,
    subtract4,
)

tile_4_4 = matrix_tile(4, 4)
tile_8_1 = matrix_tile(8, 1)


@kernel
def _wide(out, x, row, step, w, depth, accumulate):
    tile_4_4(pointer(out), 64, pointer(x), row, step, pointer(w), 64, depth, accumulate)


@kernel
def _narrow(out, x, row, step, w, depth, accumulate):
    tile_8_1(pointer(out), 16, pointer(x), row, step, pointer(w), 16, depth, accumulate)


@pytest.mark.parametrize(("run", "rows", "columns"), [(_wide, 4, 64), (_narrow, 8, 16)])
@pytest.mark.parametrize("depth", [1, 3, 32])
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_a_tile_is_a_matrix_product(run, rows, columns, depth, is_transposed, accumulate):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, depth)).astype(np.float32)
    w = generator.normal(size=(depth, columns)).astype(np.float32)
    before = generator.normal(size=(rows, columns)).astype(np.float32)
    stored = np.ascontiguousarray(x.T) if is_transposed else x
    row, step = (1, rows) if is_transposed else (depth, 1)
    out = before.copy()
    run(out, stored, row, step, w, depth, accumulate)
    expected = x.astype(np.float64) @ w + (before if accumulate else 0)
    # Sums of up to 32 products of order 1 in single precision.
    np.testing.assert_allclose(out, expected, atol=1e-5)


@kernel
def _quads(x, y, out):
    p, q, r = pointer(x), pointer(y), pointer(out)
    a, b = load4(p, 1), load4(q, 0)
    store4(r, 0, scale4(p[0], a))
    store4(r, 4, fma4(p[0], a, b))
    store4(r, 8, subtract4(a, b))
    r[12] = dot4(a, b)


def test_quads_are_four_numbers_from_any_element():
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=5).astype(np.float32), generator.normal(size=4).astype(np.float32)
    out = np.empty(13, np.float32)
    _quads(x, y, out)
    a = x[1:]
    expected = np.concatenate([x[0] * a, x[0] * a + y, a - y, [a @ y]])
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
