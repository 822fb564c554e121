"""Equality with the published code, on its outputs for weights made by a rule.

Tolerances: the published code in float32 differs from itself in float64 by about a tenth of them.
"""

import pytest
import torch

from fm3d_plugins.vggt.pose_encoding import decode

NAMES = ["tiny", "vits"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_gradients", [False, True])
def test_patches_and_tokens_are_the_published_ones(name, with_gradients, golden):
    case = golden(name)
    with torch.set_grad_enabled(with_gradients):
        patches = case.network.aggregator.patch_tokens(case.tensors["images"].flatten(0, 1))
        expected = case.tensors["patch_tokens"]
        torch.testing.assert_close(patches, expected, atol=5e-5, rtol=0)
        case.check_tokens()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_gradients", [False, True])
def test_cameras_depth_and_points_are_the_published_ones(name, with_gradients, golden):
    with torch.set_grad_enabled(with_gradients):
        golden(name).check_outputs()


def test_products_by_onednn_give_the_published_outputs_too(golden, monkeypatch):
    """Only the wider network has products that are large enough for another way."""
    asked = []
    monkeypatch.setattr(
        "fm3d_plugins.nn.linear.fastest", lambda *question: asked.append(question) or "oneDNN"
    )
    with torch.no_grad():
        golden("vits").check_outputs()
    assert asked


@pytest.mark.parametrize("name", NAMES)
def test_decoded_cameras_are_the_published_ones(name, golden):
    """Random weights give fields of view of zero and above pi: inf and negative focal lengths."""
    tensors = golden(name).tensors
    size = tuple(tensors["images"].shape[-2:])
    camera_from_world, intrinsics = decode(tensors["pose_enc_list.3"], size)
    torch.testing.assert_close(camera_from_world[..., :3, :], tensors["extrinsics"])
    torch.testing.assert_close(intrinsics, tensors["intrinsics"])


def test_track_features_are_the_published_ones(golden):
    case = golden("tiny")
    images, features = case.tensors["images"], case.tensors["track_features"]
    extractor = case.network.track_head.feature_extractor
    with torch.no_grad():
        kept = case.network.aggregator(images, case.layers, frames_per_pass=6)
        patches = [kept[layer].flatten(0, 1)[:, 5:] for layer in case.layers]
        ours = extractor(patches, (4, 6))
    torch.testing.assert_close(ours, features.flatten(0, 1), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_first_rounds_of_tracks_are_the_published_ones(name, golden):
    """A flow is multiplied by up to 969: rounding grows about a hundredfold in every round."""
    case = golden(name)
    with torch.no_grad():
        outputs = case.network(case.tensors["images"], case.tensors["query_points"])
    for i, atol in enumerate([1e-3, 2e-2]):
        expected = case.tensors[f"track_list.{i}"]
        torch.testing.assert_close(outputs.tracks[i], expected, atol=atol, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_tracks_in_float64_are_the_published_ones(name, golden):
    """Rounding grows a hundredfold in every round: versions of torch differ by 1e-5 px at the end,
    and float32 would give 0.5 px."""
    case = golden(name)
    network, tensors = case.network.double(), case.tensors
    with torch.no_grad():
        outputs = network(tensors["images"].double(), tensors["query_points"].double())
    for i, track in enumerate(outputs.tracks):
        torch.testing.assert_close(track, tensors[f"track_list64.{i}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.visibility, tensors["vis64"], atol=1e-6, rtol=0)
    torch.testing.assert_close(outputs.track_confidence, tensors["conf64"], atol=1e-6, rtol=0)
