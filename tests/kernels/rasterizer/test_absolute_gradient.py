"""Absolute gradients with respect to pixel positions, which one pixel cannot take from another."""

import pytest
import torch

from fm3d_plugins.kernels.rasterizer import rasterize

WIDTH, HEIGHT = 20, 18
"""More than one tile each way."""
DTYPE = {"numba": torch.float32, "torch": torch.float64}
# As of the gradients: sums of some hundred terms of float32; float64 in another order of sums.
TOLERANCE = {"numba": 1e-5, "torch": 1e-9}


def _rendered(scene, backend, wanted=True):
    arguments = {k: v.detach().to(DTYPE[backend]).requires_grad_() for k, v in scene.items()}
    view = rasterize(
        **arguments,
        width=WIDTH,
        height=HEIGHT,
        sh_degree=3,
        absolute_gradient=wanted,
        backend=backend,
    )
    view.means2d.retain_grad()
    return view


def _upstream(view):
    generator = torch.Generator().manual_seed(7)
    images = (view.rgb, view.alpha, view.depth)
    return [torch.randn(i.shape, generator=generator, dtype=torch.float64).to(i) for i in images]


def _backward(view, upstream):
    torch.autograd.backward((view.rgb, view.alpha, view.depth), upstream, retain_graph=True)


@pytest.fixture(scope="module")
def truth(random_scene):
    """The scene, and sums over pixels of what the gradient is when one pixel alone counts."""
    scene = random_scene(60, WIDTH, HEIGHT, pixels=3.0)
    view = _rendered(scene, "torch", wanted=False)
    upstream, total = _upstream(view), torch.zeros(60, 2, dtype=torch.float64)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            alone = [torch.zeros_like(values) for values in upstream]
            for values, whole in zip(alone, upstream, strict=True):
                values[row, column] = whole[row, column]
            view.means2d.grad = None
            _backward(view, alone)
            total += view.means2d.grad.abs()
    return scene, total


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_they_are_sums_over_pixels_of_absolute_values(truth, backend):
    scene, expected = truth
    view = _rendered(scene, backend)
    assert not view.absolute_gradient.any()
    _backward(view, _upstream(view))
    error = (view.absolute_gradient.double() - expected).norm() / expected.norm()
    assert float(error) < TOLERANCE[backend]
    assert bool((view.absolute_gradient >= 0.999 * view.means2d.grad.abs()).all())


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_gradients_are_the_same_with_and_without_them(random_scene, backend):
    scene = random_scene(60, WIDTH, HEIGHT, pixels=3.0)
    with_them, without = _rendered(scene, backend), _rendered(scene, backend, wanted=False)
    for view in (with_them, without):
        _backward(view, _upstream(view))
    assert without.absolute_gradient is None
    torch.testing.assert_close(with_them.means2d.grad, without.means2d.grad, rtol=1e-6, atol=1e-7)


def test_without_gaussians_there_are_none(random_scene):
    scene = {
        name: values[:0]
        if name not in ("camera_from_world", "intrinsics", "background")
        else values
        for name, values in random_scene(5, WIDTH, HEIGHT).items()
    }
    view = _rendered(scene, "numba")
    _backward(view, _upstream(view))
    assert view.absolute_gradient.shape == (0, 2)
