"""Weights into any network, strictly."""

import pytest
import torch
from torch import nn

from fm3d_plugins.nn.weights import load_strictly, matrix_names


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Conv2d(3, 1, 1))
        self.last = nn.Linear(3, 1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network()


BODY = {"body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"}


def test_matrices_are_those_of_linear_layers_and_convolutions_of_the_parts(network):
    assert matrix_names(network, ["body"]) == BODY
    assert matrix_names(network, ["last"]) == {"last.weight", "last.bias"}
    assert matrix_names(network, ["body", "last"]) == BODY | {"last.weight", "last.bias"}


@pytest.mark.parametrize("build_on_meta", [True, False])
def test_weights_land_in_their_types(build_on_meta, network):
    weights = {name: value.double() for name, value in network.state_dict().items()}
    with torch.device("meta" if build_on_meta else "cpu"):
        other = Network()
    load_strictly(other, weights, advice="", converted=BODY, dtype=torch.bfloat16)
    for name, value in other.named_parameters():
        assert value.dtype == (torch.bfloat16 if name in BODY else torch.float32)
        torch.testing.assert_close(value.double(), weights[name], rtol=2**-8, atol=0)
        assert value.requires_grad


def test_parameters_that_may_be_absent_keep_their_values(network):
    weights = {name: torch.ones_like(value) for name, value in network.state_dict().items()}
    kept = {name: weights.pop(name) for name in ("last.weight", "last.bias")}
    before = network.last.weight.clone()
    with pytest.raises(ValueError, match="(?s)missing: last.weight.*Do something"):
        load_strictly(network, weights, advice="Do something.")
    load_strictly(network, weights, advice="", may_lack=kept)
    assert network.last.weight.equal(before)
    assert (network.body[0].weight == 1).all()
