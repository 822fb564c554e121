"""Published weights: every form of them, strictly."""

import json

import pytest
import torch

from fm3d_plugins.dust3r.network import DUSt3R
from fm3d_plugins.dust3r.weights import load_official
from tests.dust3r.conftest import SMALL_SIZES


def on_meta(**sizes):
    with torch.device("meta"):
        return DUSt3R(**sizes).eval()


def single_names(names):
    """Those that safetensors files hold: each tensor once."""
    return [name for name in names if ".layer_rn." not in name]


@pytest.mark.parametrize("variant", ["512_dpt", "512_linear", "224_linear"])
def test_full_size_network_has_the_published_names_and_shapes(variant, shared):
    manifest = json.loads((shared / "golden" / f"dust3r_{variant}_manifest.json").read_text())
    info = json.loads((shared / "golden" / "dust3r_manifest_info.json").read_text())[variant]
    network = on_meta(head=variant[4:])
    ours = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert ours == {name: manifest[name] for name in single_names(manifest)}
    assert sum(value.numel() for value in network.parameters()) == info["n_params_unique"]
    for part, count in info["per_module"].items():
        numbers = [v.numel() for k, v in network.named_parameters() if k.split(".")[0] == part]
        assert sum(numbers) == count, part
    with torch.device("meta"):
        published = {name: torch.empty(shape) for name, shape in manifest.items()}
    load_official(network, published)
    once = {name: published[name] for name in single_names(published)}
    assert (len(published), len(once)) == ((1009, 1001) if head_is_dense(variant) else (877, 877))
    load_official(network, once)


def head_is_dense(variant):
    return variant.endswith("dpt")


@pytest.fixture
def dense_weights():
    """Names of a .pth file, where the second name of a tensor is the tensor itself."""
    torch.manual_seed(0)
    weights = DUSt3R(**SMALL_SIZES).state_dict()
    for head in (1, 2):
        scratch = f"downstream_head{head}.dpt.scratch"
        for level in range(4):
            tensor = weights[f"{scratch}.layer{level + 1}_rn.weight"]
            weights[f"{scratch}.layer_rn.{level}.weight"] = tensor
    return weights


@pytest.mark.parametrize("form", ["both", "first", "second", "second before first"])
def test_either_name_of_a_tensor_is_enough(form, dense_weights):
    kept = {
        "both": lambda name: True,
        "first": lambda name: ".layer_rn." not in name,
        "second": lambda name: not (".scratch.layer" in name and ".layer_rn." not in name),
        "second before first": lambda name: True,
    }[form]
    weights = {name: value for name, value in dense_weights.items() if kept(name)}
    if form == "second before first":
        weights = dict(reversed(weights.items()))
    network = on_meta(**SMALL_SIZES)
    load_official(network, weights)
    for name, value in network.state_dict().items():
        assert value.equal(dense_weights[name]), name


@pytest.mark.parametrize("backwards", [False, True])
def test_the_second_name_is_in_effect_where_the_two_differ(backwards, dense_weights):
    name = "downstream_head2.dpt.scratch.layer_rn.1.weight"
    dense_weights[name] = dense_weights[name] + 1
    weights = dict(reversed(dense_weights.items())) if backwards else dense_weights
    network = on_meta(**SMALL_SIZES)
    load_official(network, weights)
    ours = network.state_dict()["downstream_head2.dpt.scratch.layer2_rn.weight"]
    assert ours.equal(dense_weights[name])


def test_matrices_land_in_the_type_asked_for(stored_in, small_network):
    network = on_meta(**SMALL_SIZES, head=small_network.config.head)
    load_official(network, small_network.state_dict(), dtype=torch.bfloat16)
    images = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        expected = stored_in(small_network, torch.bfloat16)(images, images)
        ours = network(images, images)
    types = {name: value.dtype for name, value in small_network.named_parameters()}
    assert {name: value.dtype for name, value in network.named_parameters()} == types
    converted = {name for name, dtype in types.items() if dtype == torch.bfloat16}
    assert converted == network.matrix_names()
    parts = {name.split(".")[0] for name in converted}
    assert parts == {"patch_embed", "enc_blocks", "decoder_embed", "dec_blocks", "dec_blocks2"}
    assert not any("norm" in name for name in converted)
    assert ours.points_first.equal(expected.points_first)


def test_all_that_does_not_fit_is_listed_and_nothing_is_loaded(linear_network):
    weights = dict(linear_network.state_dict())
    del weights["mask_token"]
    del weights["dec_blocks2.3.norm_y.weight"]
    weights["extra"] = torch.zeros(1)
    weights["enc_norm.bias"] = torch.zeros(3)
    before = {name: value.clone() for name, value in linear_network.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_official(linear_network, weights)
    lines = str(caught.value).splitlines()
    for line in (
        "missing: mask_token",
        "missing: dec_blocks2.3.norm_y.weight",
        "unexpected: extra",
        "shape of enc_norm.bias: found [3], expected [32]",
    ):
        assert line in lines
    assert all(value.equal(before[name]) for name, value in linear_network.state_dict().items())


def test_weights_of_the_other_head_are_refused(linear_network, dense_weights):
    with pytest.raises(ValueError, match="(?s)unexpected: downstream_head1.dpt.*kind of head"):
        load_official(linear_network, dense_weights)


@pytest.fixture
def croco_weights(linear_network):
    """CroCo's pretraining: one decoder, and a head of its own."""
    weights = {
        name: value + 1
        for name, value in linear_network.state_dict().items()
        if not name.startswith(("dec_blocks2.", "downstream_head"))
    }
    return weights | {"prediction_head.weight": torch.ones(768, 16)}


def test_pretraining_becomes_both_decoders_and_leaves_the_heads(linear_network, croco_weights):
    before = {name: value.clone() for name, value in linear_network.state_dict().items()}
    load_official(linear_network, croco_weights, pretraining=True)
    for name, value in linear_network.state_dict().items():
        if name.startswith("downstream_head"):
            assert value.equal(before[name])
        else:
            assert value.equal(croco_weights[name.replace("dec_blocks2.", "dec_blocks.")])
    with torch.no_grad():
        linear_network.dec_blocks[0].mlp.fc1.weight.zero_()
    assert linear_network.dec_blocks2[0].mlp.fc1.weight.abs().sum() > 0


def test_pretraining_is_refused_where_it_is_not_asked_for(linear_network, croco_weights):
    with pytest.raises(ValueError, match="(?s)missing: dec_blocks2.*parts-of"):
        load_official(linear_network, croco_weights)
    with pytest.raises(ValueError, match="they have a second decoder.*without `pretraining`"):
        load_official(linear_network, linear_network.state_dict(), pretraining=True)


def test_pretraining_has_to_be_complete_too(linear_network, croco_weights):
    del croco_weights["dec_blocks.1.norm2.bias"]
    croco_weights["extra"] = torch.zeros(1)
    with pytest.raises(ValueError) as caught:
        load_official(linear_network, croco_weights, pretraining=True)
    lines = str(caught.value).splitlines()
    assert "missing: dec_blocks.1.norm2.bias" in lines
    assert "missing: dec_blocks2.1.norm2.bias" in lines
    assert "unexpected: extra" in lines
    assert not any("downstream_head" in line or "prediction_head" in line for line in lines)


def test_heads_on_the_meta_device_have_no_values_to_keep(croco_weights):
    with pytest.raises(ValueError, match="(?s)missing: downstream_head1.*not on the meta device"):
        load_official(on_meta(**SMALL_SIZES, head="linear"), croco_weights, pretraining=True)
