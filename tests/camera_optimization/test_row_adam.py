"""`RowAdam` against torch's Adam where they must agree, and its schedule."""

import pytest
import torch

from fm3d_plugins.camera_optimization.row_adam import (
    DelayedDecayConfig,
    RowAdam,
    RowAdamConfig,
)

BETAS = (0.8, 0.99)


def gradients(steps, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, rows, 6, generator=generator, dtype=torch.float64)


def run(optimizer, parameter, sequence):
    for gradient in sequence:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def test_rows_that_always_have_a_gradient_move_as_in_adam():
    sequence = gradients(20, 3)
    ours = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    moved = run(RowAdam([ours], lr=0.1, betas=BETAS, eps=1e-12), ours, sequence)
    expected = run(torch.optim.Adam([theirs], lr=0.1, betas=BETAS, eps=1e-12), theirs, sequence)
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)


def test_each_row_moves_as_if_only_the_steps_that_drew_it_had_happened():
    sequence = gradients(30, 4)
    drawn = torch.arange(30) % 4
    sparse = torch.zeros_like(sequence)
    for step, row in enumerate(drawn):
        sparse[step, row] = sequence[step, row]
    together = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    moved = run(RowAdam([together], lr=0.1, betas=BETAS, eps=1e-12), together, sparse)
    for row in range(4):
        alone = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
        own = sequence[drawn == row][:, row : row + 1]
        expected = run(torch.optim.Adam([alone], lr=0.1, betas=BETAS, eps=1e-12), alone, own)
        torch.testing.assert_close(moved[row : row + 1], expected, rtol=1e-12, atol=1e-12)


def test_row_without_gradient_stays_whatever_its_momentum():
    parameter = torch.zeros(2, 6, requires_grad=True)
    optimizer = RowAdam([parameter], lr=0.1, betas=BETAS, eps=1e-12)
    run(optimizer, parameter, torch.ones(3, 2, 6))
    before = parameter.detach().clone()
    only_first = torch.zeros(1, 2, 6)
    only_first[0, 0] = 1
    run(optimizer, parameter, only_first)
    assert torch.equal(parameter[1], before[1])
    assert not torch.equal(parameter[0], before[0])


def test_vectors_have_one_row_per_entry():
    parameter = torch.zeros(3, requires_grad=True)
    optimizer = RowAdam([parameter], lr=0.1, betas=BETAS, eps=1e-12)
    run(optimizer, parameter, torch.tensor([[2.0, 0.0, -5.0]]))
    # Adam's first step has the length of its learning rate, whatever the gradient.
    torch.testing.assert_close(parameter.detach(), torch.tensor([-0.1, 0.0, 0.1]))


def test_saved_state_continues_the_same_path():
    sequence = gradients(10, 2)
    whole = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    run(RowAdam([whole], lr=0.1, betas=BETAS, eps=1e-12), whole, sequence)
    parts = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    first = RowAdam([parts], lr=0.1, betas=BETAS, eps=1e-12)
    run(first, parts, sequence[:5])
    second = RowAdam([parts], lr=0.1, betas=BETAS, eps=1e-12)
    second.load_state_dict(first.state_dict())
    run(second, parts, sequence[5:])
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("steps", [100, 1000])
def test_schedule_is_nothing_then_rises_then_decays_to_the_final_rate(steps):
    parameter = torch.zeros(1, 6, requires_grad=True)
    config = RowAdamConfig(lr=0.5)
    optimizer = config.setup([parameter])
    schedule = DelayedDecayConfig(lr_final=0.005, max_steps=steps, delay=0.1, ramp=0.1)
    scheduler = schedule.setup().get_scheduler(optimizer, 0.5)
    rates = []
    for _ in range(steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    delay, ramp = steps // 10, steps // 10
    assert not any(rates[:delay])
    rising = rates[delay : delay + ramp // 2]
    assert 0 < rising[0] < 0.06 and rising == sorted(rising)
    assert max(rates) < 0.5
    decaying = rates[delay + ramp :]
    assert decaying == sorted(decaying, reverse=True)
    assert rates[-1] == pytest.approx(0.005)
