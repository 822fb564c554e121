"""Published weights: all of them and no others, besides those of the training program's loss."""

import json
from itertools import permutations

import pytest
import torch

from fm3d_plugins.lvsm.network import (
    DECODER_ONLY,
    ENCODER_DECODER,
    LVSM,
    LVSMConfig,
)
from fm3d_plugins.nn.view_synthesis import load_official

SMALL = {
    "decoder_only": LVSMConfig(width=16, head_width=8, decoder_depth=2),
    "encoder_decoder": LVSMConfig(
        width=16, head_width=8, decoder_depth=2, encoder_depth=1, num_latents=5
    ),
}


@pytest.fixture(params=SMALL)
def small(request):
    """A network, and a copy of its weights by their published names."""
    network = LVSM(SMALL[request.param])
    weights = {network.published_name(k): v.detach().clone() for k, v in network.named_parameters()}
    return network, weights


@pytest.mark.parametrize(
    ("name", "config", "num_parameters"),
    [
        ("decoder_only", DECODER_ONLY, 170_795_520),
        ("encoder_decoder", ENCODER_DECODER, 173_154_816),
    ],
)
def test_full_size_network_has_the_published_names_and_shapes(name, config, num_parameters, shared):
    manifest = json.loads((shared / "golden" / f"lvsm_{name}_manifest.json").read_text())
    with torch.device("meta"):
        network = LVSM(config)
    ours = {network.published_name(k): list(v.shape) for k, v in network.state_dict().items()}
    assert ours == {key: entry["shape"] for key, entry in manifest["tensors"].items()}
    assert sum(value.numel() for value in network.parameters()) == num_parameters
    assert manifest["n_params"] == num_parameters
    with torch.device("meta"):
        load_official(network, {key: torch.empty(shape) for key, shape in ours.items()})


def test_all_that_does_not_fit_is_listed_and_nothing_is_loaded(small):
    network, weights = small
    del weights["image_tokenizer.1.weight"]
    del weights["image_token_decoder.0.weight"]
    weights["transformer_blocks.7.norm1.weight"] = torch.zeros(16)
    weights["image_token_decoder.1.weight"] = torch.zeros(3, 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_official(network, weights)
    lines = str(caught.value).splitlines()
    for line in (
        "missing: image_tokenizer.1.weight",
        "missing: image_token_decoder.0.weight",
        "unexpected: transformer_blocks.7.norm1.weight",
        "shape of image_token_decoder.1.weight: found [3, 16], expected [192, 16]",
    ):
        assert line in lines
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_weights_of_the_loss_are_left_out_and_all_others_are_refused(small):
    network, weights = small
    weights["loss_computer.perceptual_loss_module.vgg.features.0.weight"] = torch.zeros(64, 3, 3, 3)
    load_official(network, weights)
    with pytest.raises(ValueError, match="unexpected: my_loss_computer.bias"):
        load_official(network, weights | {"my_loss_computer.bias": torch.zeros(1)})


def test_weights_of_the_other_architecture_are_refused():
    networks = {name: LVSM(config) for name, config in SMALL.items()}
    for name, other in permutations(SMALL, 2):
        weights = {
            networks[other].published_name(k): v for k, v in networks[other].named_parameters()
        }
        with pytest.raises(ValueError, match="decoder-only or encoder-decoder"):
            load_official(networks[name], weights)


def test_matrices_of_the_blocks_land_in_the_type_asked_for(small):
    network, weights = small
    load_official(network, weights, dtype=torch.bfloat16)
    types = {name: value.dtype for name, value in network.named_parameters()}
    for name, dtype in types.items():
        is_matrix = name.startswith("transformer_") and any(
            part in name for part in ("qkv", "proj", "fc1", "fc2")
        )
        assert dtype == (torch.bfloat16 if is_matrix else torch.float32), name


@pytest.mark.parametrize(
    "sizes", [{"decoder_depth": 0}, {"encoder_depth": 2}, {"num_latents": 2}], ids=str
)
def test_half_an_encoder_is_refused(sizes):
    with pytest.raises(ValueError, match="either both or not at all"):
        LVSMConfig(**sizes)
