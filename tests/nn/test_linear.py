"""One linear layer, whichever library multiplies."""

import pytest
import torch
from torch.nn import functional

from fm3d_plugins.nn.linear import LARGE, Linear


@pytest.fixture
def by_onednn(monkeypatch):
    """What was given to oneDNN."""
    seen = []
    original = torch.Tensor.to_mkldnn
    monkeypatch.setattr(
        torch.Tensor, "to_mkldnn", lambda self: seen.append(tuple(self.shape)) or original(self)
    )
    return seen


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Linear(256, 512).requires_grad_(False)


needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="needs a torch that was built with oneDNN"
)


@needs_onednn
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("shape", [(128, 256), (2, 64, 256), (2, 2, 40, 256)])
def test_large_products_are_those_of_float64(shape, mode, layer, by_onednn):
    """256 products of numbers of order 1/16 and 1 in float32: some 1e-6."""
    features = torch.randn(shape)
    assert features.numel() * 512 >= LARGE
    before = features.clone()
    with mode():
        ours = layer(features)
    exact = functional.linear(features.double(), layer.weight.double(), layer.bias.double())
    assert by_onednn == [shape]
    assert not ours.is_mkldnn and ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=0)
    assert features.equal(before)


@needs_onednn
def test_strided_features_are_read_in_their_order(layer, by_onednn):
    features = torch.randn(256, 200).T
    with torch.no_grad():
        ours = layer(features)
    torch.testing.assert_close(ours, functional.linear(features, layer.weight, layer.bias))
    assert by_onednn


@needs_onednn
def test_layers_without_a_bias_are_multiplied_too(by_onednn):
    layer = Linear(256, 512, bias=False).requires_grad_(False)
    features = torch.randn(200, 256)
    torch.testing.assert_close(layer(features), features @ layer.weight.T)
    assert by_onednn


def test_what_trains_keeps_its_gradients(by_onednn):
    layer = Linear(256, 512)
    features = torch.randn(200, 256, requires_grad=True)
    layer(features).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0 and features.grad.abs().sum() > 0
    assert not by_onednn


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_torchs_own(dtype, layer, by_onednn):
    features = torch.randn(200, 256, dtype=dtype)
    layer.to(dtype)
    assert layer(features).equal(functional.linear(features, layer.weight, layer.bias))
    assert not by_onednn


def test_small_products_and_autocast_are_torchs_own(layer, by_onednn):
    features = torch.randn(200, 256)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(features).dtype == torch.bfloat16
    assert layer(features[:100]).equal(functional.linear(features[:100], layer.weight, layer.bias))
    assert layer(features[0]).shape == (512,)
    assert not by_onednn
