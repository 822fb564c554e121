"""The pretended device refuses what CUDA refuses, and its tensors have values and gradients."""

import pytest
import torch


def test_what_is_made_for_cuda_is_there_and_so_is_what_is_computed(cuda):
    made = torch.ones(3, device="cuda")
    moved = torch.arange(3.0).to("cuda")
    for tensor in (made, moved, made + moved, moved[1:], moved.new_zeros(2), torch.cat([made])):
        assert tensor.is_cuda
        assert tensor.device == torch.device("cuda", 0)
    assert (made + moved).cpu().tolist() == [1, 2, 3]
    assert not moved.cpu().is_cuda
    assert moved.cpu().cuda().is_cuda
    assert not torch.zeros(3).is_cuda
    largest = moved.max(dim=0)
    assert largest.values.is_cuda and largest.indices.is_cuda


def test_two_devices_in_one_operation_are_refused(cuda):
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    for mix in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: here[there.long()],
        lambda: torch.nn.functional.linear(there, here[None]),
        lambda: here.add_(there),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mix()
    assert (there * torch.tensor(2.0)).is_cuda  # A single number may come from the CPU.
    assert there[torch.tensor([0, 2])].is_cuda
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())
    assert torch.rand(3, device="cuda", generator=torch.Generator("cuda")).is_cuda


def test_modules_move_and_train(cuda):
    """Truth: the gradient of the sum of a linear layer's outputs is its input."""
    layer = torch.nn.Linear(2, 1)
    with pytest.raises(RuntimeError, match="same device"):
        layer(torch.ones(5, 2, device="cuda"))
    layer.to("cuda")
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    layer(torch.ones(5, 2, device="cuda")).sum().backward()
    assert layer.weight.grad.is_cuda
    assert layer.weight.grad.cpu().tolist() == [[5, 5]]
    optimizer.step()
    torch.testing.assert_close((before - layer.weight.detach()).cpu(), torch.full((1, 2), 0.1))


def test_waits_are_listed(cuda):
    there = torch.arange(3.0, device="cuda")
    assert bool((there > 1).any())
    _ = there[there > 1], there.sum().item(), there[:2], there * 2
    assert cuda.waits == ["__bool__", "mask", "item"]
