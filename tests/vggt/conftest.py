"""Small networks: one with random weights, and those of the golden files."""

import ast
import functools
import json
from dataclasses import dataclass

import pytest
import torch

from fm3d_plugins.vggt.aggregator import AggregatorConfig
from fm3d_plugins.vggt.camera_head import CameraHeadConfig
from fm3d_plugins.vggt.dense_head import DenseHeadConfig
from fm3d_plugins.vggt.network import VGGT
from fm3d_plugins.vggt.track_head import TrackHeadConfig
from fm3d_plugins.vggt.weights import load_official


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_sizes():
    """Constructor arguments of a network that takes milliseconds."""
    dense = DenseHeadConfig(features=16, channels=(8, 16, 16, 16), layers=(0, 0, 1, 1))
    return {
        "aggregator": AggregatorConfig(width=32, depth=2, num_heads=2, patch_embedding="conv"),
        "camera": CameraHeadConfig(depth=1, num_heads=2, rounds=2),
        "depth": dense,
        "points": dense,
        "tracks": TrackHeadConfig(
            maps=dense, rounds=2, correlation_levels=3, correlation_radius=1, width=16, depth=1
        ),
    }


@pytest.fixture
def small_network(small_sizes):
    """Random weights, large enough that every branch matters."""
    torch.manual_seed(0)
    network = VGGT(**small_sizes).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
            elif name.endswith("token"):
                parameter.normal_()
    return network


def dense_config(features, sizes):
    return DenseHeadConfig(
        features, tuple(sizes["out_channels"]), tuple(sizes["intermediate_layer_idx"])
    )


def sizes_from_golden(config):
    """Our constructor's arguments for the published constructors' arguments."""
    backbone, dense, tracks = config["agg"], config["dpt"], config["track"]
    return {
        "aggregator": AggregatorConfig(
            width=backbone["embed_dim"],
            depth=backbone["depth"],
            num_heads=backbone["num_heads"],
            patch_embedding=backbone["patch_embed"],
            patch_size=backbone["patch_size"],
        ),
        "camera": CameraHeadConfig(
            depth=config["cam"]["trunk_depth"], num_heads=config["cam"]["num_heads"]
        ),
        "depth": dense_config(dense["features"], dense),
        "points": dense_config(dense["features"], dense),
        "tracks": TrackHeadConfig(
            maps=dense_config(tracks["features"], config["track_dpt"]),
            rounds=tracks["iters"],
            stride=tracks["stride"],
            correlation_levels=tracks["corr_levels"],
            correlation_radius=tracks["corr_radius"],
            width=tracks["hidden_size"],
        ),
    }


@dataclass
class GoldenCase:
    """A network and what the published code says for the same weights and images."""

    network: VGGT
    tensors: dict
    layers: tuple

    def check_tokens(self):
        kept = self.network.aggregator(self.tensors["images"], self.layers, frames_per_pass=2)
        assert set(kept) == set(self.layers)
        for layer, tokens in kept.items():
            expected = self.tensors[f"aggregated_tokens.{layer}"]
            torch.testing.assert_close(tokens, expected, atol=5e-5, rtol=0)

    def check_outputs(self):
        golden = self.tensors
        outputs = self.network(golden["images"], heads=("camera", "depth", "points"))
        for i, encoding in enumerate(outputs.pose_encodings):
            torch.testing.assert_close(encoding, golden[f"pose_enc_list.{i}"], atol=5e-5, rtol=0)
        for ours, published in {
            "depth": golden["depth"].squeeze(-1),
            "depth_confidence": golden["depth_conf"],
            "points": golden["world_points"],
            "points_confidence": golden["world_points_conf"],
        }.items():
            torch.testing.assert_close(getattr(outputs, ours), published, atol=5e-5, rtol=1e-4)


@pytest.fixture(scope="session")
def golden_files(shared, golden_weights):
    """A function from `tiny` or `vits` to sizes, weights, tensors and layers, each read once."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    @functools.cache
    def load(name):
        path = shared / "golden" / f"vggt_{name}.safetensors"
        with safe_open(path, "pt") as file:
            config = ast.literal_eval(file.metadata()["config"])
        manifest = json.loads((shared / "golden" / f"vggt_{name}_manifest.json").read_text())
        weights = {
            key: torch.from_numpy(golden_weights.golden_array(key, shape))
            for key, shape in manifest.items()
        }
        layers = config["agg"]["cached_layer_indices"]
        return sizes_from_golden(config), weights, load_file(path), layers

    return load


@pytest.fixture
def golden(golden_files):
    """A function from `tiny` or `vits` to a `GoldenCase` of its own."""

    def load(name):
        sizes, weights, tensors, layers = golden_files(name)
        with torch.device("meta"):
            network = VGGT(**sizes).eval()
        load_official(network, {key: value.clone() for key, value in weights.items()})
        return GoldenCase(network, tensors, layers)

    return load
