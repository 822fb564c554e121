"""The adapter to gsplat: what it passes on without a GPU, and parity where there is one."""

import types

import pytest
import torch

from fm3d_plugins.kernels.rasterizer import gsplat_backend, rasterize
from fm3d_plugins.kernels.rasterizer.definitions import Camera, Gaussians
from fm3d_plugins.kernels.rasterizer.torch_reference import rasterize_torch

WIDTH, HEIGHT = 40, 30


class _Shift(torch.autograd.Function):
    """1e-3 of all coordinates; leaves absolute gradients where gsplat's compositing does."""

    @staticmethod
    def forward(ctx, means2d, absgrad):
        ctx.absgrad = absgrad
        ctx.save_for_backward(means2d)
        return means2d.sum() * 1e-3

    @staticmethod
    def backward(ctx, gradient):
        (means2d,) = ctx.saved_tensors
        if ctx.absgrad:
            means2d.absgrad = torch.full_like(means2d, 5.0)
        return torch.full_like(means2d, 1e-3) * gradient, None


class _FakeGsplat(types.ModuleType):
    """gsplat's stages: its own torch projection and SH, and a compositing that adds everything."""

    def __init__(self):
        super().__init__("gsplat")
        self.calls = {}

    def fully_fused_projection(self, *args, packed, near_plane, far_plane, **options):
        from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

        means, covariances, quaternions, scales, *camera = args
        self.calls["projection"] = {"near": near_plane, "far": far_plane, **options}
        assert covariances is None
        assert not packed
        covariances, _ = _quat_scale_to_covar_preci(
            torch.nn.functional.normalize(quaternions, dim=-1), scales, compute_preci=False
        )
        return _fully_fused_projection(
            means, covariances, *camera, near_plane=near_plane, far_plane=far_plane, **options
        )

    def spherical_harmonics(self, degree, directions, coefficients, masks):
        from gsplat.cuda._torch_impl import _spherical_harmonics

        self.calls["directions"] = directions
        return _spherical_harmonics(degree, directions, coefficients) * masks[..., None]

    def isect_tiles(self, means2d, radii, depths, tile_size, columns, rows, **options):
        self.calls["tiles"] = (tile_size, columns, rows, options)
        return None, "intersections", "indices"

    def isect_offset_encode(self, intersections, num_cameras, columns, rows):
        assert (intersections, num_cameras) == ("intersections", 1)
        return "offsets"

    def rasterize_to_pixels(
        self, means2d, conics, colors, opacities, width, height, *lists, **options
    ):
        self.calls["pixels"] = {"colors": colors, "opacities": opacities, **options}
        assert lists == (16, "offsets", "indices")
        seen = opacities.sum() / (1.0 + opacities.sum())
        weighted = (opacities[..., None] * colors).sum(1) / (1.0 + opacities.sum())
        image = weighted + 0.0 * means2d.sum() + (1 - seen) * options["backgrounds"]
        shift = _Shift.apply(means2d, options["absgrad"])
        return (
            (image + shift)[:, None, None].expand(1, height, width, -1),
            seen.expand(1, height, width, 1),
        )


@pytest.fixture
def fake(monkeypatch):
    pytest.importorskip("gsplat.cuda._torch_impl", reason="needs gsplat's python files")
    module = _FakeGsplat()
    monkeypatch.setattr(gsplat_backend, "require", lambda name, **_: module)
    return module


def _inputs(scene, *, antialiased=False):
    rest = scene["means"].new_zeros(len(scene["means"]), 0, 3)
    names = ("means", "quaternions_wxyz", "scales", "opacities", "sh_coefficients")
    view = (scene[name] for name in ("camera_from_world", "intrinsics", "background"))
    camera = Camera(*view, WIDTH, HEIGHT, 0.05, 50.0, sh_degree=2, antialiased=antialiased)
    return Gaussians(*(scene[name] for name in names), rest), camera


