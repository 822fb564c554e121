"""Learned features through kornia's networks, with weights made here and saved as published."""

import importlib.util
import re

import numpy as np
import pytest
import torch

from fm3d_plugins.backends.kornia import MOST_FEATURES, WEIGHTS, LearnedFeatures, LearnedMatcher
from fm3d_plugins.checkpoints.catalogue import CATALOGUE

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("kornia") is None,
    reason="kornia is not installed (pip install 'fm3d-plugins[learned-matches]')",
)
KINDS = ("disk", "aliked")
SHARP = 40.0
"""Logarithm by which equal descriptors of the hand-made LightGlue beat all others, at least."""


def hand_made_lightglue():
    """One that matches descriptors by their product: attention adds nothing, all is matchable."""
    from kornia.feature import LightGlue

    made = LightGlue(features=None, input_dim=128)
    with torch.no_grad():
        made.input_proj.weight.copy_(torch.eye(256, 128))
        made.input_proj.bias.zero_()
        for layer in made.transformers:
            for block in (layer.self_attn, layer.cross_attn):
                block.ffn[3].weight.zero_()
                block.ffn[3].bias.zero_()
        for each in made.log_assignment:
            each.final_proj.weight.copy_(torch.eye(256) * SHARP)
            each.final_proj.bias.zero_()
            each.matchability.weight.zero_()
            each.matchability.bias.fill_(8.0)
        for each in made.token_confidence:
            each.token[0].weight.zero_()
            each.token[0].bias.fill_(-8.0)
    return made.state_dict()


def as_published(tensors):
    """LightGlue's own names: self_attn.3 for transformers.3.self_attn, and nothing derived."""
    layer = re.compile(r"^transformers\.(\d+)\.(self_attn|cross_attn)\.")
    renamed = {layer.sub(r"\2.\1.", name): tensor for name, tensor in tensors.items()}
    renamed.pop("confidence_thresholds")
    return renamed


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """The networks of each kind, from files that lie where the published ones would."""
    from kornia.feature import ALIKED, DISK

    folder = tmp_path_factory.mktemp("cache")
    torch.manual_seed(0)
    own = {"disk": {"extractor": DISK().state_dict()}, "aliked": ALIKED("aliked-n16").state_dict()}
    glue = as_published(hand_made_lightglue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FM3D_CACHE_DIR", str(folder))
        patch.setenv("FM3D_OFFLINE", "1")
        for kind in KINDS:
            for name, tensors in zip(WEIGHTS[kind], (own[kind], glue), strict=True):
                file = folder / "weights" / name.replace("/", "--") / CATALOGUE[name].files[0]
                file.parent.mkdir(parents=True)
                torch.save(tensors, file)
        yield {kind: LearnedMatcher(kind, "cpu") for kind in KINDS}


def image(seed=0, shape=(100, 150)):
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_files_and_counts_those_of_the_catalogue(networks, kind):
    network = networks[kind]
    row = CATALOGUE[WEIGHTS[kind][0]]
    own = sum(each.numel() for each in network._network.parameters())
    assert own == row.num_parameters
    glue = sum(each.numel() for each in network._matcher.parameters())
    assert glue == CATALOGUE[WEIGHTS[kind][1]].num_parameters
    assert not network._network.training and not network._matcher.training
    assert float(network._matcher.log_assignment[4].matchability.bias) == 8.0
    assert float(network._matcher.transformers[7].cross_attn.ffn[3].weight.abs().max()) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_networks_alone_or_among_others(networks, kind):
    network = networks[kind]
    first = network.features(image())
    network.features(image(1, (64, 90)))
    again = network.features(image())
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.descriptors, again.descriptors)
    assert 10 < len(first.pixels) <= MOST_FEATURES
    np.testing.assert_allclose(np.linalg.norm(first.descriptors, axis=1), 1, atol=1e-5)
    few = network.features(image(), 7)
    np.testing.assert_array_equal(few.pixels, first.pixels[:7])


@pytest.mark.parametrize("kind", KINDS)
def test_a_bright_pixels_feature_lies_at_its_centre(networks, kind, monkeypatch):
    """Truth: column + 0.5, row + 0.5, where the map of scores is the picture itself."""
    network = networks[kind]
    places = np.array([(20, 31), (55, 90), (70, 12), (33, 118)])
    dots = np.zeros((97, 141, 3), np.uint8)
    for number, (row, column) in enumerate(places):
        dots[row, column] = 250 - 10 * number

    if kind == "disk":
        maps = lambda images: (images.mean(1, True), images.mean(1, True).repeat(1, 128, 1, 1))  # noqa: E731
        monkeypatch.setattr(network._network, "heatmap_and_dense_descriptors", maps)
    else:
        features = torch.rand(1, 128, 97, 141)
        monkeypatch.setattr(
            network._network, "extract_dense_map", lambda images: (features, images.mean(1, True))
        )
    found = network.features(dots)
    np.testing.assert_allclose(found.pixels, places[:, ::-1] + 0.5, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_matches_are_rows_of_the_first_and_the_second(networks, kind):
    """Truth: features that were put in another order are found again, those left out are not."""
    generator = np.random.default_rng(0)
    descriptors = generator.normal(size=(60, 128)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    pixels = generator.uniform(0.5, 99.5, (60, 2)).astype(np.float32)
    order = generator.permutation(60)[:45]
    first = LearnedFeatures(pixels, descriptors)
    second = LearnedFeatures(pixels[order], descriptors[order])
    found = networks[kind].matches(first, (100, 100), second, (200, 100))
    assert len(found) == 45 and (np.diff(found[:, 0]) > 0).all()
    np.testing.assert_array_equal(order[found[:, 1]], found[:, 0])
    none = LearnedFeatures(pixels[:0], descriptors[:0])
    assert networks[kind].matches(first, (100, 100), none, (200, 100)).shape == (0, 2)


def test_weights_of_another_network_are_refused(networks, tmp_path, monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path))
    for name in WEIGHTS["disk"]:
        file = tmp_path / "weights" / name.replace("/", "--") / CATALOGUE[name].files[0]
        file.parent.mkdir(parents=True)
        torch.save({"unet.path_down.0.sequence.0.weight": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="kornia/disk do not belong.*26 tensors"):
        LearnedMatcher("disk", "cpu")


def test_making_networks_leaves_torchs_fast_attention_as_it_was(networks):
    assert torch.backends.cuda.flash_sdp_enabled()
