"""The fused field against its definition, and the definition against facts."""

import pytest
import torch
from torch.nn.functional import normalize

from fm3d_plugins.kernels.hash_grid import HashGridLayout
from fm3d_plugins.kernels.radiance_field import density, render_rays
from fm3d_plugins.kernels.radiance_field.definitions import (
    INITIAL_DENSITY,
    MAX_LOG_DENSITY,
    FieldParameters,
    Intervals,
)
from fm3d_plugins.kernels.radiance_field.torch_reference import contract_to_cube
from fm3d_plugins.kernels.threads import set_num_threads

LAYOUT = HashGridLayout(num_levels=4, base_resolution=4, log2_table_size=8)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    set_num_threads(None)


def make_parameters(dtype=torch.float32, size=0.5, layout=LAYOUT):
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (layout.num_entries, 4), (layout.num_features, 64), (64, 16), (16, 64), (16, 64), (64, 3)
    ]  # fmt: skip
    values = [size * torch.randn(shape, generator=generator) for shape in shapes]
    values[2][:, 0] += 0.15  # Denser, so that rays end.
    return [value.to(dtype).requires_grad_() for value in values]


def make_rays(num_rays=70, num_samples=32, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    origins = 2 * torch.rand(num_rays, 3, generator=generator) - 1
    directions = normalize(torch.randn(num_rays, 3, generator=generator), dim=-1)
    # From inside the unit box to far outside, so that both parts of the contraction are met.
    edges = (0.3 * torch.rand(num_rays, num_samples + 1, generator=generator)).cumsum(-1)
    middles, lengths = (edges[:, 1:] + edges[:, :-1]) / 2, edges.diff(dim=-1)
    return origins.to(dtype), directions.to(dtype), Intervals(middles.to(dtype), lengths.to(dtype))


def rendered_with_gradients(backend, dtype, calm_distance=0.0):
    parameters = [p.detach().to(dtype).requires_grad_() for p in make_parameters()]
    origins, directions, intervals = make_rays(dtype=dtype)
    origins.requires_grad_(), directions.requires_grad_()
    result = render_rays(
        FieldParameters(*parameters), LAYOUT, origins, directions, intervals,
        calm_distance=calm_distance, backend=backend,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(2)
    d_rgb = torch.randn(result.rgb.shape, generator=generator).to(dtype)
    d_weights = torch.randn(result.weights.shape, generator=generator).to(dtype)
    loss = (result.rgb * d_rgb).sum() + (result.weights * d_weights).sum()
    return result, torch.autograd.grad(loss, [*parameters, origins, directions])


@pytest.mark.parametrize("calm_distance", [0.0, 3.0])
def test_the_fused_kernel_is_the_definition(calm_distance):
    """Gradients of grid, networks, origins and directions; float64 torch is the truth."""
    fast, fast_gradients = rendered_with_gradients("numba", torch.float32, calm_distance)
    exact, exact_gradients = rendered_with_gradients("torch", torch.float64, calm_distance)
    assert float(exact.weights.detach().max()) > 0.2  # Not a trivial scene.
    for name in ("rgb", "weights"):
        difference = getattr(fast, name) - getattr(exact, name)
        assert float(difference.abs().max()) < 1e-5
    torch.testing.assert_close(fast.densities.double(), exact.densities, rtol=1e-4, atol=1e-6)
    for fast_gradient, exact_gradient in zip(fast_gradients, exact_gradients, strict=True):
        error = (fast_gradient - exact_gradient).norm() / exact_gradient.norm()
        assert float(error) < 1e-5


def test_gradients_of_rays_are_those_of_finite_differences():
    parameters = FieldParameters(*[p.detach() for p in make_parameters(torch.float64)])
    origins, directions, intervals = make_rays(4, 16, torch.float64)

    def colors(shift, turn):
        ray = origins + shift, directions + turn
        return render_rays(parameters, LAYOUT, *ray, intervals, backend="torch").rgb

    shift, turn = torch.zeros(2, 4, 3, dtype=torch.float64)
    shift.requires_grad_(), turn.requires_grad_()
    # Steps so small that few samples cross a cell's face, where the slope of the grid jumps.
    assert torch.autograd.gradcheck(colors, (shift, turn), eps=1e-8, atol=1e-4, rtol=1e-3)


def test_calm_changes_gradients_and_nothing_else():
    plain, plain_gradients = rendered_with_gradients("torch", torch.float64)
    calm, calm_gradients = rendered_with_gradients("torch", torch.float64, 1e3)
    torch.testing.assert_close(plain.rgb, calm.rgb)
    # Every sample is nearer than 11, so no gradient keeps more than (11 / 1000)^2.
    assert float(calm_gradients[0].norm()) < 1.3e-4 * float(plain_gradients[0].norm())


def test_a_transparent_field_shows_nothing_and_an_opaque_one_its_first_interval():
    """With relu(f @ a) @ b constant in space, exp(b) is the density."""
    parameters = [torch.zeros_like(p) for p in make_parameters()]
    parameters[0] += 1.0
    parameters[1][0] = 1.0  # Every hidden unit is 1.
    origins, directions, intervals = make_rays()
    for log_density, expected in ((-60.0, 0.0), (60.0, 1.0)):
        parameters[2][:, 0] = log_density / 64
        for backend in ("numba", "torch"):
            result = render_rays(
                FieldParameters(*parameters), LAYOUT, origins, directions, intervals,
                backend=backend,
            )  # fmt: skip
            assert torch.isfinite(result.rgb).all()
            torch.testing.assert_close(
                result.weights.sum(-1), torch.full((70,), expected), atol=1e-5, rtol=0
            )
            # Colours are sigmoid(0) = 1/2.
            torch.testing.assert_close(result.rgb, torch.full((70, 3), expected / 2))
    ceiling = INITIAL_DENSITY * torch.tensor(MAX_LOG_DENSITY).exp()
    torch.testing.assert_close(result.densities, ceiling.expand(70, 32))


def test_a_fresh_field_absorbs_as_beer_and_lambert_say():
    """All outputs 0: density INITIAL_DENSITY everywhere, so 1 - exp(-0.1 L) is absorbed."""
    parameters = [torch.zeros_like(p) for p in make_parameters()]
    origins, directions, intervals = make_rays()
    result = render_rays(FieldParameters(*parameters), LAYOUT, origins, directions, intervals)
    expected = 1 - torch.exp(-INITIAL_DENSITY * intervals.lengths.sum(-1))
    torch.testing.assert_close(result.weights.sum(-1), expected)


def test_densities_at_points_are_those_along_rays():
    parameters = FieldParameters(*[p.detach() for p in make_parameters()])
    origins, directions, intervals = make_rays()
    points = origins[:, None] + intervals.middles[..., None] * directions[:, None]
    along = render_rays(parameters, LAYOUT, origins, directions, intervals).densities
    for backend in ("numba", "torch"):
        at = density(parameters, LAYOUT, points.flatten(0, 1)[:1999], backend)
        torch.testing.assert_close(at, along.flatten()[:1999], rtol=1e-4, atol=1e-6)


def test_any_number_of_threads_gives_equal_bits():
    results = []
    for num_threads in (1, 2, 3):
        set_num_threads(num_threads)
        result, gradients = rendered_with_gradients("numba", torch.float32)
        results.append((result.rgb, result.weights, *gradients))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_contraction_keeps_the_unit_box_and_bounds_the_rest():
    """The box from -1 to 1 becomes the middle half of the cube; infinity its surface."""
    inside = 2 * torch.rand(100, 3, dtype=torch.float64) - 1
    torch.testing.assert_close(contract_to_cube(inside), inside / 4 + 0.5)
    far = 1e9 * normalize(torch.randn(100, 3, dtype=torch.float64), dim=-1)
    distance = (contract_to_cube(far) - 0.5).abs().amax(-1)
    torch.testing.assert_close(distance, torch.full_like(distance, 0.5))
    # Maximum norm r outside the box maps to (2 - 1/r) / 4: 2 -> 3/8.
    point = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    expected = torch.tensor([0.375, -0.1875, 0.09375], dtype=torch.float64) + 0.5
    torch.testing.assert_close(contract_to_cube(point), expected)


def test_what_the_fused_kernel_cannot_take_is_refused():
    parameters = FieldParameters(*make_parameters())
    rays = make_rays(num_samples=20)
    with pytest.raises(ValueError, match="multiples of 16"):
        render_rays(parameters, LAYOUT, *rays, backend="numba")
    assert render_rays(parameters, LAYOUT, *rays).rgb.shape == (70, 3)


def test_a_gradient_asked_for_twice_says_why_it_cannot_be_had():
    parameters = FieldParameters(*make_parameters())
    loss = render_rays(parameters, LAYOUT, *make_rays()).rgb.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="Render again"):
        loss.backward()


def test_without_gradients_blocks_of_rays_give_equal_bits(monkeypatch):
    from fm3d_plugins.kernels.radiance_field import numba_backend

    parameters, rays = FieldParameters(*make_parameters()), make_rays()
    whole = render_rays(parameters, LAYOUT, *rays, backend="numba")
    assert whole.rgb.requires_grad
    monkeypatch.setattr(numba_backend, "RAYS_AT_ONCE", 32)
    with torch.no_grad():
        parts = render_rays(parameters, LAYOUT, *rays, backend="numba")
    for name in ("rgb", "weights", "densities"):
        assert torch.equal(getattr(parts, name), getattr(whole, name).detach())
