"""The compiled step of Adam against torch's own."""

import pytest
import torch

from fm3d_plugins.kernels import threads
from fm3d_plugins.kernels.adam import KernelAdam
from fm3d_plugins.training import FusedAdamConfig

OPTIONS = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-15}


def trained(kind, shape, steps, dtype=torch.float32, resumed=None):
    """A parameter after some steps by random gradients, half of them zero, and its optimizer."""
    generator = torch.Generator().manual_seed(len(shape))
    param = torch.nn.Parameter(torch.rand(shape, generator=generator).to(dtype))
    optimizer = kind([param], **OPTIONS)
    if resumed is not None:
        param.data = resumed[0].data.clone()
        optimizer.load_state_dict(resumed[1].state_dict())
    for _ in range(steps):
        gradient = torch.randn(shape, generator=generator)
        param.grad = torch.where(gradient > 0, gradient, 0.0).to(dtype)
        optimizer.step()
    return param, optimizer


@pytest.mark.parametrize("shape", [(0, 3), (1,), (16,), (5, 7), (33, 15, 3), (40_001,)])
def test_steps_are_those_of_torch_in_float64(shape):
    param, _ = trained(KernelAdam, shape, 7)
    expected, _ = trained(torch.optim.Adam, shape, 7, torch.float64)
    # Seven moves of up to 0.02 each, in float32.
    torch.testing.assert_close(param.double(), expected, atol=2e-6, rtol=0)


def test_what_is_not_a_number_stays_visible():
    """Also where it stands alone in a vector of numbers that rest."""
    for place in (3, slice(0, 16), 34):
        moved = {}
        for kind in (KernelAdam, torch.optim.Adam):
            param = torch.nn.Parameter(torch.ones(35))
            param.grad = torch.zeros(35)
            param.grad[place] = torch.nan
            kind([param], lr=0.1).step()
            moved[kind] = param.detach()
        assert torch.equal(*(values.isnan() for values in moved.values()))
        assert moved[KernelAdam].isnan().any()


def test_parameters_that_are_not_contiguous_are_torchs():
    strided = torch.nn.Parameter(torch.rand(6, 8)[:, ::2])
    assert not isinstance(FusedAdamConfig(lr=0.1).setup([strided]), KernelAdam)


@pytest.mark.parametrize("first", [KernelAdam, torch.optim.Adam])
@pytest.mark.parametrize("second", [KernelAdam, torch.optim.Adam])
def test_state_is_that_of_torch(first, second):
    resumed, _ = trained(second, (37,), 3, resumed=trained(first, (37,), 3))
    expected, _ = trained(torch.optim.Adam, (37,), 3, resumed=trained(torch.optim.Adam, (37,), 3))
    torch.testing.assert_close(resumed, expected, atol=1e-6, rtol=0)


def test_what_never_had_a_gradient_stays():
    param = torch.nn.Parameter(torch.rand(100, 4))
    before, optimizer = param.detach().clone(), KernelAdam([param], **OPTIONS)
    optimizer.step()
    assert torch.equal(param, before)
    param.grad = torch.zeros_like(param)
    param.grad[50] = 1.0
    optimizer.step()
    assert (param != before).any(-1).nonzero().tolist() == [[50]]


def test_steps_are_bitwise_equal_for_any_number_of_threads():
    results = []
    for num_threads in (1, 2, 5):
        threads.set_num_threads(num_threads)
        results.append(trained(KernelAdam, (100_003,), 3)[0])
    threads.set_num_threads(None)
    assert all(torch.equal(result, results[0]) for result in results)


def test_methods_use_the_kernel_for_what_it_can_take():
    params = [torch.nn.Parameter(torch.zeros(2))]
    assert isinstance(FusedAdamConfig().setup(params), KernelAdam)
    assert not isinstance(FusedAdamConfig(weight_decay=0.1).setup(params), KernelAdam)
    params.append(torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    assert not isinstance(FusedAdamConfig().setup(params), KernelAdam)
