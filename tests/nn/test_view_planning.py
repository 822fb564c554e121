"""What views are said to cost."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fm3d_plugins.lvsm.network import LVSM, LVSMConfig
from fm3d_plugins.nn import view_planning
from fm3d_plugins.nn.planning import Speed
from fm3d_plugins.nn.view_planning import plan_views
from fm3d_plugins.rayzer.network import RayZer, RayZerConfig

ONE_OPERATION_A_SECOND = Speed(products=1.0, attention=1.0)
DECODER_ONLY = LVSMConfig(width=64, head_width=16, decoder_depth=4)
ENCODER_DECODER = LVSMConfig(
    width=64, head_width=16, decoder_depth=3, encoder_depth=2, num_latents=20
)


@pytest.fixture
def counted(monkeypatch):
    """One operation takes one second."""
    monkeypatch.setattr(view_planning, "measured_speed", lambda *_: ONE_OPERATION_A_SECOND)


def plan(network, once, each):
    work = {"work": "views", "precision": "float32", "device": torch.device("cpu")}
    return plan_views(network, once, each, **work)


@pytest.mark.parametrize("config", [DECODER_ONLY, ENCODER_DECODER])
def test_seconds_are_those_of_the_operations(counted, config):
    network = LVSM(config).requires_grad_(False)
    images, rays = torch.rand(1, 2, 3, 32, 40), torch.rand(1, 3, 6, 32, 40)
    costs = plan(network, *network.passes(2 * 20, 20))
    with torch.no_grad():
        with FlopCounterMode(display=False) as once:
            scene = network.encode(images, rays[:, :2])
        with FlopCounterMode(display=False) as each:
            network.render(scene, rays[:, 2:])
    # Patches, the picture, and the last block's smaller part are left out.
    assert each.get_total_flops() == pytest.approx(costs.view, rel=0.25)
    if config is ENCODER_DECODER:
        assert once.get_total_flops() == pytest.approx(costs.once, rel=0.35)
    else:
        assert costs.once == 0


def test_of_rayzer_too(counted):
    network = RayZer(RayZerConfig(64, 16, 8, 3, 3, 3, 24, num_views=5, num_contexts=3))
    images, context, targets = torch.rand(1, 5, 3, 32, 32), torch.arange(3), torch.tensor([3, 4])
    once, each = network.passes(16)
    costs = plan(network, [network.camera_pass(16), *once], each)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images, context, targets)
    assert counter.get_total_flops() == pytest.approx(costs.once + 2 * costs.view, rel=0.35)


def test_what_memory_cannot_hold_is_refused(counted, monkeypatch):
    network = LVSM(DECODER_ONLY)
    monkeypatch.setattr(view_planning, "available_memory", lambda _: 100_000)
    with pytest.raises(ValueError, match=r"views needs .* may be used.*smaller pictures"):
        plan(network, *network.passes(200, 100))
