"""The vector type of the kernels against numpy, lane by lane."""

import numpy as np
import pytest

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.simd import (
    absolute,
    aligned,
    any_greater,
    exp2,
    floor,
    fma,
    gather,
    keep_alive,
    lane_minimum,
    lane_numbers,
    lane_sums,
    load,
    minimum,
    negative_magnitude,
    pointer,
    splat,
    square_root,
    store,
    store_first_12,
    take,
    where_greater,
    where_greater_equal,
)

TWO = np.float32(2.0)


@kernel
def _arithmetic(x, y, out):
    p, q, r = pointer(x), pointer(y), pointer(out)
    a, b = load(p, 0), load(q, 0)
    store(r, 0, a + b)
    store(r, 16, a - TWO)
    store(r, 32, TWO * b)
    store(r, 48, a / b)
    store(r, 64, fma(a, b, TWO))
    store(r, 80, minimum(a, b))
    store(r, 96, negative_magnitude(a))
    store(r, 112, absolute(a))
    store(r, 128, -b)
    store(r, 144, where_greater(a, b, TWO, b))
    store(r, 160, where_greater_equal(a, a, splat(TWO), b))
    store(r, 176, lane_numbers())
    store(r, 192, square_root(a * a))
    store(r, 208, floor(a))


def test_every_operation_is_that_of_each_lane():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 16)).astype(np.float32)
    out = np.empty(224, np.float32)
    _arithmetic(x, y, out)
    expected = [x + y, x - 2, 2 * y, x / y, x * y + 2, np.minimum(x, y), -abs(x)]
    expected += [
        abs(x),
        -y,
        np.where(x > y, 2, y),
        np.full(16, 2.0),
        np.arange(16),
        abs(x),
        np.floor(x),
    ]
    np.testing.assert_allclose(out.reshape(14, 16), np.stack(expected), rtol=1e-6, atol=1e-6)


@kernel
def _powers(x):
    p = pointer(x)
    for start in range(0, x.size, 16):
        store(p, start, exp2(load(p, start)))


def test_exp2_errs_by_two_units_in_the_last_place():
    x = np.linspace(-126.0, 126.0, 16 * 4000).astype(np.float32)
    expected = np.exp2(x.astype(np.float64))
    _powers(x)
    np.testing.assert_allclose(x, expected, rtol=2.4e-7)


@kernel
def _reductions(x, sums, first):
    p = pointer(x)
    store(pointer(sums), 0, lane_sums((load(p, 0), load(p, 16), load(p, 32))))
    store_first_12(pointer(first), 1, load(p, 0))
    is_any = any_greater(load(p, 0), np.float32(15.5)), any_greater(load(p, 0), np.float32(14.5))
    return is_any, lane_minimum(load(p, 17))


def test_reductions_and_partial_stores():
    x = np.arange(48, dtype=np.float32)
    sums, first = np.empty(16, np.float32), np.full(14, -1.0, np.float32)
    assert _reductions(x, sums, first) == ((False, True), 17.0)
    # 0 + ... + 15 = 120, and 256 more in each next vector
    assert sums.tolist() == [120.0, 376.0, 632.0] + [0.0] * 13
    assert first.tolist() == [-1.0, *range(12), -1.0]


@kernel
def _least(x):
    return lane_minimum(load(pointer(x), 0))


@pytest.mark.parametrize("lane", range(16))
def test_the_least_lane_may_be_any(lane):
    x = np.ones(16, np.float32)
    x[lane] = -2.0
    assert _least(x) == -2.0


@kernel
def _elements(x, index, out):
    store(pointer(out), 0, gather(pointer(x), load(pointer(index), 0)))


def test_elements_are_gathered_in_any_order():
    generator = np.random.default_rng(1)
    # The last element of the most that float32 can count.
    x = generator.normal(size=2**24 + 1).astype(np.float32)
    index = np.append(generator.integers(0, 2**24, 14), [0, 2**24])
    out = np.empty(16, np.float32)
    _elements(x, index.astype(np.float32), out)
    np.testing.assert_array_equal(out, x[index])


@kernel
def _mark(x):
    store(aligned(pointer(x)), 0, splat(np.float32(1.0)))


@pytest.mark.parametrize("start", range(5))
def test_aligned_is_the_next_multiple_of_64_bytes(start):
    x = np.zeros(64, np.float32)[start:]
    _mark(x)
    first = int(np.flatnonzero(x)[0])
    assert (x.ctypes.data + 4 * first) % 64 == 0
    assert first < 16


@kernel
def _read_through_a_pointer():
    kept = np.ones(1000, np.float32)
    address, others = pointer(kept), np.float32(0.0)
    for _ in range(100):
        others += np.full(1000, 7.0, np.float32)[0]
    total = np.float32(0.0)
    for i in range(1000):
        total += address[i]
    keep_alive(kept)
    return total, others


def test_an_array_that_is_kept_alive_is_not_overwritten_by_later_ones():
    assert _read_through_a_pointer() == (1000.0, 700.0)


@kernel
def _take_three(counter):
    return take(counter), take(counter), take(counter)


def test_take_counts():
    counter = np.zeros(1, np.int64)
    assert _take_three(counter) == (0, 1, 2)
    assert counter[0] == 3
