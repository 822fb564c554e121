"""Frozen parts stay as they begin, and all else is trained as ever."""

import copy

import pytest
import torch
from torch import nn

from fm3d_plugins.checkpoints import load
from fm3d_plugins.cli.main import main
from fm3d_plugins.network_training.parts import freeze, trained_share
from tests.network_training.conftest import train
from tests.network_training.tiny_runs import tiny_run

CHOICES = [
    ("dust3r", ("encoder", "matching")),
    ("lvsm", ("decoder",)),
    ("rayzer", ("encoder", "decoder")),
    ("vggt", ("encoder", "heads")),
]


def begun(config):
    """A trainer that took no step yet."""
    torch.manual_seed(0)
    config.set_timestamp()
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def within(model, parts):
    """Names of the parameters of some parts."""
    modules = [module for part in parts for module in model.parts()[part]]
    return {
        name
        for name, _ in model.network.named_parameters()
        if any(name == module or name.startswith(module + ".") for module in modules)
    }


@pytest.mark.parametrize(("network", "parts"), CHOICES)
def test_frozen_parts_stay_and_all_others_are_trained(network, parts, tmp_path, capsys):
    """Truth: after steps with weight decay frozen numbers are the same bits; every other matrix
    that the loss reaches has moved. Nothing is computed backwards for what is frozen."""
    config = tiny_run(network, tmp_path, 3)
    config.pipeline.model.freeze, config.pipeline.model.ema_decay = parts, 0.5
    trainer = begun(config)
    model = trainer.pipeline.model
    frozen, before = within(model, parts), copy.deepcopy(model.network.state_dict())
    assert 0 < len(frozen) < len(before)
    trainer.train()
    grouped = {id(p) for group in trainer.optimizers.parameters.values() for p in group}
    for name, parameter in model.network.named_parameters():
        if name in frozen:
            assert parameter.grad is None and id(parameter) not in grouped, name
            assert torch.equal(parameter, before[name]), name
            assert torch.equal(model.average.state_dict()[name], before[name]), name
        else:
            assert id(parameter) in grouped
            assert parameter.grad is None or not torch.equal(parameter, before[name]), name
    assert trained_share(model.network) in capsys.readouterr().out


def test_a_network_whose_matrices_are_frozen_has_one_group(tmp_path):
    """Truth: an optimiser without parameters is left out, and its learning rate too."""
    config = tiny_run("lvsm", tmp_path, 1)
    config.pipeline.model.freeze = ("decoder",)
    trainer = begun(config)
    assert list(trainer.optimizers.optimizers) == ["others"]


def test_a_frozen_run_is_gone_on_with_and_exported_as_it_began(tmp_path, monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    config = tiny_run("dust3r", tmp_path / "whole", 4)
    config.pipeline.model.freeze = ("encoder", "matching")
    whole = begun(copy.deepcopy(config))
    before = copy.deepcopy(whole.pipeline.model.network.state_dict())
    whole.train()
    config.output_dir, config.steps_per_save = tmp_path / "parts", 1
    config.save_only_latest_checkpoint = False
    parts = train(copy.deepcopy(config))
    for path in parts.checkpoint_dir.glob("*.ckpt"):
        if path.stem != "step-000000001":
            path.unlink()
    config.load_dir = parts.checkpoint_dir
    resumed = train(config)
    expected, found = whole.pipeline.model.state_dict(), resumed.pipeline.model.state_dict()
    assert all(torch.equal(found[n], v) for n, v in expected.items() if n != "seconds")
    output = tmp_path / "tuned.safetensors"
    main(["weights", "export", "--load-config", str(resumed.base_dir), "--output", str(output)])
    exported = load(output)
    frozen = within(whole.pipeline.model, ("encoder", "matching"))
    assert all(torch.equal(exported[name], before[name]) for name in frozen)
    # What else is frozen decides what optimisers hold.
    config.pipeline.model.freeze = ("encoder",)
    with pytest.raises(SystemExit, match=r"do not fit this run's.*pipeline\.model\.freeze"):
        train(config)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("encodr",), "no part encodr; it has patch_embedding, encoder, heads. Name"),
        (("matching",), "no part matching; it has"),
        (("encoder", "heads"), "Everything would be frozen"),
    ],
)
def test_parts_that_are_not_there_and_all_of_them_are_refused(names, message):
    network = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("embed", "blocks", "head")})
    parts = {
        "patch_embedding": ["embed"],
        "encoder": ["embed", "blocks"],
        "heads": ["head"],
        "matching": ["path"],
    }
    with pytest.raises(ValueError, match=message):
        freeze(network, parts, names)


@pytest.mark.parametrize("network", ["dust3r", "lvsm", "rayzer", "vggt"])
def test_every_parameter_is_within_some_part(network, tmp_path):
    model = tiny_run(network, tmp_path, 1).pipeline.model.setup(
        scene_box=None, num_train_data=0, device="cpu"
    )
    every = {name for name, _ in model.network.named_parameters()}
    assert within(model, model.parts()) == every
    assert {"patch_embedding", "decoder" if network != "vggt" else "encoder", "heads"} <= set(
        model.parts()
    )


def test_a_loss_that_nothing_trained_has_an_influence_on_is_refused(tmp_path):
    """Truth: after the warm start of RayZer nothing teaches the matching."""
    config = tiny_run("rayzer", tmp_path, 4)
    config.pipeline.model.warm_start = 0.5
    config.pipeline.model.freeze = ("camera_estimator", "encoder", "decoder", "heads")
    trainer = begun(config)
    with pytest.raises(SystemExit, match="influence on the loss of step 2"):
        trainer.train()


@pytest.mark.parametrize(("network", "parts"), CHOICES)
def test_gradients_are_the_same_where_blocks_are_computed_again(network, parts, tmp_path):
    """Truth: to rounding, of sums in another order; frozen parts have none either way."""
    gradients = []
    for recompute in (False, True):
        config = tiny_run(network, tmp_path / str(recompute), 1)
        config.pipeline.model.freeze, config.pipeline.model.recompute = parts, recompute
        torch.manual_seed(0)
        config.set_timestamp()
        pipeline = config.pipeline.setup(device="cpu")
        pipeline.get_train_loss_dict(0)[1]["main_loss"].backward()
        gradients.append([each.grad for each in pipeline.model.network.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert (plain is None) == (again is None)
        if plain is not None:
            torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-4)
