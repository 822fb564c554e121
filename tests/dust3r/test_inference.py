"""Pairs of photos: every photo encoded once, and the same numbers as each pair alone."""

from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import save_file

from fm3d_plugins.checkpoints import locate
from fm3d_plugins.dust3r import configuration
from fm3d_plugins.dust3r.inference import (
    PhotoEncodings,
    architecture,
    decode_pairs,
    load_network,
    photo_descriptors,
    prepared,
)
from fm3d_plugins.dust3r.network import DUSt3R
from tests.dust3r.conftest import SMALL_SIZES

SIZES = [(32, 48), (48, 32), (32, 48), (32, 32), (32, 48), (48, 32)]
COMPLETE = [(i, j) for i in range(6) for j in range(6) if i != j]


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) * 2 - 1 for size in SIZES]


@pytest.fixture
def encoded(monkeypatch):
    """How many photos every call of the encoder was given."""
    seen = []
    original = DUSt3R.encode
    monkeypatch.setattr(
        DUSt3R,
        "encode",
        lambda self, images, **options: (
            seen.append(len(images)) or original(self, images, **options)
        ),
    )
    return seen


def predict_pairs(network, images_of, pairs, *, kept=None, **options):
    return decode_pairs(PhotoEncodings(network, images_of, kept=kept), pairs, **options)


def listed(prediction):
    return {field.name: getattr(prediction, field.name) for field in fields(prediction)}


def assert_is_the_pair_alone(network, images, first, second, prediction):
    with torch.no_grad():
        alone = listed(network(images[first][None], images[second][None]))
    for name, value in listed(prediction).items():
        torch.testing.assert_close(value, alone[name][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kept", "pairs_at_once"),
    [(None, None), (None, 1), (6, 100), (4, 3), (2, None), (1, 3), (0, 2)],
)
def test_all_pairs_come_once_with_the_numbers_of_the_pair_alone(
    kept, pairs_at_once, linear_network, images
):
    seen = []
    results = predict_pairs(
        linear_network, images.__getitem__, COMPLETE, kept=kept, pairs_at_once=pairs_at_once
    )
    for first, second, prediction in results:
        seen.append((first, second))
        assert prediction.points_first.shape == (*SIZES[first], 3)
        assert prediction.confidence_second.shape == SIZES[second]
        assert_is_the_pair_alone(linear_network, images, first, second, prediction)
    assert sorted(seen) == COMPLETE


def test_dense_heads_give_the_numbers_of_the_pair_alone(small_network, images):
    pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (3, 4)]
    results = list(predict_pairs(small_network, images.__getitem__, pairs))
    assert len(results) == len(pairs)
    for result in results:
        assert_is_the_pair_alone(small_network, images, *result)


def test_every_photo_is_encoded_once(linear_network, images, encoded):
    list(predict_pairs(linear_network, images.__getitem__, COMPLETE))
    assert sum(encoded) == 6


def test_photos_that_are_not_kept_are_encoded_again_and_rarely(linear_network, encoded):
    """20 photos of one size in 380 pairs, 8 kept: blocks of 4, each met by all 5."""
    images = torch.rand(20, 3, 16, 16) * 2 - 1
    pairs = [(i, j) for i in range(20) for j in range(20) if i != j]
    found = list(predict_pairs(linear_network, images.__getitem__, pairs, kept=8))
    assert len(found) == 380
    assert 20 < sum(encoded) <= 5 * 20


def test_order_of_two_photos_matters(linear_network, images):
    results = {
        (first, second): prediction
        for first, second, prediction in predict_pairs(
            linear_network, images.__getitem__, [(0, 2), (2, 0)]
        )
    }
    one, other = results[0, 2], results[2, 0]
    assert not torch.allclose(one.points_first, other.points_second_in_first, rtol=0.01)


def test_results_are_plain_tensors_of_their_own(linear_network, images):
    """Alignment takes gradients with them as constants, which inference tensors refuse."""
    results = list(predict_pairs(linear_network, images.__getitem__, [(0, 2), (2, 0), (0, 4)]))
    scale = torch.ones((), requires_grad=True)
    for _, _, prediction in results:
        for value in listed(prediction).values():
            assert not value.is_inference() and value.is_contiguous()
            assert value.untyped_storage().nbytes() == 4 * value.numel()
        (scale * prediction.points_first).square().sum().backward()
    assert scale.grad > 0


def test_progress_is_told(linear_network, images):
    told = []
    list(predict_pairs(linear_network, images.__getitem__, COMPLETE, report=told.append))
    assert told == sorted(told) and told[-1] == len(COMPLETE)


def test_bfloat16_keeps_half_as_much_and_changes_little(stored_in, linear_network, images):
    exact = next(iter(predict_pairs(linear_network, images.__getitem__, [(0, 1)])))[2]
    stored = PhotoEncodings(stored_in(linear_network, torch.bfloat16), images.__getitem__)
    prediction = next(iter(decode_pairs(stored, [(0, 1)])))[2]
    assert {tokens.dtype for tokens in stored._tokens.values()} == {torch.bfloat16}
    for name, value in listed(prediction).items():
        assert value.dtype == torch.float32
        # Six blocks of roundings by 2^-9 of branches of order one.
        torch.testing.assert_close(value, listed(exact)[name], atol=0.05, rtol=0.05)
    assert not prediction.points_first.equal(exact.points_first)


