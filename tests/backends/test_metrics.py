"""Image metrics, and LPIPS with and without its backbone."""

import pytest
import torch

from fm3d_plugins.backends.metrics import Lpips, psnr


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
