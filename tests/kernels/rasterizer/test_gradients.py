"""Images and gradients of the backends against the naive renderer, in float64."""

import pytest
import torch

from fm3d_plugins.kernels.rasterizer import rasterize
from fm3d_plugins.kernels.rasterizer.definitions import with_intrinsics_gradient

WIDTH, HEIGHT = 45, 38
# Float32 rounds to 6e-8; the tens to hundred of terms and the division by 1 - alpha of the backward
# pass leave 1e-6 to 6e-6. The definition runs in float64, where only the order of sums differs.
TOLERANCE = {"numba": 1e-5, "torch": 1e-9}
DTYPE = {"numba": torch.float32, "torch": torch.float64}


def _loss(rgb, alpha, depth):
    """A random linear functional of everything that is rendered."""
    generator = torch.Generator().manual_seed(7)
    return sum(
        (image * torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image)).sum()
        for image in (rgb, alpha, depth)
    )


def _relative_error(value, truth):
    return ((value.double() - truth).norm() / truth.norm()).item()


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "antialiased"])
def truth(request, random_scene, render_naively):
    """Arguments, images and gradients of the oracle."""
    leaves = {
        k: v.requires_grad_() for k, v in random_scene(120, WIDTH, HEIGHT, pixels=3.0).items()
    }
    images = render_naively(**leaves, width=WIDTH, height=HEIGHT, antialiased=request.param)
    _loss(*images).backward()
    return request.param, leaves, images


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_images_and_all_gradients_equal_those_of_the_naive_renderer(truth, backend):
    antialiased, leaves, images = truth
    arguments = {k: v.detach().to(DTYPE[backend]).requires_grad_() for k, v in leaves.items()}
    view = rasterize(
        **arguments,
        width=WIDTH,
        height=HEIGHT,
        sh_degree=3,
        antialiased=antialiased,
        backend=backend,
    )
    for image, expected in zip((view.rgb, view.alpha, view.depth), images, strict=True):
        assert _relative_error(image.detach(), expected.detach()) < TOLERANCE[backend]
    _loss(view.rgb, view.alpha, view.depth).backward()
    for name, leaf in leaves.items():
        error = _relative_error(arguments[name].grad, leaf.grad)
        assert error < TOLERANCE[backend], f"{name}: {error:.2e}"


def test_scene_of_the_gradient_test_has_thin_and_finished_pixels_and_cut_off_alphas(truth):
    _, leaves, (_, alpha, _) = truth
    assert alpha.min() < 0.6
    assert alpha.max() > 0.999
    assert leaves["opacities"].max() > 0.9995


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_unused_sh_bands_get_no_gradient_and_used_ones_the_definitions(degree, random_scene):
    scene = random_scene(40, WIDTH, HEIGHT)
    gradients = []
    for backend in ("torch", "numba"):
        leaves = {k: v.detach().to(DTYPE[backend]).requires_grad_() for k, v in scene.items()}
        view = rasterize(**leaves, width=WIDTH, height=HEIGHT, sh_degree=degree, backend=backend)
        _loss(view.rgb, view.alpha, view.depth).backward()
        gradients.append(leaves["sh_coefficients"].grad)
        assert not leaves["sh_coefficients"].grad[:, (degree + 1) ** 2 :].any()
    assert _relative_error(gradients[1], gradients[0]) < TOLERANCE["numba"]


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("degree", [1, 3])
@pytest.mark.parametrize("first", [1, 5, 16])
def test_sh_coefficients_in_two_parts_are_those_in_one(backend, degree, first, random_scene):
    scene = {k: v.to(DTYPE[backend]) for k, v in random_scene(40, WIDTH, HEIGHT).items()}
    whole = scene.pop("sh_coefficients").requires_grad_()
    parts = [part.detach().clone().requires_grad_() for part in whole.split([first, 16 - first], 1)]
    size = {"width": WIDTH, "height": HEIGHT, "sh_degree": degree, "backend": backend}
    together = rasterize(**scene, sh_coefficients=whole, **size).rgb
    apart = rasterize(**scene, sh_coefficients=parts[0], sh_rest=parts[1], **size).rgb
    (together**2).sum().backward()
    (apart**2).sum().backward()
    assert torch.equal(apart, together)
    assert torch.equal(torch.cat([part.grad for part in parts], 1), whole.grad)