@pytest.mark.parametrize("antialiased", [False, True])
def test_splats_are_those_of_the_definition(fake, float32_scene, antialiased):
    """gsplat's own projection, fed by the adapter, gives our means, radii and opacities."""
    gaussians, camera = _inputs(float32_scene(50), antialiased=antialiased)
    view = gsplat_backend.rasterize_gsplat(gaussians, camera)
    expected = rasterize_torch(gaussians, camera)
    seen = (view.radii > 0) & (expected.radii > 0)
    assert seen.sum() > 20
    torch.testing.assert_close(view.means2d[seen], expected.means2d[seen], rtol=1e-4, atol=1e-3)
    assert torch.equal(view.radii[seen], expected.radii[seen])
    options = fake.calls["projection"]
    assert options["calc_compensations"] == antialiased
    assert (options["near"], options["far"], options["eps2d"]) == (0.05, 50.0, 0.3)
    ratio = fake.calls["pixels"]["opacities"][0] / gaussians.opacities
    assert (ratio[seen] <= 1.0).all()
    assert ((ratio[seen] < 1.0).any()) == antialiased
    assert fake.calls["tiles"] == (16, 3, 2, {"packed": False, "n_cameras": 1})


def test_directions_start_at_the_camera_and_colours_are_cut_off_at_black(fake, float32_scene):
    gaussians, camera = _inputs(float32_scene(50))
    gsplat_backend.rasterize_gsplat(gaussians, camera)
    center = torch.linalg.inv(camera.camera_from_world)[:3, 3]
    directions = fake.calls["directions"][0]
    torch.testing.assert_close(directions + center, gaussians.means, rtol=1e-4, atol=1e-4)
    assert fake.calls["pixels"]["colors"][..., :3].min() >= 0.0
    background = fake.calls["pixels"]["backgrounds"]
    assert background.tolist() == [[*camera.background.tolist(), 0.0]]


def test_depth_is_the_weighted_mean_and_means2d_gets_its_gradient(fake, float32_scene):
    """The fake image holds 1e-3 of every coordinate: gradient 1e-3 per pixel and channel."""
    gaussians, camera = _inputs(float32_scene(50))
    gaussians.means.requires_grad_()
    view = gsplat_backend.rasterize_gsplat(gaussians, camera)
    assert view.rgb.shape == (HEIGHT, WIDTH, 3)
    assert view.depth.shape == (HEIGHT, WIDTH, 1)
    view.means2d.retain_grad()
    view.rgb.sum().backward()
    expected = torch.full((50, 2), 1e-3 * 3 * WIDTH * HEIGHT)
    torch.testing.assert_close(view.means2d.grad, expected, rtol=1e-4, atol=0.0)
    assert gaussians.means.grad.any()


def test_absolute_gradients_are_those_that_gsplat_leaves(fake, float32_scene):
    gaussians, camera = _inputs(float32_scene(50))
    gaussians.means.requires_grad_()
    absolute = torch.zeros(50, 2)
    view = gsplat_backend.rasterize_gsplat(gaussians, camera, absolute)
    assert view.absolute_gradient is absolute
    view.rgb.sum().backward()
    assert torch.equal(absolute, torch.full((50, 2), 5.0))
    assert fake.calls["pixels"]["absgrad"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("antialiased", [False, True])
def test_image_and_gradients_are_those_of_the_definition_on_a_gpu(random_scene, antialiased):
    """gsplat cuts gaussians off at three standard deviations (exp(-4.5) = 1 % of the opacity)."""
    scene = {k: v.float().cuda() for k, v in random_scene(300, 64, 48).items()}
    results = []
    for backend in ("gsplat", "torch"):
        leaves = {k: v.clone().requires_grad_() for k, v in scene.items()}
        view = rasterize(
            **leaves, width=64, height=48, sh_degree=3, antialiased=antialiased, backend=backend
        )
        view.means2d.retain_grad()
        (view.rgb**2).sum().backward()
        results.append([view.rgb.detach(), view.means2d.grad, leaves["means"].grad])
    for value, expected in zip(*results, strict=True):
        assert (value - expected).norm() < 0.05 * expected.norm()
