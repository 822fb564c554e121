"""Equality with the published code, on its outputs for weights made by a rule.

Tolerances: 1e-4 of a tensor's largest number, 1e-6 of losses, as an independent implementation
of the paper differs from the published code by up to 5e-6.
"""

import pytest
import torch

from fm3d_plugins.nn.perceptual import rendering_loss

GOLDEN_FILES = "lvsm_*_tiny_*.json"


@pytest.mark.parametrize("with_gradients", [False, True])
def test_all_stages_are_the_published_ones(with_gradients, golden):
    with torch.set_grad_enabled(with_gradients):
        stages = golden.stages()
    for name, ours in stages.items():
        golden.assert_near(ours, golden.expected(name, ours.shape))
    rest = {name.partition(".")[0] for name in set(golden.tensors) - set(stages)}
    assert rest <= {"input", "loss", "grad", "output"}  # of outputs the video


@pytest.mark.parametrize("in_training", [False, True])
def test_losses_and_gradients_are_the_published_ones(in_training, golden, check_gradients):
    """In training mode the blocks are computed again in the backward pass."""
    network = golden.network.train(in_training)
    _, renders = golden.render()
    loss = rendering_loss(renders, golden.targets())
    for name, ours in {
        "loss.l2": loss.squared_error,
        "loss.total_l2_only": loss.total,
        "loss.psnr": loss.psnr,
    }.items():
        golden.assert_near(ours, golden.tensors[name], share=1e-6)
    loss.total.backward()
    check_gradients(network, golden.description, golden.tensors)


@pytest.mark.parametrize("with_gradients", [False, True])
def test_frames_between_the_photos_are_the_published_ones(with_gradients, golden):
    with torch.set_grad_enabled(with_gradients):
        name, frames = golden.video()
    golden.assert_near(frames, golden.tensors[name])
