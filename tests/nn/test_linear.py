"""One linear layer, whichever library multiplies."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from fm3d_plugins.nn import fastest as measuring
from fm3d_plugins.nn import linear
from fm3d_plugins.nn.linear import LARGE, Linear

ROWS = 256


@pytest.fixture
def forced(monkeypatch):
    """Sets the answer of `fastest`, and tells which question it was asked."""
    asked = []

    def force(way):
        monkeypatch.setattr(
            linear, "fastest", lambda question, probe: asked.append(question) or way
        )
        return asked

    return force


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Linear(256, 512).requires_grad_(False)


needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="needs a torch that was built with oneDNN"
)


@needs_onednn
@pytest.mark.parametrize("way", ["torch", "oneDNN"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("shape", [(128, 256), (2, 64, 256), (2, 2, 40, 256)])
def test_large_products_are_those_of_float64(shape, mode, way, layer, forced):
    """256 products of numbers of order 1/16 and 1 in float32: some 1e-6."""
    asked = forced(way)
    features = torch.randn(shape)
    assert features.numel() * 512 >= LARGE
    before = features.clone()
    with mode():
        ours = layer(features)
    exact = functional.linear(features.double(), layer.weight.double(), layer.bias.double())
    assert asked == ["product in torch.float32"]
    assert not ours.is_mkldnn and ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=0)
    assert features.equal(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", ["torch", "float32"])
def test_reduced_types_are_rounded_once(dtype, way, layer, forced):
    """The sums are exact to float32 in both ways: what is left is the result's own rounding."""
    forced(way)
    layer.to(dtype)
    features = torch.randn(ROWS, 256).to(dtype)
    ours = layer(features)
    exact = functional.linear(features.double(), layer.weight.double(), layer.bias.double())
    assert ours.dtype == dtype
    relative = torch.finfo(dtype).eps
    torch.testing.assert_close(ours.double(), exact, atol=1e-4, rtol=relative)


@needs_onednn
def test_strided_features_are_read_in_their_order(layer, forced):
    forced("oneDNN")
    features = torch.randn(256, ROWS).T
    expected = functional.linear(features, layer.weight, layer.bias)
    torch.testing.assert_close(layer(features), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_without_a_bias_are_multiplied_too(dtype, forced):
    forced({torch.float32: "oneDNN", torch.bfloat16: "float32"}[dtype])
    layer = Linear(256, 512, bias=False, dtype=dtype).requires_grad_(False)
    features = torch.randn(ROWS, 256, dtype=dtype)
    torch.testing.assert_close(layer(features), features @ layer.weight.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_measured_are_two_ways_of_the_same(dtype):
    own, other = linear._probe(dtype).values()
    torch.testing.assert_close(own(), other())


def test_a_large_product_is_measured_and_another_one_not_again(tmp_path, monkeypatch, layer):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(measuring, "chosen", {})
    monkeypatch.setattr(linear, "fastest", measuring.fastest)
    measured, probe = [], linear._probe
    monkeypatch.setattr(linear, "_probe", lambda dtype: measured.append(dtype) or probe(dtype))
    for _ in range(2):
        layer(torch.randn(ROWS, 256))
    assert measured == [torch.float32]
    assert (tmp_path / "fastest.json").is_file()


def test_what_trains_keeps_its_gradients(forced):
    asked = forced("oneDNN")
    layer = Linear(256, 512)
    features = torch.randn(ROWS, 256, requires_grad=True)
    layer(features).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0 and features.grad.abs().sum() > 0
    assert not asked


def test_small_products_other_types_and_autocast_are_torchs_own(layer, forced):
    asked = forced("oneDNN")
    features = torch.randn(ROWS, 256)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(features).dtype == torch.bfloat16
    assert layer(features[:100]).equal(functional.linear(features[:100], layer.weight, layer.bias))
    assert layer(features[0]).shape == (512,)
    layer.double()
    assert layer(features.double()).dtype == torch.float64
    assert not asked


def test_few_rows_of_a_wide_layer_are_torchs_own(forced):
    asked = forced("oneDNN")
    Linear(4096, 4096).requires_grad_(False)(torch.randn(2, 4096))
    assert not asked


def test_nothing_is_measured_where_only_shapes_pass_through(layer, forced, monkeypatch):
    """On the meta device, as fake tensors, and while torch compiles."""
    asked = forced("oneDNN")
    assert Linear(256, 512, device="meta")(torch.randn(ROWS, 256, device="meta")).shape[1] == 512
    with FakeTensorMode():
        made = Linear(256, 512).requires_grad_(False)
        assert made(torch.randn(ROWS, 256)).shape == (ROWS, 512)
    features = torch.randn(ROWS, 256)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert layer(features).equal(functional.linear(features, layer.weight, layer.bias))
    assert not asked
