"""Facts about rendered gaussians that hold for every backend that runs on a CPU."""

import math

import jaxtyping
import pytest
import torch

from fm3d_plugins.kernels.rasterizer import rasterize

BACKENDS = ["torch", "numba"]
# Float32 throughout, sums of at most a few hundred terms below 1.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
Y0 = 0.28209479177387814


def _float32(scene):
    return {k: v.float() for k, v in scene.items()}


def _gaussians(depths, colors, opacities, scale=0.1, pixel=(8.5, 6.5)):
    """Round gaussians behind one pixel of a 17 x 13 image, focal length 20, in front of black."""
    depths = torch.tensor(depths)
    offset = (torch.tensor(pixel) - torch.tensor([8.5, 6.5])) / 20.0
    num_gaussians = len(depths)
    return {
        "means": torch.cat([offset * depths[:, None], depths[:, None]], dim=-1),
        "quaternions_wxyz": torch.tensor([[1.0, 0, 0, 0]]).repeat(num_gaussians, 1),
        "scales": torch.full((num_gaussians, 3), scale),
        "opacities": torch.tensor(opacities),
        "sh_coefficients": (torch.tensor(colors)[:, None] - 0.5) / Y0,
        "camera_from_world": torch.eye(4),
        "intrinsics": torch.tensor([[20.0, 0, 8.5], [0, 20.0, 6.5], [0, 0, 1]]),
        "background": torch.zeros(3),
        "width": 17,
        "height": 13,
        "sh_degree": 0,
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1e-4, 0.1, 2.0])
def test_one_gaussian_is_its_closed_form(backend, scale):
    """Variance v = (f s / z)^2 + 0.3 pixels: alpha = opacity exp(-r^2 / 2 v), cut at 1/255."""
    arguments = _gaussians([2.0], [[1.0, 0.5, 0.25]], [0.8], scale=scale)
    view = rasterize(**arguments, backend=backend)
    y, x = torch.meshgrid(torch.arange(13) - 6, torch.arange(17) - 8, indexing="ij")
    variance = (20 * scale / 2.0) ** 2 + 0.3
    alpha = 0.8 * torch.exp(-0.5 * (x**2 + y**2) / variance)
    alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
    torch.testing.assert_close(view.alpha[..., 0], alpha, **CLOSE)
    torch.testing.assert_close(view.rgb, alpha[..., None] * torch.tensor([1.0, 0.5, 0.25]), **CLOSE)
    # 1 - transmittance is all that float32 leaves of the weight: 6e-8 / (1 / 255)
    expected_depth = torch.where(alpha > 0, 2.0, 0.0)
    torch.testing.assert_close(view.depth[..., 0], expected_depth, rtol=3e-5, atol=0.0)
    torch.testing.assert_close(view.means2d, torch.tensor([[8.5, 6.5]]))
    # gsplat keeps the larger eigenvalue at least 0.1 above the mean of both
    assert view.radii.tolist() == [math.ceil(3 * math.sqrt(variance + 0.1))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_speck_is_seen_where_it_is_and_nowhere_else_in_its_tiles(backend):
    """exp of minus several hundred, as 15 pixels away at variance 0.3, is zero and not garbage."""
    arguments = _gaussians([2.0], [[1.0, 1.0, 1.0]], [0.99], scale=1e-4)
    arguments.update(width=48, height=16)
    for column in range(48):
        arguments["means"][0, 0] = 2.0 * (column + 0.5 - 8.5) / 20.0
        alpha = rasterize(**arguments, backend=backend).alpha[..., 0]
        y, x = torch.meshgrid(torch.arange(16) - 6, torch.arange(48) - column, indexing="ij")
        expected = 0.99 * torch.exp(-0.5 * (x**2 + y**2) / 0.3)
        expected = torch.where(expected < 1 / 255, 0.0, expected)
        torch.testing.assert_close(alpha, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nearer_gaussian_covers_the_farther_one_in_any_order(backend):
    """0.5 red over 0.5 green over blue: 0.5, 0.25, 0.25; depth (0.5 * 2 + 0.25 * 4) / 0.75."""
    arguments = _gaussians([2.0, 4.0], [[1.0, 0, 0], [0, 1.0, 0]], [0.5, 0.5])
    arguments["background"] = torch.tensor([0.0, 0.0, 1.0])
    for order in ([0, 1], [1, 0]):
        for name in ("means", "quaternions_wxyz", "scales", "opacities", "sh_coefficients"):
            arguments[name] = arguments[name][order]
        view = rasterize(**arguments, backend=backend)
        torch.testing.assert_close(view.rgb[6, 8], torch.tensor([0.5, 0.25, 0.25]), **CLOSE)
        torch.testing.assert_close(view.depth[6, 8], torch.tensor([8 / 3]), **CLOSE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_alpha_stops_at_its_maximum_and_a_finished_pixel_takes_no_more(backend):
    """1 -> 0.001 after the first; the second would leave 1e-6 <= 1e-4, so it is not composited."""
    arguments = _gaussians([2.0, 3.0], [[1.0, 0, 0], [0, 1.0, 0]], [1.0, 1.0])
    view = rasterize(**arguments, backend=backend)
    torch.testing.assert_close(view.alpha[6, 8], torch.tensor([0.999]), **CLOSE)
    torch.testing.assert_close(view.rgb[6, 8], torch.tensor([0.999, 0.0, 0.0]), **CLOSE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_depths_keep_the_order_of_the_input(backend):
    arguments = _gaussians([2.0, 2.0], [[1.0, 0, 0], [0, 1.0, 0]], [0.5, 0.5])
    view = rasterize(**arguments, backend=backend)
    torch.testing.assert_close(view.rgb[6, 8], torch.tensor([0.5, 0.25, 0.0]), **CLOSE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_antialiased_gaussian_keeps_the_integral_that_the_low_pass_filter_widens(backend):
    """Sum of alpha = opacity 2 pi sigma^2, sigma 1 pixel; what is cut below 1/255 is 0.6 %."""
    arguments = _gaussians([2.0], [[1.0, 1.0, 1.0]], [0.9])
    blurred = rasterize(**arguments, backend=backend).alpha.sum()
    sharp = rasterize(**arguments, backend=backend, antialiased=True).alpha.sum()
    torch.testing.assert_close(sharp, torch.tensor(0.9 * 2 * math.pi), rtol=1e-2, atol=0.0)
    torch.testing.assert_close(blurred, 1.3 * sharp, rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_moving_world_and_camera_together_changes_nothing(backend, random_scene):
    """Bands above 0 would have to turn with the world, so degree 0. Float32 poses: 1e-4."""
    scene = _float32(random_scene(100, 50, 40))
    before = rasterize(**scene, width=50, height=40, sh_degree=0, backend=backend)
    half = math.sqrt(0.5)
    turn = torch.tensor([[0.0, -1, 0, 0.3], [1, 0, 0, -0.2], [0, 0, 1, 0.5], [0, 0, 0, 1]])
    w, x, y, z = scene["quaternions_wxyz"].unbind(-1)
    scene["means"] = scene["means"] @ turn[:3, :3].T + turn[:3, 3]
    # product with the quaternion (half, 0, 0, half) of a quarter turn about z
    scene["quaternions_wxyz"] = half * torch.stack([w - z, x - y, x + y, w + z], dim=-1)
    scene["camera_from_world"] = scene["camera_from_world"] @ torch.linalg.inv(turn)
    after = rasterize(**scene, width=50, height=40, sh_degree=0, backend=backend)
    torch.testing.assert_close(after.rgb, before.rgb, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 33), (40, 5)])
def test_a_smaller_image_is_a_crop_of_the_larger_one(backend, size):
    """The splats' centres lie in the first pixel, so no Jacobian is clamped in either."""
    arguments = _gaussians(
        [2.0, 3.0, 4.0],
        [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]],
        [0.5, 0.9, 0.9],
        scale=0.8,
        pixel=(0.6, 0.3),
    )
    large = rasterize(**{**arguments, "width": 40, "height": 40}, backend=backend)
    width, height = size
    small = rasterize(**{**arguments, "width": width, "height": height}, backend=backend)
    assert torch.equal(small.radii, large.radii)
    for name in ("rgb", "alpha", "depth"):
        crop = getattr(large, name)[:height, :width]
        torch.testing.assert_close(getattr(small, name), crop, **CLOSE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_gaussians_the_background_is_seen_and_gets_the_gradient(backend, float32_scene):
    scene = {k: v[:0] if k not in CAMERA_KEYS else v for k, v in float32_scene(4).items()}
    leaves = {k: v.clone().requires_grad_() for k, v in scene.items()}
    view = rasterize(**leaves, width=9, height=7, sh_degree=3, backend=backend)
    assert torch.equal(view.rgb, leaves["background"].expand(7, 9, 3))
    assert not view.alpha.any()
    assert not view.depth.any()
    view.rgb.sum().backward()
    torch.testing.assert_close(leaves["background"].grad, torch.full((3,), 63.0))


CAMERA_KEYS = ("camera_from_world", "intrinsics", "background")


@pytest.mark.parametrize("part", ["sh_coefficients", "sh_rest"])
def test_bands_that_are_not_active_do_not_count(part, float32_scene):
    """Truth: colours of degree 1 read 4 coefficients; picture and gradients are as without more."""
    scene = float32_scene(20)
    rendered = {"plain": scene["sh_coefficients"][:, :4]}
    rest = scene["sh_coefficients"][:, :12].clone()
    rest[::2] = math.nan
    for backend in ("numba", "torch"):
        rendered[backend] = torch.cat([rendered["plain"], rest], dim=1)
    results = {}
    for name, coefficients in rendered.items():
        first = 16 if part == "sh_coefficients" else 1
        leaf = coefficients.clone().requires_grad_()
        view = rasterize(
            **{**scene, "sh_coefficients": leaf[:, :first]}, sh_rest=leaf[:, first:],
            width=40, height=30, sh_degree=1, backend="torch" if name == "torch" else "numba",
        )  # fmt: skip
        view.rgb.square().sum().backward()
        assert torch.equal(leaf.grad[:, 4:], torch.zeros_like(leaf.grad[:, 4:]))
        results[name] = view.rgb.detach(), leaf.grad[:, :4]
    for backend in ("numba", "torch"):
        for found, expected in zip(results[backend], results["plain"], strict=True):
            assert expected.abs().max() > 0.1
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("parameter", ["means", "quaternions_wxyz", "scales", "opacities", "sh"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gaussian_that_is_not_finite_is_invisible_and_spoils_no_gradient(
    backend, parameter, value, float32_scene
):
    scene = float32_scene(30)
    name = "sh_coefficients" if parameter == "sh" else parameter
    without = {k: v[1:] if k not in CAMERA_KEYS else v for k, v in scene.items()}
    scene[name] = scene[name].clone()
    scene[name][0] = value
    leaves = {k: v.clone().requires_grad_() for k, v in scene.items()}
    view = rasterize(**leaves, width=40, height=30, sh_degree=3, backend=backend)
    expected = rasterize(**without, width=40, height=30, sh_degree=3, backend=backend)
    assert torch.equal(view.rgb, expected.rgb)
    assert view.radii[0] == 0
    view.rgb.sum().backward()
    for leaf in leaves.values():
        assert leaf.grad.isfinite().all()
    assert not leaves[name].grad[0].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("depth", [-2.0, 0.0, 0.005, 2e10])
def test_gaussians_behind_at_too_near_and_too_far_from_the_camera_are_invisible(backend, depth):
    arguments = _gaussians([depth] * 3, [[1.0, 0, 0]] * 3, [0.5] * 3)
    arguments["means"].requires_grad_()
    view = rasterize(**arguments, backend=backend)
    assert not view.radii.any()
    assert not view.alpha.any()
    view.rgb.sum().backward()
    assert not arguments["means"].grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_quaternion_of_zeros_is_no_rotation_and_so_invisible(backend):
    arguments = _gaussians([2.0], [[1.0, 0, 0]], [0.5])
    arguments["quaternions_wxyz"].zero_()
    assert not rasterize(**arguments, backend=backend).radii.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_scaling_a_quaternion_changes_nothing_and_gets_no_gradient_along_it(backend, float32_scene):
    scene = float32_scene(30)
    before = rasterize(**scene, width=40, height=30, sh_degree=3, backend=backend)
    scene["quaternions_wxyz"] = (3.0 * scene["quaternions_wxyz"]).requires_grad_()
    after = rasterize(**scene, width=40, height=30, sh_degree=3, backend=backend)
    torch.testing.assert_close(after.rgb, before.rgb, **CLOSE)
    (after.rgb**2).sum().backward()
    gradient = scene["quaternions_wxyz"].grad
    along = (gradient * scene["quaternions_wxyz"]).sum(-1)
    assert along.abs().max() < 1e-4 * gradient.norm(dim=-1).max()


def test_inputs_need_not_be_contiguous(float32_scene):
    scene = float32_scene(30)
    strided = {
        k: torch.stack([v, v], dim=-1)[..., 0].clone() if v.dim() == 1 else v.mT.contiguous().mT
        for k, v in scene.items()
    }
    strided["opacities"] = torch.stack([scene["opacities"]] * 2, dim=-1)[:, 0]
    assert not strided["means"].is_contiguous()
    arguments = {"width": 40, "height": 30, "sh_degree": 3, "backend": "numba"}
    view, expected = rasterize(**strided, **arguments), rasterize(**scene, **arguments)
    assert torch.equal(view.rgb, expected.rgb)


def test_needles_and_walls_are_as_close_to_the_truth_as_float32_allows(random_scene):
    """Axes of 1e-6 to 1e3 pixels: conics are nearly singular, bounds cover the whole image.

    Float32 conics of needles have few digits left; the definition in float32 errs the same way.
    """
    scene = random_scene(40, 70, 50)
    generator = torch.Generator().manual_seed(0)
    stretch = torch.tensor([1e-6, 1.0, 1e3], dtype=torch.float64)
    scene["scales"] = scene["scales"] * stretch[torch.randint(0, 3, (40, 3), generator=generator)]
    scene["opacities"] = 0.3 * scene["opacities"]
    arguments = {"width": 70, "height": 50, "sh_degree": 3}
    truth = rasterize(**scene, **arguments, backend="torch").rgb
    errors = [
        (rasterize(**_float32(scene), **arguments, backend=backend).rgb - truth).abs().mean()
        for backend in BACKENDS
    ]
    assert errors[1] < 2.0 * errors[0] + 1e-5


def test_nothing_is_recorded_without_gradients(float32_scene):
    with torch.no_grad():
        view = rasterize(**float32_scene(30), width=40, height=30, sh_degree=3)
    assert not view.rgb.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "0 x 30 pixels"),
        ({"sh_degree": 4}, "sh_degree is 4"),
        ({"near": 2.0, "far": 1.0}, "near is 2.0"),
        ({"backend": "gsplat"}, "takes CUDA tensors"),
    ],
)
def test_unusable_arguments_are_named(change, message, float32_scene):
    arguments = {"width": 40, "height": 30, "sh_degree": 3, **change}
    with pytest.raises(ValueError, match=message):
        rasterize(**float32_scene(3), **arguments)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("opacities", lambda values: values[:2]),
        ("opacities", lambda values: values[:, None]),
        ("scales", lambda values: values[:, :1]),
        ("quaternions_wxyz", lambda values: values[:, :3]),
        ("means", lambda values: values[:2]),
        ("sh_coefficients", lambda values: values[:2]),
        ("sh_coefficients", lambda values: values[:, 0]),
        ("scales", lambda values: values.double()),
    ],
)
def test_rows_that_do_not_agree_are_refused(name, change, backend, float32_scene, monkeypatch):
    # As users run it: the import hook of the tests would complain earlier.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    scene = float32_scene(3)
    scene[name] = change(scene[name])
    with pytest.raises(ValueError, match="one size for each name"):
        rasterize(**scene, width=40, height=30, sh_degree=3, backend=backend)


def test_numba_refuses_doubles(random_scene):
    with pytest.raises(ValueError, match="takes float32"):
        rasterize(**random_scene(3, 40, 30), width=40, height=30, sh_degree=3, backend="numba")
