"""The whole network: symmetries, memory bounds that change nothing, and refusals."""

from dataclasses import fields, replace

import pytest
import torch

from fm3d_plugins.vggt.aggregator import AggregatorConfig
from fm3d_plugins.vggt.dense_head import DenseHeadConfig
from fm3d_plugins.vggt.network import VGGT

# Float32 sums in another order; the heads' values are of order one.
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.rand(3, 3, 28, 42)


@pytest.fixture
def queries():
    return torch.tensor([[5.0, 7.0], [30.5, 20.25]])


def listed(outputs):
    """All tensors of the outputs, by name."""
    values = {field.name: getattr(outputs, field.name) for field in fields(outputs)}
    tensors = {}
    for name, value in values.items():
        if isinstance(value, list):
            tensors |= {f"{name}.{i}": each for i, each in enumerate(value)}
        elif value is not None:
            tensors[name] = value
    return tensors


def assert_same(left, right, **tolerance):
    left, right = listed(left), listed(right)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(
            value, right[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


@pytest.mark.parametrize("batch", [(), (1,), (2, 1)])
def test_outputs_have_the_batch_axes_of_the_images(batch, small_network, images, queries):
    with torch.no_grad():
        outputs = small_network(images.expand(*batch, *images.shape), queries.expand(*batch, 2, 2))
    shapes = {name: tuple(value.shape) for name, value in listed(outputs).items()}
    assert shapes == {
        "pose_encodings.0": (*batch, 3, 9),
        "pose_encodings.1": (*batch, 3, 9),
        "depth": (*batch, 3, 28, 42),
        "depth_confidence": (*batch, 3, 28, 42),
        "points": (*batch, 3, 28, 42, 3),
        "points_confidence": (*batch, 3, 28, 42),
        "tracks.0": (*batch, 3, 2, 2),
        "tracks.1": (*batch, 3, 2, 2),
        "visibility": (*batch, 3, 2),
        "track_confidence": (*batch, 3, 2),
    }
    assert (outputs.depth > 0).all() and (outputs.depth_confidence > 1).all()


def test_photos_after_the_first_are_exchangeable(small_network, images, queries):
    order = torch.tensor([0, 2, 1])
    with torch.no_grad():
        outputs = small_network(images, queries)
        exchanged = small_network(images[order], queries)
    for name, value in listed(exchanged).items():
        torch.testing.assert_close(value, listed(outputs)[name][order], **CLOSE)


def test_the_first_photo_is_another_reference(small_network, images):
    order = torch.tensor([1, 0, 2])
    with torch.no_grad():
        outputs = small_network(images)
        exchanged = small_network(images[order])
    # Ten times what exchanging the others may change.
    assert (exchanged.depth - outputs.depth[order]).abs().max() > 2e-4


def test_every_photo_sees_the_others(small_network, images):
    changed = images.clone()
    changed[2] = 1 - changed[2]
    with torch.no_grad():
        difference = small_network(changed).depth[:2] - small_network(images).depth[:2]
    assert (difference.abs().amax(dim=(1, 2)) > 1e-4).all()


@pytest.mark.parametrize("frames_per_pass", [1, 2, 3, 50])
def test_photos_per_pass_have_no_influence(frames_per_pass, small_network, images, queries):
    with torch.no_grad():
        whole = small_network(images, queries, frames_per_pass=8)
        parts = small_network(images, queries, frames_per_pass=frames_per_pass)
    assert_same(parts, whole, **CLOSE)


def test_scenes_of_a_batch_are_as_if_alone(small_network, images, queries):
    scenes = torch.stack([images, images.flip(-1)])
    with torch.no_grad():
        together = small_network(scenes, torch.stack([queries, queries + 3]))
        first = small_network(scenes[0], queries)
        second = small_network(scenes[1], queries + 3)
    for name, value in listed(together).items():
        torch.testing.assert_close(value[0], listed(first)[name], **CLOSE)
        torch.testing.assert_close(value[1], listed(second)[name], **CLOSE)


def test_one_photo_is_a_scene(small_network, images):
    with torch.no_grad():
        assert small_network(images[:1]).depth.isfinite().all()


@pytest.mark.parametrize("head", ["camera", "depth", "points", "tracks"])
def test_one_head_alone_says_what_it_says_with_the_others(head, small_network, images, queries):
    query = queries if head == "tracks" else None
    with torch.no_grad():
        everything = listed(small_network(images, queries))
        alone = listed(small_network(images, query, heads=(head,)))
    names = {
        "camera": {"pose_encodings.0", "pose_encodings.1"},
        "depth": {"depth", "depth_confidence"},
        "points": {"points", "points_confidence"},
        "tracks": {"tracks.0", "tracks.1", "visibility", "track_confidence"},
    }
    assert alone.keys() == names[head]
    for name, value in alone.items():
        torch.testing.assert_close(value, everything[name], **CLOSE)


def test_only_layers_that_heads_read_are_kept(small_network, images, monkeypatch):
    asked = []
    original = small_network.aggregator.forward

    def forward(scenes, layers, **options):
        kept = original(scenes, layers, **options)
        asked.append(set(kept))
        return kept

    monkeypatch.setattr(small_network.aggregator, "forward", forward)
    with torch.no_grad():
        small_network(images, heads=("camera",))
        small_network(images, heads=("depth",))
    assert asked == [{1}, {0, 1}]


def test_images_are_not_modified(small_network, images):
    before = images.clone()
    with torch.inference_mode():
        small_network(images)
    assert images.equal(before)


def test_gradients_reach_all_weights_of_the_heads_asked_for(small_network, images):
    small_network.train()
    outputs = small_network(images, heads=("camera", "depth"))
    loss = sum(encoding.square().sum() for encoding in outputs.pose_encodings)
    (loss + outputs.depth.sum() + outputs.depth_confidence.sum()).backward()
    without = [
        name
        for name, parameter in small_network.named_parameters()
        if not name.startswith(("point_head", "track_head")) and parameter.grad is None
    ]
    assert without == []


def test_training_mode_recomputes_and_gives_the_same_gradients(small_network, images):
    gradients = []
    for mode in (True, False):
        small_network.train(mode).zero_grad()
        small_network(images, heads=("depth",)).depth.sum().backward()
        gradients.append(small_network.aggregator.frame_blocks[0].mlp.fc1.weight.grad.clone())
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_bfloat16_storage_keeps_norms_heads_and_outputs_in_float32(
    stored_in, small_network, images
):
    with torch.no_grad():
        exact = small_network(images, heads=("camera", "depth"))
        stored = stored_in(small_network, torch.bfloat16)(images, heads=("camera", "depth"))
    types = {name: value.dtype for name, value in small_network.named_parameters()}
    small = {name for name, dtype in types.items() if dtype == torch.bfloat16}
    assert small == small_network.matrix_names()
    assert all(name.startswith("aggregator.") and "norm" not in name for name in small)
    assert "aggregator.global_blocks.1.attn.qkv.weight" in small
    assert stored.depth.dtype == stored.pose_encodings[-1].dtype == torch.float32
    # Four blocks of roundings by 2^-9 of branches of order one.
    torch.testing.assert_close(stored.depth.log(), exact.depth.log(), atol=0.03, rtol=0)
    assert not stored.depth.equal(exact.depth)


@pytest.mark.parametrize("name", ["tiny", "vits"])
def test_bfloat16_storage_rounds_what_autocast_rounds(stored_in, name, golden, monkeypatch):
    """The published recipe is autocast. Another place to round would differ as much as it errs."""
    case = golden(name)
    images, aggregator, last = case.tensors["images"], case.network.aggregator, case.layers[-1]
    exact = case.tensors[f"aggregated_tokens.{last}"]
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            autocast = aggregator(images, [last], frames_per_pass=2)[last]
        stored_in(case.network, torch.bfloat16)
        stored = aggregator(images, [last], frames_per_pass=2)[last]
    assert stored.dtype == torch.float32
    error = (autocast - exact).square().mean().sqrt()
    assert 1e-3 < error < 2e-2
    assert (stored - autocast).square().mean().sqrt() < 0.3 * error
    # Products by way of float32 sum in another order, which rounds some numbers to the other side.
    monkeypatch.setattr("fm3d_plugins.nn.linear.fastest", lambda question, probe: "float32")
    with torch.no_grad():
        stored = aggregator(images, [last], frames_per_pass=2)[last]
    assert (stored - exact).square().mean().sqrt() < 1.1 * error


def test_head_that_is_absent_is_refused(small_sizes, images):
    network = VGGT(**(small_sizes | {"points": None, "tracks": None}))
    with pytest.raises(ValueError, match="no head 'points', 'tracks'; it has camera, depth"):
        network(images)
    with pytest.raises(ValueError, match="no head 'colour'"):
        network(images, heads=("colour",))
    network = VGGT(**small_sizes)
    network.camera_head = None
    with pytest.raises(ValueError, match="no head 'camera'; it has depth, points, tracks"):
        network(images)


def test_query_points_without_the_head_that_reads_them_are_refused(small_network, images, queries):
    with pytest.raises(ValueError, match="`tracks` is not among the heads"):
        small_network(images, queries, heads=("camera",))


@pytest.mark.parametrize("heads", [(), ("tracks",)])
def test_nothing_to_compute_is_refused(heads, small_network, images):
    with pytest.raises(ValueError, match="No head is asked for"):
        small_network(images, heads=heads)


@pytest.mark.parametrize("size", [(28, 40), (27, 42), (0, 14)])
def test_sides_that_patches_do_not_fill_are_refused(size, small_network):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels; both sides .* of 14"):
        small_network(torch.rand(1, 3, *size))


def test_images_too_small_for_the_correlation_levels_are_refused(small_sizes, queries):
    tracks = replace(small_sizes["tracks"], correlation_levels=5)
    network = VGGT(**(small_sizes | {"tracks": tracks}))
    with pytest.raises(ValueError, match="28 x 42 pixels; tracks need sides of at least 32"):
        network(torch.rand(1, 3, 28, 42), queries)
    with torch.no_grad():
        assert network(torch.rand(1, 3, 42, 42), queries).tracks[-1].isfinite().all()
        assert network(torch.rand(1, 3, 28, 42)).tracks is None


def test_no_photos_and_empty_passes_are_refused(small_network, images):
    with pytest.raises(ValueError, match="0 photos"):
        small_network(images[:0])
    with pytest.raises(ValueError, match="frames_per_pass=0"):
        small_network(images, frames_per_pass=0)


def test_heads_that_read_layers_beyond_the_backbone_are_refused(small_sizes):
    depth = DenseHeadConfig(features=16, channels=(8, 16, 16, 16), layers=(0, 1, 2, 7))
    with pytest.raises(ValueError, match=r"layers \[2, 7\], but the backbone has layers 0 to 1"):
        VGGT(**(small_sizes | {"depth": depth}))


def test_unknown_or_unfitting_patch_embeddings_are_refused():
    with pytest.raises(ValueError, match="no patch embedding 'dino'"):
        VGGT(aggregator=AggregatorConfig(patch_embedding="dino"))
    with pytest.raises(ValueError, match="tokens of 384 channels from patches of 14"):
        VGGT(aggregator=AggregatorConfig(patch_embedding="dinov2_vits14_reg"))
