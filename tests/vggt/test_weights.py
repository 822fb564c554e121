"""Published weights: strict, and without a second copy."""

import json

import pytest
import torch

from fm3d_plugins.vggt.network import VGGT
from fm3d_plugins.vggt.weights import load_official


@pytest.fixture
def on_meta(small_sizes):
    with torch.device("meta"):
        return VGGT(**small_sizes).eval()


def test_full_size_network_has_the_published_names_and_shapes(shared):
    manifest = json.loads((shared / "golden" / "vggt_1b_manifest.json").read_text())
    with torch.device("meta"):
        network = VGGT()
        published = {name: torch.empty(shape) for name, shape in manifest.items()}
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == manifest
    assert sum(value.numel() for value in network.parameters()) == 1_256_537_516
    load_official(network, published)


@pytest.mark.parametrize("name", ["tiny", "vits"])
def test_small_golden_networks_load_strictly(name, golden):
    """The weights' names and shapes are those of the published constructors."""
    assert not any(value.is_meta for value in golden(name).network.parameters())


def test_network_on_meta_takes_large_tensors_themselves(on_meta, small_network, monkeypatch):
    monkeypatch.setattr("fm3d_plugins.nn.weights.SMALL", 100)
    weights = {name: value.clone() for name, value in small_network.state_dict().items()}
    load_official(on_meta, weights)
    for name, parameter in on_meta.named_parameters():
        is_shared = parameter.data_ptr() == weights[name].data_ptr()
        assert is_shared == (parameter.numel() > 100), name
    images = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        assert on_meta(images).depth.equal(small_network(images).depth)


def test_network_with_weights_gets_copies(small_sizes, small_network):
    other = VGGT(**small_sizes)
    weights = small_network.state_dict()
    load_official(other, weights)
    for name, parameter in other.named_parameters():
        assert parameter.equal(weights[name])
        assert parameter.data_ptr() != weights[name].data_ptr()


@pytest.mark.parametrize("build_on_meta", [True, False])
def test_matrices_of_the_backbone_land_in_the_type_asked_for(
    stored_in, build_on_meta, on_meta, small_sizes, small_network
):
    network = on_meta if build_on_meta else VGGT(**small_sizes).eval()
    load_official(network, small_network.state_dict(), dtype=torch.bfloat16)
    images = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        expected = stored_in(small_network, torch.bfloat16)(images)
        ours = network(images)
    types = {name: value.dtype for name, value in small_network.named_parameters()}
    assert {name: value.dtype for name, value in network.named_parameters()} == types
    assert ours.depth.equal(expected.depth)


def test_half_precision_checkpoints_become_float32(on_meta, small_network):
    weights = {name: value.half() for name, value in small_network.state_dict().items()}
    load_official(on_meta, weights)
    assert {value.dtype for value in on_meta.parameters()} == {torch.float32}


def test_all_that_does_not_fit_is_listed_and_nothing_is_loaded(small_network):
    weights = dict(small_network.state_dict())
    del weights["camera_head.empty_pose_tokens"]
    del weights["aggregator.camera_token"]
    weights["aggregator.extra"] = torch.zeros(1)
    weights["depth_head.norm.bias"] = torch.zeros(3)
    before = {name: value.clone() for name, value in small_network.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_official(small_network, weights)
    message = str(caught.value)
    for line in (
        "missing: camera_head.empty_pose_tokens",
        "missing: aggregator.camera_token",
        "unexpected: aggregator.extra",
        "shape of depth_head.norm.bias: found [3], expected [64]",
    ):
        assert line in message.splitlines()
    assert all(value.equal(before[name]) for name, value in small_network.state_dict().items())
