"""The learning rate of networks of views."""

import json

import pytest
import torch

from fm3d_plugins.one_pass.views.optimizer import MatrixAdamWConfig, WarmUpCosineConfig


def rates(steps, max_steps, warm_up=0.03):
    optimizer = MatrixAdamWConfig(lr=4e-4).setup([torch.nn.Parameter(torch.zeros(2, 2))])
    config = WarmUpCosineConfig(max_steps=max_steps, warm_up=warm_up)
    scheduler = config.setup().get_scheduler(optimizer, 4e-4)
    return [4e-4 * scheduler.lr_lambdas[0](step) for step in steps]


def test_the_published_learning_rates(shared):
    recorded = json.loads((shared / "golden" / "lvsm_sampling_and_lr.json").read_text())
    (values,) = [value for key, value in recorded.items() if key.startswith("lr_cosine")]
    steps = [int(step) for step in values]
    assert rates(steps, 100_000) == pytest.approx(list(values.values()), rel=1e-9, abs=1e-20)


def test_short_runs_begin_and_end_low():
    first, *_, highest, last = rates([0, 1, 2, 10], 10, warm_up=0.2)
    assert first == 0 and highest == 4e-4 and last == pytest.approx(0, abs=1e-12)
