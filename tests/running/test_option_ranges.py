"""Numbers that mean nothing are refused before anything is written."""

import copy

import pytest
import tyro
from nerfstudio.configs.method_configs import all_methods

from fm3d_plugins.running.option_ranges import RANGES, _at, require_in_range
from fm3d_plugins.training import TrainerConfig

OWN = [config for config in all_methods.values() if isinstance(config, TrainerConfig)]


def typed(method, *words):
    """A config as ns-train makes it of what is typed."""
    flags = (tyro.conf.FlagConversionOff,)
    config = copy.deepcopy(all_methods[method])
    return tyro.cli(type(config), default=config, args=list(words), config=flags)


@pytest.mark.parametrize("place", RANGES)
def test_every_range_is_of_an_option_that_some_method_has(place):
    *folders, name = place.split(".")
    assert any(hasattr(_at(config, ".".join(folders)), name) for config in OWN)


@pytest.mark.parametrize("config", OWN, ids=lambda config: config.method_name)
def test_every_method_as_it_comes_is_taken(config):
    require_in_range(config, config.fewest_steps)


@pytest.mark.parametrize(
    ("method", "option", "value", "expected"),
    [
        ("3dgs", "max-num-iterations", "0", "at least 1"),
        ("nerf", "max-num-iterations", "-5", "at least 1"),
        ("3dgs", "pipeline.datamanager.max-image-size", "-3", "at least 0"),
        ("3dgs", "pipeline.datamanager.camera-res-scale-factor", "0", "0.01 to 1"),
        ("nerf", "pipeline.datamanager.camera-res-scale-factor", "2", "0.01 to 1"),
        ("3dgs", "pipeline.model.sh-degree", "9", "0 to 3"),
        ("nerf", "pipeline.datamanager.train-num-rays-per-batch", "0", "at least 1"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_option_as_it_is_typed(
    method, option, value, expected
):
    with pytest.raises(SystemExit, match=f"--{option} is {value}.*; expected {expected}"):
        typed(method, f"--{option}", value).set_timestamp()


def test_all_numbers_out_of_range_are_named():
    config = typed("3dgs", "--max-num-iterations", "0", "--pipeline.model.max-gaussians", "1")
    with pytest.raises(SystemExit, match="max-num-iterations is 0.*max-gaussians is 1"):
        config.set_timestamp()


def test_methods_that_train_nothing_take_no_steps():
    config = copy.deepcopy(all_methods["vggt"])
    config.max_num_iterations = 0
    require_in_range(config, config.fewest_steps)
