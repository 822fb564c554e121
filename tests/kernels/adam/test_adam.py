"""The compiled step of Adam against torch's own."""

import pytest
import torch

from fm3d_plugins.kernels import threads
from fm3d_plugins.kernels.adam import KernelAdam
from fm3d_plugins.running.optimization import FusedAdamConfig

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


def trained_on_a_bowl(kind, steps=5, closure=False, dtype=torch.float32, **options):
    """A parameter that descends to the origin, and what the last step returned."""
    generator = torch.Generator().manual_seed(0)
    param = torch.nn.Parameter(torch.rand(40, generator=generator).to(dtype) + 1)
    optimizer, returned = kind([param], lr=0.1, **options), None

    def loss():
        optimizer.zero_grad()
        value = param.square().sum()
        value.backward()
        return value

    for _ in range(steps):
        if not closure:
            loss()
        returned = optimizer.step(loss if closure else None)
    return param.detach().double(), returned


@pytest.mark.parametrize(
    "options", [{"weight_decay": 0.5}, {"amsgrad": True}, {"maximize": True}, {"capturable": False}]
)
@pytest.mark.parametrize("closure", [False, True])
def test_options_and_closures_count_as_they_do_in_torch(options, closure):
    expected, expected_loss = trained_on_a_bowl(
        torch.optim.Adam, closure=closure, dtype=torch.float64, **options
    )
    moved, loss = trained_on_a_bowl(KernelAdam, closure=closure, **options)
    # Five moves of 0.1; in float32 1 - 0.999 is off by 5e-5 of itself, and its root by half that.
    torch.testing.assert_close(moved, expected, atol=1.2e-5, rtol=0)
    assert (loss is None) == (expected_loss is None) == (not closure)
    if closure:
        torch.testing.assert_close(loss.double(), expected_loss, atol=0, rtol=1e-4)


def test_weight_decay_that_a_schedule_sets_later_counts():
    results = []
    for kind in (KernelAdam, torch.optim.Adam):
        param = torch.nn.Parameter(torch.full((20,), 2.0))
        optimizer = kind([param], lr=0.1)
        for step in range(4):
            optimizer.param_groups[0]["weight_decay"] = 0.3 * step
            param.grad = torch.full((20,), 0.1)
            optimizer.step()
        results.append(param.detach())
    torch.testing.assert_close(*results, atol=1e-6, rtol=0)


def test_hooks_of_a_step_run_once():
    """torch wraps the step of every class that was used, Adam's as well."""
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    calls = []
    for options in ({}, {"weight_decay": 0.1}):
        optimizer = KernelAdam([torch.nn.Parameter(torch.zeros(1))], lr=0.1, **options)
        optimizer.register_step_post_hook(lambda *_: calls.append(1))
        optimizer.step()
    assert len(calls) == 2
