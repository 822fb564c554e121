"""Published weights: all of them and no others, besides those of the training program's loss."""

import json

import pytest
import torch

from fm3d_plugins.nn.view_synthesis import load_official, published_name
from fm3d_plugins.rayzer.network import RayZer, RayZerConfig

SMALL = RayZerConfig(
    width=16, head_width=8, camera_depth=1, scene_depth=1, decoder_depth=1, num_latents=5
)


@pytest.fixture
def small():
    """A network, and a copy of its weights by their published names."""
    network = RayZer(SMALL).eval()
    weights = {published_name(k): v.detach().clone() for k, v in network.named_parameters()}
    return network, weights


def test_full_size_network_has_the_published_names_and_shapes(shared):
    manifest = json.loads((shared / "golden" / "rayzer_manifest.json").read_text())
    with torch.device("meta"):
        network = RayZer()
    ours = {published_name(k): list(v.shape) for k, v in network.state_dict().items()}
    assert ours == {key: entry["shape"] for key, entry in manifest["tensors"].items()}
    num_parameters = sum(value.numel() for value in network.parameters())
    assert num_parameters == manifest["n_params"] == 238_359_818
    with torch.device("meta"):
        load_official(network, {key: torch.empty(shape) for key, shape in ours.items()})


def test_network_built_on_meta_gives_the_same_once_it_is_loaded(small):
    network, weights = small
    with torch.device("meta"):
        other = RayZer(SMALL).eval()
    load_official(other, weights)
    images = torch.rand(1, 3, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    views = torch.tensor([0, 2]), torch.tensor([1])
    with torch.no_grad():
        ours, expected = other(images, *views), network(images, *views)
    assert ours.renders.equal(expected.renders)
    assert ours.cameras.numbers.equal(expected.cameras.numbers)


def test_all_that_does_not_fit_is_listed_and_nothing_is_loaded(small):
    network, weights = small
    del weights["cam_code"]
    weights["transformer_decoder.1.norm1.weight"] = torch.zeros(16)
    weights["pose_predictor.rel_head.2.bias"] = torch.zeros(7)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_official(network, weights)
    lines = str(caught.value).splitlines()
    for line in (
        "missing: cam_code",
        "unexpected: transformer_decoder.1.norm1.weight",
        "shape of pose_predictor.rel_head.2.bias: found [7], expected [9]",
    ):
        assert line in lines
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_weights_of_the_loss_are_left_out_and_all_others_are_refused(small):
    network, weights = small
    weights["loss_computer.perceptual_loss_module.vgg.features.0.weight"] = torch.zeros(64, 3, 3, 3)
    load_official(network, weights)
    with pytest.raises(ValueError, match="unexpected: my_loss_computer.bias"):
        load_official(network, weights | {"my_loss_computer.bias": torch.zeros(1)})


def test_training_starts_with_all_cameras_at_the_canonical_one(small):
    """Jiang et al. 2025: near-zero heads, so rotations near the identity and a focal of 1.25."""
    cameras = small[0].estimate_cameras(torch.randn(1, 4, 2, 16))
    poses = cameras.world_from_camera()
    torch.testing.assert_close(poses, torch.eye(4).expand_as(poses), atol=1e-3, rtol=0)
    assert poses[:, 2].equal(torch.eye(4)[None])
    focal = cameras.intrinsics(1, 1)[..., 0, 0]
    torch.testing.assert_close(focal, torch.full_like(focal, 1.25), atol=1e-3, rtol=0)
