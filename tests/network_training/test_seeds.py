"""The same seed gives the same losses, bit for bit, with one thread."""

import pytest
from nerfstudio.scripts.train import _set_random_seed

from fm3d_plugins.network_training.loss_log import StepTable
from tests.network_training.tiny_runs import NETWORKS, tiny_run

PLANNED = 100


def losses(network, folder, seed, steps):
    """Of a run's first steps, built anew as ns-train builds it."""
    config = tiny_run(network, folder, PLANNED, scenes_per_step=1)
    config.machine.seed = seed
    _set_random_seed(seed)
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.table = StepTable(folder / "steps.csv", 0)
    return [float(trainer.train_iteration(step)[0]) for step in range(steps)]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("steps", [15, pytest.param(100, marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_first_losses_and_another_one_others(network, steps, tmp_path):
    first, again = (losses(network, tmp_path / run, 1, steps) for run in ("first", "again"))
    assert len(set(first)) > steps / 2 and first == again
    other = losses(network, tmp_path / "other", 2, 2)
    # Where cameras begin with matches, heads begin with zeros: the first loss is the same.
    assert other[1] != first[1]
