"""Image metrics, and LPIPS with and without its backbone."""

from functools import partial

import pytest
import torch

from fm3d_plugins.backends.metrics import (
    Lpips,
    color_corrected,
    corrected_metrics,
    image_metrics,
    psnr,
)


def test_psnr_of_a_constant_difference():
    """Truth: an error of 0.1 everywhere is 10 log10(1 / 0.01) = 20 dB."""
    image = torch.full((8, 8, 3), 0.4)
    assert float(psnr(image, image + 0.1)) == pytest.approx(20.0, abs=1e-4)


def test_lpips_without_backbone_is_left_out_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("FM3D_OFFLINE", "1")
    metric, image = Lpips("alex"), torch.rand(32, 32, 3)
    assert metric.distance(image, image) is None
    assert metric.distance(image, image) is None
    said = capsys.readouterr().out
    assert said.count("left out") == 1
    assert "alexnet-owt-7be5be79.pth" in said


def test_lpips_with_backbone_in_the_cache_measures_offline(tmp_path, monkeypatch):
    """Truth: a distance is 0 for equal images and positive otherwise, whatever the weights."""
    from torchvision.models import alexnet

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(alexnet(weights=None).state_dict(), folder / "alexnet-owt-7be5be79.pth")
    metric = Lpips("alex")
    first, second = torch.rand(2, 64, 64, 3)
    assert metric.distance(first, first) == 0.0
    assert metric.distance(first, second) > 0.0


def test_a_photo_that_is_an_affine_map_of_the_render_is_reached():
    """Truth: the map itself, over colours that determine it and stay in [0, 1]."""
    rendered = torch.rand(20, 30, 3)
    affine = torch.tensor([[0.6, 0.1, 0.0], [0.05, 0.7, 0.1], [0.0, 0.1, 0.5]])
    photo = rendered @ affine + torch.tensor([0.1, 0.0, 0.2])
    torch.testing.assert_close(color_corrected(rendered, photo), photo, atol=1e-4, rtol=0)
    metrics = corrected_metrics(rendered, photo)
    assert metrics["cc_psnr"] > 60 and metrics["cc_ssim"] > 0.999


def test_fitted_colours_are_never_farther_off():
    rendered, photo = torch.rand(2, 20, 30, 3)
    before, after = (psnr(each, photo) for each in (rendered, color_corrected(rendered, photo)))
    assert float(after) >= float(before)
    flat = torch.full((20, 30, 3), 0.3)
    assert float(psnr(color_corrected(flat, photo), photo)) > float(psnr(flat, photo))


def test_only_pixels_that_count_are_compared():
    """Truth: scores of the part that counts, whatever the render shows beside it; here an error of
    0.1 where pixels count, which is 20 dB, and of 0.5 beside it."""
    target = 0.4 * torch.ones(40, 60, 3)
    counts = torch.zeros(40, 60, 1, dtype=torch.bool)
    counts[:, :30] = True
    rendered = torch.where(counts, target + 0.1, target + 0.5)
    assert float(psnr(rendered, target, counts)) == pytest.approx(20.0, abs=1e-4)
    metrics = image_metrics(rendered, target, [], counts=counts)
    assert metrics["psnr"] == pytest.approx(20.0, abs=1e-4)
    # A render that is the photo's affine map where pixels count is mapped onto it there.
    photo = torch.rand(40, 60, 3)
    rendered = torch.where(counts, 0.5 * photo + 0.1, torch.rand(40, 60, 3))
    assert corrected_metrics(rendered, photo, counts)["cc_psnr"] > 60


def test_what_lies_beside_pixels_that_count_changes_no_score():
    target, rendered, other = torch.rand(3, 40, 60, 3)
    counts = torch.rand(40, 60, 1) > 0.4
    for scores in (partial(image_metrics, lpips=[]), corrected_metrics):
        expected = scores(rendered, target, counts=counts)
        changed = (torch.where(counts, image, other) for image in (rendered, target))
        assert scores(*changed, counts=counts) == expected
    everything = torch.ones_like(counts)
    whole = image_metrics(rendered, target, [])
    for name, value in image_metrics(rendered, target, [], counts=everything).items():
        assert value == pytest.approx(whole[name], abs=1e-5)
