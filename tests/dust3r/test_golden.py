"""Equality with the published code, on its outputs for weights made by a rule.

Tolerances: the published code in float32 differs from itself in float64 by about a tenth of them.
"""

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.dust3r.heads import points_and_confidence
from fm3d_plugins.dust3r.network import EPS, EncodedPhotos, PairPrediction
from fm3d_plugins.nn.attention import TransformerBlock
from fm3d_plugins.nn.crossing import CrossingBlock
from fm3d_plugins.nn.positions import rotary_tables, rotate

HEADS = ["linear", "dpt"]
INFINITY = float("inf")


@pytest.fixture(scope="module")
def units(shared):
    return load_file(shared / "golden" / "dust3r_units.safetensors")


def close_to_the_largest(ours, expected, share=1e-5):
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= share * expected.abs().max()


def golden_block(block, golden_weights):
    golden_weights.fill_(block.state_dict())
    return block.eval()


@pytest.mark.parametrize("name", ["rope", "rope64"])
def test_rotary_positions_are_the_published_ones(name, units):
    tokens, expected = units[f"{name}.tokens"], units[f"{name}.out"]
    for row, positions in enumerate(units[f"{name}.pos"]):
        tables = rotary_tables(positions, tokens.shape[-1], 100.0, torch.float32)
        ours = rotate(tokens[row].transpose(0, 1), tables).transpose(0, 1)
        torch.testing.assert_close(ours, expected[row], atol=1e-5, rtol=0)


def test_encoder_block_is_the_published_one(units, golden_weights):
    block = golden_block(TransformerBlock(64, 4, eps=EPS, layer_scale=None), golden_weights)
    tables = rotary_tables(units["block.xpos"][0], 16, 100.0, torch.float32)
    with torch.no_grad():
        ours = block(units["block.x"], tables)
        in_place = units["block.x"].clone()
        block.update_(in_place, tables, sequences_per_pass=1)
    torch.testing.assert_close(ours, units["block.out"], atol=1e-5, rtol=0)
    torch.testing.assert_close(in_place, units["block.out"], atol=1e-5, rtol=0)


def test_decoder_block_is_the_published_one(units, golden_weights):
    block = golden_block(CrossingBlock(64, 4, eps=EPS), golden_weights)
    positions = (
        rotary_tables(units[f"decblock.{name}pos"][0], 16, 100.0, torch.float32) for name in "xy"
    )
    with torch.no_grad():
        ours = block(units["decblock.x"], units["decblock.y"], *positions)
    torch.testing.assert_close(ours, units["decblock.out"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "depth_mode", "confidence_mode"),
    [
        ("postproc", "exp", ("exp", 1.0, INFINITY)),
        ("postproc_exp1_10", "exp", ("exp", 1.0, 10.0)),
        ("postproc_sigmoid01", "exp", ("sigmoid", 0.0, 1.0)),
        ("postproc_linear", "linear", ("exp", 1.0, INFINITY)),
        ("postproc_square", "square", ("exp", 1.0, INFINITY)),
    ],
)
def test_activations_are_the_published_ones(name, depth_mode, confidence_mode, units):
    ours = points_and_confidence(units["postproc.raw"], depth_mode, confidence_mode)
    compared = 0
    for values, kind in zip(ours, ("pts3d", "conf"), strict=True):
        expected = units.get(f"{name}.{kind}")
        if expected is not None:
            torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)
            compared += 1
    assert compared


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", ["landscape", "portrait"])
def test_encoder_tokens_are_the_published_ones(head, case, golden):
    found = golden(head)
    if f"{case}.enc_block_00" not in found.tensors:
        pytest.skip(f"the golden file of the {head} head holds no tokens of {case} photos")
    images = torch.cat([found.tensors[f"{case}.img{number}"] for number in (1, 2)])
    seen = []
    for block in found.network.enc_blocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))
    encoded = found.network.encode(images)
    for number, tokens in enumerate(seen):
        close_to_the_largest(tokens, found.tensors[f"{case}.enc_block_{number:02}"])
    assert len(seen) == 4
    with torch.no_grad():
        in_place = found.network.encode(images, photos_per_pass=1)
    for tokens in (encoded.tokens, in_place.tokens):
        for number in (1, 2):
            expected = found.tensors[f"{case}.enc_feat{number}"]
            close_to_the_largest(tokens[number - 1 : number], expected)


@pytest.mark.parametrize("head", HEADS)
def test_decoder_tokens_are_the_published_ones(head, golden):
    found = golden(head)
    seen = {1: [], 2: []}
    for number, blocks in ((1, found.network.dec_blocks), (2, found.network.dec_blocks2)):
        for block in blocks:
            block.register_forward_hook(
                lambda _module, _inputs, output, number=number: seen[number].append(output)
            )
    found.predict("landscape")
    for number, layers in seen.items():
        layers[-1] = found.network.dec_norm(layers[-1])
        assert len(layers) == found.network.config.decoder_depth
        for layer, tokens in enumerate(layers, 1):
            close_to_the_largest(tokens, found.tensors[f"landscape.dec{number}_{layer:02}"])


def test_map_of_the_dense_head_is_the_published_one(golden):
    found = golden("dpt")
    maps = {}
    for number in (1, 2):
        found.network.get_submodule(f"downstream_head{number}").register_forward_hook(
            lambda _module, _inputs, output, number=number: maps.update({number: output})
        )
    found.predict("landscape")
    for number, raw in maps.items():
        expected = found.tensors[f"landscape.head{number}_raw"]
        torch.testing.assert_close(raw, expected, atol=1e-4, rtol=0)
    assert set(maps) == {1, 2}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", ["landscape", "portrait", "mixed"])
def test_points_and_confidence_are_the_published_ones(head, case, golden):
    found = golden(head)
    found.check(case, found.predict(case))


@pytest.mark.parametrize("head", HEADS)
def test_pairs_in_both_orders_from_one_encoding_are_the_published_ones(head, golden):
    found = golden(head)
    with torch.no_grad():
        images = [found.tensors[f"landscape.img{number}"] for number in (1, 2)]
        encoded = found.network.encode(torch.cat(images))
        swapped = EncodedPhotos(encoded.tokens.flip(0), encoded.grid)
        found.check("symmetric", found.network.decode(encoded, swapped))


@pytest.mark.parametrize("head", HEADS)
def test_portrait_photos_stored_on_their_side_are_the_published_ones(head, golden):
    """Published training stacks both orientations: portrait photos and results lie transposed."""
    found = golden(head)
    tensors = found.tensors
    rows = []
    for row in range(2):
        images, portrait = [], []
        for number in (1, 2):
            image = tensors[f"many_ar.img{number}"][row : row + 1]
            height, width = tensors[f"many_ar.true_shape{number}"][row].tolist()
            portrait.append(height > width)
            images.append(image.transpose(-1, -2) if height > width else image)
        with torch.no_grad():
            result = found.network(*images)
        values = (
            result.points_first,
            result.confidence_first,
            result.points_second_in_first,
            result.confidence_second,
        )
        lying = [portrait[0]] * 2 + [portrait[1]] * 2
        rows.append(
            [v.transpose(1, 2) if side else v for v, side in zip(values, lying, strict=True)]
        )
    stacked = (torch.cat(values) for values in zip(*rows, strict=True))
    found.check("many_ar", PairPrediction(*stacked))
    shapes = torch.cat([tensors["many_ar.true_shape1"], tensors["many_ar.true_shape2"]])
    assert (shapes[:, 0] > shapes[:, 1]).any(), "the golden case holds no portrait photo"
