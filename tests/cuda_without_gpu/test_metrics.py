"""Scores of images on the pretended device."""

import pytest
import torch

from fm3d_plugins.backends.metrics import Lpips, image_metrics
from fm3d_plugins.kernels.image_loss import l1_ssim_loss


class Distance(torch.nn.Module):
    """In the place of LPIPS: a weight that must lie where the images are."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, 3, 1, 1))

    def forward(self, first, second, normalize):
        assert normalize
        return (self.weight * (first - second)).square().mean()


def test_scores_are_those_of_a_cpu(cuda):
    rendered, target = torch.rand(16, 20, 3), torch.rand(16, 20, 3)
    scores = []
    for device in ("cpu", "cuda"):
        lpips = Lpips("alex")
        lpips._model = Distance()
        pair = rendered.to(device), target.to(device)
        scores.append({**image_metrics(*pair, [lpips]), "loss": float(l1_ssim_loss(*pair))})
    assert set(scores[1]) == {"psnr", "ssim", "lpips", "loss"}
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)
