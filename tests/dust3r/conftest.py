"""Small networks: one with random weights, and those of the golden files."""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fm3d_plugins.dust3r.network import DUSt3R
from fm3d_plugins.dust3r.weights import load_official

SMALL_SIZES = {
    "encoder_width": 32,
    "encoder_depth": 2,
    "encoder_heads": 2,
    "decoder_width": 16,
    "decoder_depth": 4,
    "decoder_heads": 2,
}
"""Of a network that takes milliseconds with a linear head."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["linear", "dpt"])
def small_network(request):
    """Random weights, with either head."""
    torch.manual_seed(0)
    return DUSt3R(**SMALL_SIZES, head=request.param).eval()


@pytest.fixture
def linear_network():
    torch.manual_seed(0)
    return DUSt3R(**SMALL_SIZES, head="linear").eval()


@pytest.fixture(scope="session")
def alignment_scene():
    """The module with an analytic scene, which lies in a file that cannot be imported by name."""
    path = Path(__file__).with_name("alignment_scene.py")
    specification = importlib.util.spec_from_file_location("alignment_scene", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


GOLDEN_SIZES = {
    "encoder_width": 64,
    "encoder_depth": 4,
    "encoder_heads": 4,
    "decoder_width": 64,
    "decoder_heads": 4,
}
GOLDEN_DEPTHS = {"linear": 4, "dpt": 12}


@dataclass
class GoldenCase:
    """A network and what the published code says for the same weights and images."""

    network: DUSt3R
    tensors: dict

    def predict(self, case):
        images = [self.tensors[f"{case}.img{number}"] for number in (1, 2)]
        with torch.no_grad():
            return self.network(*images)

    def check(self, case, prediction):
        """Distances reach 1e5 with these weights, so their logarithms are compared."""
        expected = {
            name: self.tensors[f"{case}.{name}"]
            for name in ("pts3d_1", "conf_1", "pts3d_2", "conf_2")
        }
        assert_same_points(prediction.points_first, expected["pts3d_1"])
        assert_same_points(prediction.points_second_in_first, expected["pts3d_2"])
        for ours, name in (
            (prediction.confidence_first, "conf_1"),
            (prediction.confidence_second, "conf_2"),
        ):
            torch.testing.assert_close(ours.log(), expected[name].log(), atol=1e-4, rtol=0)


def assert_same_points(ours, expected):
    distances = [points.norm(dim=-1, keepdim=True) for points in (ours, expected)]
    logarithms = [distance.log1p() for distance in distances]
    torch.testing.assert_close(*logarithms, atol=1e-4, rtol=0)
    pairs = zip((ours, expected), distances, strict=True)
    directions = [points / distance.clamp(min=1e-8) for points, distance in pairs]
    # A point that lies almost at the camera has no direction to speak of.
    counts = distances[1][..., 0] > 1e-2
    torch.testing.assert_close(*(each[counts] for each in directions), atol=1e-4, rtol=0)


@pytest.fixture(scope="session")
def golden_files(shared, golden_weights):
    """A function from `linear` or `dpt` to weights and tensors, each read once."""
    from safetensors.torch import load_file

    @functools.cache
    def load(head):
        with torch.device("meta"):
            network = DUSt3R(**GOLDEN_SIZES, decoder_depth=GOLDEN_DEPTHS[head], head=head)
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        for name in [name for name in shapes if ".scratch.layer" in name]:
            number = int(name[name.index(".layer") + 6])
            shapes[name.replace(f"layer{number}_rn", f"layer_rn.{number - 1}")] = shapes[name]
        weights = {
            name: torch.from_numpy(golden_weights.golden_array(name, shape))
            for name, shape in shapes.items()
        }
        return weights, load_file(shared / "golden" / f"dust3r_tiny_{head}.safetensors")

    return load


@pytest.fixture
def golden(golden_files):
    """A function from `linear` or `dpt` to a `GoldenCase` of its own."""

    def load(head):
        weights, tensors = golden_files(head)
        with torch.device("meta"):
            network = DUSt3R(**GOLDEN_SIZES, decoder_depth=GOLDEN_DEPTHS[head], head=head).eval()
        load_official(network, {name: value.clone() for name, value in weights.items()})
        return GoldenCase(network, tensors)

    return load
