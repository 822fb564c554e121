"""The hash grid: facts of interpolation, a naive loop, and the backends against each other."""

import itertools

import pytest
import torch

from fm3d_plugins.kernels.hash_grid import HashGridLayout, encode
from fm3d_plugins.kernels.hash_grid.layout import PRIMES
from fm3d_plugins.kernels.threads import set_num_threads

SMALL = HashGridLayout(num_levels=4, base_resolution=4, log2_table_size=8)
"""Levels of 4 (64 points, all stored), 8, 16 and 32 points along an axis (hashed to 256)."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    set_num_threads(None)


def make(layout, num_points, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(num_points, 3, generator=generator, dtype=dtype)
    table = torch.randn(layout.num_entries, 4, generator=generator, dtype=dtype)
    return positions, table


def naive(position, table, layout):
    """One position, by equation 4 of Mueller et al. 2022 in Python's integers."""
    features = []
    for level in range(layout.num_levels):
        place = [float(x) * layout.scales[level] + 0.5 for x in position]
        corner = [int(x) for x in place]
        total = torch.zeros(4, dtype=table.dtype)
        for step in itertools.product((0, 1), repeat=3):
            point = [c + s for c, s in zip(corner, step, strict=True)]
            weight = 1.0
            for x, c, s in zip(place, corner, step, strict=True):
                weight *= x - c if s else 1 - (x - c)
            size, resolution = layout.sizes[level], layout.resolutions[level]
            if resolution**3 > size:
                index = 0
                for p, prime in zip(point, PRIMES, strict=True):
                    index ^= p * prime
            else:
                index = point[0] + resolution * (point[1] + resolution * point[2])
            total += weight * table[layout.offsets[level] + index % size]
        features.append(total)
    return torch.cat(features)


def test_layout_of_the_usual_grid():
    """16^3 = 4096 and 32^3 = 32768 points fit into 2^17 entries, 64^3 = 2^18 do not."""
    layout = HashGridLayout()
    assert layout.resolutions == (16, 32, 64, 128, 256, 512, 1024, 2048)
    assert layout.sizes == (4096, 32768, *(131072,) * 6)
    assert layout.are_hashed == (False, False, *(True,) * 6)
    assert layout.num_entries == 4096 + 32768 + 6 * 131072
    assert layout.num_features == 32


@pytest.mark.parametrize(
    "wrong", [{"num_levels": 0}, {"base_resolution": 1}, {"growth": 0.5}, {"log2_table_size": 30}]
)
def test_a_layout_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="Expected"):
        HashGridLayout(**wrong)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_features_are_those_of_a_naive_loop(backend):
    dtype = torch.float64 if backend == "torch" else torch.float32
    positions, table = make(SMALL, 50, dtype)
    expected = torch.stack([naive(p, table.double(), SMALL) for p in positions])
    tolerance = 1e-12 if backend == "torch" else 2e-5  # Positions between points in float32.
    torch.testing.assert_close(
        encode(positions, table, SMALL, backend).double(), expected, rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_a_constant_table_gives_the_constant(backend):
    """Trilinear weights sum to 1."""
    positions, table = make(SMALL, 100, torch.float32)
    features = encode(positions, torch.full_like(table, 2.5), SMALL, backend)
    torch.testing.assert_close(features, torch.full_like(features, 2.5))


def test_a_linear_function_on_the_stored_level_is_reproduced():
    """Trilinear interpolation is exact for linear functions: level 0 stores all its points."""
    layout = HashGridLayout(num_levels=1, base_resolution=6, log2_table_size=10)
    index = torch.arange(6.0, dtype=torch.float64)
    z, y, x = torch.meshgrid(index, index, index, indexing="ij")
    table = torch.stack([x, y, z, 3 * x - y], dim=-1).reshape(-1, 4)
    positions = 0.1 + 0.7 * torch.rand(200, 3, dtype=torch.float64)
    place = positions * 5 + 0.5
    expected = torch.cat([place, (3 * place[:, :1] - place[:, 1:2])], dim=-1)
    torch.testing.assert_close(encode(positions, table, layout, "torch"), expected)


def test_gradients_are_those_of_finite_differences():
    positions, table = make(SMALL, 20)
    # Not within a step of a cell's face, where the slope jumps.
    places = positions[:, None] * torch.tensor(SMALL.scales, dtype=torch.float64)[:, None] + 0.5
    inside = ((places % 1 - 0.5).abs() < 0.499).all(-1).all(-1)
    positions = positions[inside].requires_grad_()
    assert len(positions) > 10
    assert torch.autograd.gradcheck(
        lambda p, t: encode(p, t, SMALL, "torch"), (positions, table.requires_grad_()), eps=1e-6
    )


def test_numba_gradients_are_those_of_the_definition():
    positions, table = make(SMALL, 3000, torch.float32)
    upstream = torch.randn(3000, SMALL.num_features)
    results = []
    for backend, dtype in (("numba", torch.float32), ("torch", torch.float64)):
        p, t = positions.to(dtype).requires_grad_(), table.to(dtype).requires_grad_()
        features = encode(p, t, SMALL, backend)
        results.append(torch.autograd.grad(features, (p, t), upstream.to(dtype)))
    for fast, exact in zip(*results, strict=True):
        # The fraction of a position between points has lost up to 5 bits on the finest level.
        assert float((fast - exact).norm() / exact.norm()) < 1e-4


def test_any_number_of_threads_gives_equal_bits():
    layout = HashGridLayout(num_levels=8, log2_table_size=12)
    positions, table = make(layout, 5000, torch.float32)
    results = []
    for num_threads in (1, 2, 3):
        set_num_threads(num_threads)
        p, t = positions.clone().requires_grad_(), table.clone().requires_grad_()
        features = encode(p, t, layout, "numba")
        features.square().sum().backward()
        results.append((features, p.grad, t.grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_a_backend_cannot_take_is_refused():
    positions, table = make(SMALL, 4)
    with pytest.raises(ValueError, match=r"takes float32"):
        encode(positions, table, SMALL, "numba")
    with pytest.raises(ValueError, match=r"\[10, 4\].*entry = "):
        encode(positions, table[:10], SMALL)
    with pytest.raises(ValueError, match=r"Expected cuda"):
        encode(positions.float(), table.float(), SMALL, "tinycudann")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tinycudann_gives_the_definitions_features_and_gradients():
    pytest.importorskip("tinycudann")
    layout = HashGridLayout()
    positions, table = make(layout, 1000, torch.float32)
    results = []
    for backend in ("tinycudann", "torch"):
        p, t = positions.cuda().requires_grad_(), table.cuda().requires_grad_()
        features = encode(p, t, layout, backend)
        features.square().sum().backward()
        results.append((features, p.grad, t.grad))
    for fast, exact in zip(*results, strict=True):
        # Half precision may be used inside.
        assert float((fast - exact).norm() / exact.norm()) < 1e-2