def test_gradient_of_the_projected_means_is_that_of_the_definition(random_scene):
    scene = random_scene(80, WIDTH, HEIGHT)
    gradients, radii = [], []
    for backend in ("torch", "numba"):
        leaves = {k: v.detach().to(DTYPE[backend]).requires_grad_() for k, v in scene.items()}
        view = rasterize(**leaves, width=WIDTH, height=HEIGHT, sh_degree=3, backend=backend)
        view.means2d.retain_grad()
        _loss(view.rgb, view.alpha, view.depth).backward()
        gradients.append(view.means2d.grad)
        radii.append(view.radii)
    assert _relative_error(gradients[1], gradients[0]) < TOLERANCE["numba"]
    assert torch.equal(radii[0], radii[1])


@pytest.mark.parametrize("output", ["rgb", "alpha", "depth"])
def test_gradient_of_one_output_alone_is_that_of_the_definition(output, random_scene):
    """The others' upstream gradients are then absent, not zero."""
    scene = random_scene(60, WIDTH, HEIGHT)
    gradients = []
    for backend in ("torch", "numba"):
        leaves = {k: v.detach().to(DTYPE[backend]).requires_grad_() for k, v in scene.items()}
        view = rasterize(**leaves, width=WIDTH, height=HEIGHT, sh_degree=3, backend=backend)
        (getattr(view, output) ** 2).sum().backward()
        gradients.append(leaves["means"].grad)
    assert _relative_error(gradients[1], gradients[0]) < TOLERANCE["numba"]


def test_pose_gradient_of_the_definition_is_the_difference_quotient(random_scene):
    """Central differences with step h err by h^2 and by rounding / h: 1e-6 of the largest entry."""
    scene = random_scene(12, 20, 16, pixels=3.0)
    scene["camera_from_world"].requires_grad_()

    def loss():
        view = rasterize(**scene, width=20, height=16, sh_degree=3, backend="torch")
        return _loss(view.rgb, view.alpha, view.depth)

    loss().backward()
    gradient = scene["camera_from_world"].grad
    step = 1e-7
    for row in range(3):
        for column in range(4):
            values = []
            with torch.no_grad():
                for sign in (1, -1):
                    scene["camera_from_world"][row, column] += sign * step
                    values.append(loss().item())
                    scene["camera_from_world"][row, column] -= sign * step
            quotient = (values[0] - values[1]) / (2 * step)
            assert abs(quotient - gradient[row, column]) < 1e-5 * gradient.abs().max()


def test_intrinsics_gradient_carried_by_the_pose_is_the_direct_one(random_scene):
    """As gsplat gets it. All gaussians lie where the projection's Jacobian is not clamped."""
    scene = random_scene(30, WIDTH, HEIGHT)
    scene["intrinsics"].requires_grad_()
    scene["intrinsics"].data[:2, :2] *= 0.6
    gradients = []
    for carried in (False, True):
        arguments = dict(scene)
        if carried:
            arguments["camera_from_world"] = with_intrinsics_gradient(
                scene["camera_from_world"], scene["intrinsics"]
            )
            arguments["intrinsics"] = scene["intrinsics"].detach()
            torch.testing.assert_close(arguments["camera_from_world"], scene["camera_from_world"])
        # Degree 0: the carried matrix is no rigid one, so a view direction made of it would differ.
        view = rasterize(**arguments, width=WIDTH, height=HEIGHT, sh_degree=0, backend="torch")
        loss = _loss(view.rgb, view.alpha, view.depth)
        gradients.append(torch.autograd.grad(loss, scene["intrinsics"])[0])
    assert gradients[0][0, 0] != 0 and gradients[0][1, 2] != 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)