def test_descriptors_are_means_of_the_tokens_that_pairs_then_read(linear_network, images, encoded):
    encodings = PhotoEncodings(linear_network, images.__getitem__)
    descriptors = photo_descriptors(encodings, [3, 0, 1])
    assert descriptors.shape == (3, 32) and not descriptors.is_inference()
    for row, photo in zip(descriptors, [3, 0, 1], strict=True):
        with torch.no_grad():
            tokens = linear_network.encode(images[photo][None]).tokens
        torch.testing.assert_close(row, tokens[0].mean(0))
    encoded.clear()
    list(decode_pairs(encodings, [(0, 1), (1, 3)]))
    assert encoded == []


def test_prepared_networks_say_the_same_and_cannot_train(small_network, images):
    pair = images[0][None], images[1][None]
    with torch.no_grad():
        before = listed(small_network(*pair))
    network = prepared(small_network.train(), torch.device("cpu"))
    after = listed(network(*pair))
    for name, value in after.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, before[name], atol=1e-5, rtol=1e-4)


def test_impossible_requests_are_refused(linear_network, images):
    with pytest.raises(ValueError, match="0 pairs and pairs_at_once=4; .* two or more"):
        predict_pairs(linear_network, images.__getitem__, [])
    with pytest.raises(ValueError, match="pairs_at_once=0"):
        predict_pairs(linear_network, images.__getitem__, [(0, 1)], pairs_at_once=0)
    with pytest.raises(ValueError, match="kept=-1"):
        PhotoEncodings(linear_network, images.__getitem__, kept=-1)
    with pytest.raises(ValueError, match="2 photos of 2 sizes"):
        PhotoEncodings(linear_network, images.__getitem__).of([0, 1])
    uneven = [images[0], torch.zeros(3, 30, 32)]
    with pytest.raises(ValueError, match=r"Photo 1 has the shape \[3, 30, 32\].* multiples of 16"):
        list(predict_pairs(linear_network, uneven.__getitem__, [(0, 1)]))


PUBLISHED_ARGUMENTS = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', head_type='linear', enc_embed_dim=32, "
    "enc_depth=2, enc_num_heads=2, dec_embed_dim=16, dec_depth=4, dec_num_heads=2)"
)


def saved(folder, form, network):
    """A checkpoint in one of the forms that describe themselves."""
    import json
    from argparse import Namespace

    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    sizes = {**SMALL_SIZES, "head": "linear"}
    if form == "pth":
        path = folder / "weights.pth"
        torch.save({"args": Namespace(model=PUBLISHED_ARGUMENTS), "model": weights}, path)
        return path
    path = folder / "model.safetensors"
    metadata = {configuration.METADATA_KEY: configuration.to_text(sizes)}
    save_file(weights, path, metadata if form == "metadata" else None)
    if form == "hub":
        names = {own: published for published, own in configuration.SIZES.items()}
        arguments = {names.get(name, "head_type"): value for name, value in sizes.items()}
        (folder / "config.json").write_text(json.dumps(arguments))
    return path


@pytest.mark.parametrize("form", ["pth", "metadata", "hub"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_checkpoints_that_describe_themselves_load(
    stored_in, form, precision, tmp_path, linear_network, images
):
    file = locate(saved(tmp_path, form, linear_network))
    network = load_network(file, precision, torch.device("cpu"))
    assert network.config == linear_network.config
    expected = stored_in(linear_network, precision)
    pair = images[0][None], images[1][None]
    with torch.no_grad():
        ours, theirs = listed(network(*pair)), listed(expected(*pair))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name])


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_without_a_description_the_sizes_are_the_published_ones(head, tmp_path):
    name = "downstream_head1.dpt.head.0.bias" if head == "dpt" else "downstream_head1.proj.bias"
    save_file({name: torch.zeros(1)}, tmp_path / "model.safetensors")
    network = architecture(tmp_path / "model.safetensors")
    assert network.config == replace(DUSt3R(head=head, **SMALL_SIZES).config, **PUBLISHED_WIDTHS)
    assert network.mask_token.is_meta


PUBLISHED_WIDTHS = {
    "encoder_width": 1024,
    "encoder_depth": 24,
    "encoder_heads": 16,
    "decoder_width": 768,
    "decoder_depth": 12,
    "decoder_heads": 12,
}


def test_descriptions_that_are_not_of_dust3r_are_refused(tmp_path, linear_network):
    path = saved(tmp_path, "hub", linear_network)
    for text, fault in (("[1]", "holds a list"), ("{", "Expecting"), ("{}", "missing: enc_embed")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=f"config.json cannot be used: .*{fault}"):
            architecture(path)


def test_a_photo_of_known_size_is_read_once(linear_network):
    read = []

    def images_of(photo):
        read.append(photo)
        return torch.zeros(3, 32, 48)

    pairs = [(0, 1), (1, 0), (1, 2), (2, 1)]
    known = PhotoEncodings(linear_network, images_of, sizes=[(32, 48)] * 3)
    assert len(list(decode_pairs(known, pairs))) == 4
    assert sorted(read) == [0, 1, 2]
