"""The whole network: what it may and may not depend on, and refusals."""

from dataclasses import fields

import pytest
import torch

from fm3d_plugins.dust3r import network as dust3r_network
from fm3d_plugins.dust3r.heads import points_and_confidence
from fm3d_plugins.dust3r.network import DUSt3R, EncodedPhotos
from tests.dust3r.conftest import SMALL_SIZES

# Float32 sums in another order; the heads' values are of order one.
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
INFINITY = float("inf")


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.rand(3, 3, 32, 48) * 2 - 1


def listed(prediction):
    return {field.name: getattr(prediction, field.name) for field in fields(prediction)}


@pytest.mark.parametrize(
    "sizes", [((32, 48), (48, 32)), ((16, 16), (80, 48)), ((48, 80), (48, 80))]
)
def test_each_photo_keeps_its_own_size(sizes, small_network):
    """Odd numbers of patches too, and a single one."""
    pair = [torch.rand(2, 3, *size) for size in sizes]
    with torch.no_grad():
        prediction = small_network(*pair)
    assert prediction.points_first.shape == (2, *sizes[0], 3)
    assert prediction.confidence_first.shape == (2, *sizes[0])
    assert prediction.points_second_in_first.shape == (2, *sizes[1], 3)
    assert prediction.confidence_second.shape == (2, *sizes[1])
    for value in listed(prediction).values():
        assert value.isfinite().all()


def test_pairs_of_a_batch_do_not_meet(small_network, images):
    with torch.no_grad():
        together = listed(small_network(images, images.flip(0)))
        for row in range(3):
            alone = listed(small_network(images[row : row + 1], images.flip(0)[row : row + 1]))
            for name, value in alone.items():
                torch.testing.assert_close(together[name][row : row + 1], value, **CLOSE)


def test_encodings_do_not_depend_on_the_batch_or_on_the_pass(linear_network, images):
    with torch.no_grad():
        together = linear_network.encode(images)
        for per_pass in (1, 2):
            cut = linear_network.encode(images, photos_per_pass=per_pass)
            torch.testing.assert_close(cut.tokens, together.tokens, **CLOSE)
    assert together.grid == (2, 3) and len(together) == 3


def test_both_photos_depend_on_each_other(small_network, images):
    with torch.no_grad():
        before = listed(small_network(images[:1], images[1:2]))
        other_second = listed(small_network(images[:1], images[2:]))
        other_first = listed(small_network(images[2:], images[1:2]))
    assert not torch.allclose(before["points_first"], other_second["points_first"], rtol=1e-3)
    key = "points_second_in_first"
    assert not torch.allclose(before[key], other_first[key], rtol=1e-3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_images_and_encodings_are_not_modified(mode, small_network, images):
    before = images.clone()
    with mode():
        encoded = small_network.encode(images)
        tokens = encoded.tokens.clone()
        small_network.decode(encoded, encoded)
    assert images.equal(before)
    assert encoded.tokens.equal(tokens)


def test_gradients_reach_all_weights_that_say_something(small_network, images):
    small_network.train()
    prediction = small_network(images, images.flip(0))
    sum(value.sum() for value in listed(prediction).values()).backward()
    without = {name for name, p in small_network.named_parameters() if p.grad is None}
    # Published files hold these, and nothing reads them.
    assert {name for name in without if "refinenet4.resConfUnit1" not in name} == {"mask_token"}


def test_training_mode_recomputes_and_gives_the_same_gradients(linear_network, images):
    gradients = []
    for mode in (True, False):
        linear_network.train(mode).zero_grad()
        linear_network(images, images.flip(0)).points_first.sum().backward()
        gradients.append(linear_network.dec_blocks2[1].mlp.fc1.weight.grad.clone())
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_heads_work_on_a_few_images_at_once_without_gradients(small_network, images, monkeypatch):
    sizes = []
    small_network.downstream_head2.register_forward_hook(
        lambda _module, inputs, _output: sizes.append(len(inputs[0][0]))
    )
    monkeypatch.setattr(dust3r_network, "HEAD_IMAGES_PER_PASS_CPU", 2)
    with torch.no_grad():
        cut = listed(small_network(images, images.flip(0)))
    whole = listed(small_network(images, images.flip(0)))
    assert sizes == [2, 1, 3]
    for name, value in cut.items():
        torch.testing.assert_close(value, whole[name].detach(), **CLOSE)


def test_bfloat16_storage_keeps_norms_heads_and_outputs_in_float32(
    stored_in, small_network, images
):
    with torch.no_grad():
        exact = listed(small_network(images, images.flip(0)))
        stored = listed(stored_in(small_network, torch.bfloat16)(images, images.flip(0)))
    for name, value in stored.items():
        assert value.dtype == torch.float32
        # Six blocks of roundings by 2^-9 of branches of order one.
        torch.testing.assert_close(value, exact[name], atol=0.05, rtol=0.05)
    assert not stored["points_first"].equal(exact["points_first"])


def test_heads_are_never_in_reduced_precision(linear_network, images):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        prediction = linear_network(images, images)
    assert prediction.points_first.dtype == torch.float32


@pytest.mark.parametrize("size", [(32, 40), (30, 48), (0, 16)])
def test_sides_that_patches_do_not_fill_are_refused(size, linear_network):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels; both sides .* of 16"):
        linear_network.encode(torch.rand(1, 3, *size))


def test_unknown_sizes_and_other_patches_are_refused():
    with pytest.raises(TypeError, match="colour"):
        DUSt3R(colour=3)
    with pytest.raises(ValueError, match="patches have 14 pixels; dense heads are made for 16"):
        DUSt3R(**SMALL_SIZES, patch_size=14)
    network = DUSt3R(**SMALL_SIZES, patch_size=14, head="linear")
    assert network(*torch.rand(2, 1, 3, 28, 42)).points_first.shape == (1, 28, 42, 3)


def test_points_keep_their_direction_and_their_distance_is_stretched():
    """Worked out: (3, 0, 4) lies at distance 5; its confidence is 1 + exp(2)."""
    raw = torch.tensor([3.0, 0.0, 4.0, 2.0], dtype=torch.float64)[:, None, None]
    direction = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    for mode, distance in (("exp", 147.4131591025766), ("square", 25.0), ("linear", 5.0)):
        points, confidence = points_and_confidence(raw, mode, ("exp", 1.0, INFINITY))
        torch.testing.assert_close(points[0, 0], distance * direction)
        assert confidence.item() == pytest.approx(8.38905609893065)
    _, bounded = points_and_confidence(raw, "exp", ("exp", 1.0, 3.0))
    assert bounded.item() == 3
    _, sigmoid = points_and_confidence(raw, "exp", ("sigmoid", 0.0, 1.0))
    assert sigmoid.item() == pytest.approx(0.8807970779778823)


def test_point_at_the_camera_stays_there():
    points, _ = points_and_confidence(torch.zeros(1, 4, 2, 2), "exp", ("exp", 1.0, INFINITY))
    assert (points == 0).all()


def test_encodings_of_other_photos_are_used_as_they_are(linear_network, images):
    """Each photo once, paired at will, is the same as each pair by itself."""
    with torch.no_grad():
        encoded = linear_network.encode(images)
        swapped = EncodedPhotos(encoded.tokens[[1, 2, 0]], encoded.grid)
        ours = listed(linear_network.decode(encoded, swapped))
        expected = listed(linear_network(images, images[[1, 2, 0]]))
    for name, value in ours.items():
        torch.testing.assert_close(value, expected[name], **CLOSE)
