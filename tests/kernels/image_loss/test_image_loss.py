"""SSIM and the fused loss against closed forms, pytorch_msssim and each other."""

import pytest
import torch

from fm3d_plugins.kernels.image_loss import l1_ssim_loss, ssim
from fm3d_plugins.kernels.image_loss.torch_reference import check_images

BACKENDS = ["torch", "numba"]
SIZES = [(11, 11), (11, 40), (23, 11), (37, 53)]


def _pair(height, width, seed=0):
    """An image and a noisy copy, float64, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(height, width, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(height, width, 3, generator=generator, dtype=torch.float64)
    return (target + 0.2 * noise).clamp(0, 1), target


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_images_have_no_loss(backend):
    image = _pair(30, 20)[0].float()
    assert ssim(image, image).item() == pytest.approx(1.0, abs=1e-6)
    assert l1_ssim_loss(image, image, 0.2, backend).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_of_two_constant_images_is_their_closed_form(backend):
    """No variance: SSIM = (2 a b + C1) / (a^2 + b^2 + C1) with C1 = 1e-4."""
    a, b = 0.3, 0.7
    similarity = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    expected = 0.8 * 0.4 + 0.2 * (1 - similarity)
    rendered, target = torch.full((15, 20, 3), a), torch.full((15, 20, 3), b)
    # E[x^2] - E[x]^2 leaves 1e-7 in float32, against the stability constant 9e-4
    assert l1_ssim_loss(rendered, target, 0.2, backend).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_ssim_is_that_of_pytorch_msssim(size):
    """splatfacto's metric. Its window is rounded to float32: 1e-7."""
    reference = pytest.importorskip("pytorch_msssim")
    images = _pair(*size)
    expected = reference.ssim(*(i.permute(2, 0, 1)[None] for i in images), data_range=1.0)
    torch.testing.assert_close(ssim(*images), expected, rtol=0.0, atol=2e-7)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sample_covariance", [True, False])
def test_ssim_is_that_of_scikit_image(size, sample_covariance):
    """The metric of LVSM and RayZer, on images of little contrast, where the factor counts most."""
    metrics = pytest.importorskip("skimage.metrics")
    images = [0.4 + 0.1 * image for image in _pair(*size)]
    expected = metrics.structural_similarity(
        *(image.numpy() for image in images),
        win_size=11,
        gaussian_weights=True,
        channel_axis=2,
        data_range=1.0,
        use_sample_covariance=sample_covariance,
    )
    assert float(ssim(*images, sample_covariance)) == pytest.approx(expected, abs=1e-9)
    assert abs(float(ssim(*images, not sample_covariance)) - expected) > 1e-5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_fused_loss_and_gradient_are_those_of_the_definition_in_float64(size, weight):
    rendered, target = _pair(*size)
    exact = rendered.clone().requires_grad_()
    expected = l1_ssim_loss(exact, target, weight, "torch")
    (3.0 * expected).backward()
    fused = rendered.float().requires_grad_()
    loss = l1_ssim_loss(fused, target.float(), weight, "numba")
    (3.0 * loss).backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    error = (fused.grad.double() - exact.grad).norm() / exact.grad.norm()
    # variances are differences of float32 numbers below 1, divided by at least 9e-4
    assert error < 1e-5


def test_gradient_of_the_definition_is_the_difference_quotient():
    rendered, target = _pair(12, 13)
    rendered.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: l1_ssim_loss(x, target), (rendered,), atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_target_gets_no_gradient(backend):
    rendered, target = (image.float().requires_grad_() for image in _pair(20, 20))
    l1_ssim_loss(rendered, target, 0.2, backend).backward()
    assert rendered.grad is not None
    assert target.grad is None


def test_result_is_bitwise_equal_for_any_number_of_threads():
    rendered, target = (image.float() for image in _pair(61, 47))
    before = torch.get_num_threads()
    results = []
    try:
        for num_threads in (1, 2, 5):
            torch.set_num_threads(num_threads)
            leaf = rendered.clone().requires_grad_()
            loss = l1_ssim_loss(leaf, target, 0.2, "numba")
            loss.backward()
            results.append((loss.detach(), leaf.grad))
    finally:
        torch.set_num_threads(before)
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_images_need_not_be_contiguous():
    rendered, target = (image.float() for image in _pair(20, 30))
    strided = rendered.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not strided.is_contiguous()
    expected = l1_ssim_loss(rendered, target, 0.2, "numba")
    assert torch.equal(l1_ssim_loss(strided, target, 0.2, "numba"), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_smaller_than_the_window_are_named(backend):
    with pytest.raises(ValueError, match="at least 11 x 11"):
        l1_ssim_loss(torch.zeros(10, 30, 3), torch.zeros(10, 30, 3), 0.2, backend)


def test_images_of_different_sizes_are_named():
    """Where shapes are not checked by the annotations, as in a user's program."""
    with pytest.raises(ValueError, match="Expected equal sizes"):
        check_images(torch.zeros(20, 30, 3), torch.zeros(20, 31, 3))


def test_numba_refuses_doubles():
    with pytest.raises(ValueError, match="takes float32"):
        l1_ssim_loss(*_pair(20, 20), 0.2, "numba")
