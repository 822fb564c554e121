"""The published evaluation: a target's camera comes from the target itself."""

from dataclasses import replace

import pytest
import torch

from fm3d_plugins.checkpoints import locate
from fm3d_plugins.data.views import Views
from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.rayzer.inference import load_network, render_targets

CONTEXT, TARGETS = [0, 2, 3, 5], [1, 4]
"""Of six photos, as many as the small network was made for."""


@pytest.fixture
def network(rayzer_weights):
    """With poses so far apart that renders of two cameras differ."""
    network = load_network(locate(rayzer_weights), torch.float32, torch.device("cpu"))
    network.pose_predictor.rel_head[2].weight.mul_(30)
    network.image_head.linear.weight.mul_(10)
    return network


@pytest.fixture
def views():
    torch.manual_seed(2)
    return Views(
        torch.rand(6, 3, 32, 32), torch.eye(4).repeat(6, 1, 1), torch.eye(3).repeat(6, 1, 1)
    )


def test_given_cameras_have_no_part_in_it(network, views):
    ours = render_targets(network, views, CONTEXT, TARGETS)
    assert ours.shape == (2, 3, 32, 32)
    other = replace(views, world_from_camera=torch.rand(6, 4, 4), intrinsics=torch.rand(6, 3, 3))
    assert torch.equal(render_targets(network, other, CONTEXT, TARGETS), ours)


def test_cameras_are_of_all_photos_and_the_scene_of_the_context_alone(network, views):
    """Truth: the network's parts, one after the other."""
    tokens = network.tokens(views.images[None])
    cameras = network.estimate_cameras(tokens)
    rays = plucker_maps(cameras.intrinsics(32, 32), cameras.world_from_camera(), 32, 32)
    scene = network.encode(tokens[:, CONTEXT], rays[:, CONTEXT])
    expected = network.render(scene, rays[:, TARGETS])[0]
    torch.testing.assert_close(render_targets(network, views, CONTEXT, TARGETS), expected)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


@pytest.mark.parametrize("context", [[0, 5], [0, 1, 2, 3, 5]])
def test_other_numbers_of_photos_than_in_training_are_refused(network, views, context):
    with pytest.raises(ValueError, match="trained with 6 photos, 4 of them context"):
        render_targets(network, views, context, TARGETS)
