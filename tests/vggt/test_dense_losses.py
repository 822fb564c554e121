"""Losses of depth and points: the published values, and what can be worked out by hand."""

import json
from math import cos, log

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.vggt.dense_losses import dense_loss

SIDE = 16


@pytest.fixture(scope="module")
def golden(shared):
    torch.set_num_threads(1)
    folder = shared / "golden"
    values = json.loads((folder / "vggt_fn_losses.json").read_text())
    return load_file(folder / "vggt_fn_losses.safetensors"), values


@pytest.mark.parametrize(
    ("name", "gradient", "keep_fraction"),
    [
        ("depth_grad", "grad", 0.98),
        ("depth_none_q", "grad", None),
        ("depth_gradconf", "grad_conf", 0.98),
        ("point_normal", "normal", 0.98),
        ("point_normalconf", "normal_conf", 0.98),
        ("point_grad", "grad", 0.98),
    ],
)
def test_losses_are_the_published_ones(golden, name, gradient, keep_fraction):
    tensors, values = golden
    kind = name.split("_", maxsplit=1)[0]
    if kind == "depth":
        predicted, expected = tensors["pred_depth"], tensors["norm_depths"][..., None]
        confidence = tensors["pred_depth_conf"]
    else:
        predicted, expected = tensors["pred_world_points"], tensors["norm_world_points"]
        confidence = tensors["pred_world_points_conf"]
    loss = dense_loss(
        predicted,
        expected,
        confidence,
        tensors["point_masks"],
        gradient=gradient,
        keep_fraction=keep_fraction,
    )
    for part, found in (
        ("conf", loss.confidence), ("reg", loss.regression), ("grad", loss.gradient),
    ):  # fmt: skip
        # Float32 sums over thousands of pixels, with rounding near 1e-6.
        expected_value = torch.tensor(values[f"{name}.loss_{part}_{kind}"])
        torch.testing.assert_close(found, expected_value, rtol=1e-5, atol=0)


def everything_valid(views=1):
    return torch.ones(views, SIDE, SIDE, dtype=torch.bool)


def maps(value, channels=1, views=1):
    return torch.full((views, SIDE, SIDE, channels), value, dtype=torch.float64)


def test_constant_error_counts_once_plain_and_once_by_its_confidence():
    """e = 0.3 everywhere and c = 2: c e - 0.2 log c, e, and no differences."""
    confidence = maps(2.0).squeeze(-1)
    loss = dense_loss(maps(1.3), maps(1.0), confidence, everything_valid(), gradient="grad")
    assert loss.regression.item() == pytest.approx(0.3)
    assert loss.confidence.item() == pytest.approx(2 * 0.3 - 0.2 * log(2))
    assert loss.gradient.item() == pytest.approx(0, abs=1e-12)
    assert loss.total.item() == pytest.approx(0.9 - 0.2 * log(2))


def test_error_of_points_is_their_distance():
    offset = torch.tensor([0.2, -0.1, 0.2], dtype=torch.float64)
    one = maps(1.0).squeeze(-1)
    loss = dense_loss(maps(1.0, 3) + offset, maps(1.0, 3), one, everything_valid(), gradient="none")
    assert loss.regression.item() == pytest.approx(0.3)
    assert loss.gradient.item() == 0.0


def test_best_confidence_is_a_fifth_over_the_error():
    confidence = maps(0.2 / 0.05).squeeze(-1).requires_grad_()
    loss = dense_loss(maps(1.05), maps(1.0), confidence, everything_valid(), gradient="none")
    loss.total.backward()
    assert confidence.grad.abs().max() < 1e-12


@pytest.mark.parametrize("axis", [1, 2])
def test_slope_of_the_error_is_seen_at_four_scales(axis):
    """Error 0.1 per pixel. At stride s are 16 / s pixels in a row, and one difference of 0.1 s
    less; so s (1 - s / 16) a pixel: 15/16, 7/4, 3, 4, of which the mean is taken."""
    shape = [1, 1, 1, 1]
    shape[axis] = SIDE
    ramp = 0.1 * torch.arange(SIDE, dtype=torch.float64).reshape(shape)
    one = maps(1.0).squeeze(-1)
    loss = dense_loss(maps(1.0) + ramp, maps(1.0), one, everything_valid(), gradient="grad")
    assert loss.gradient.item() == pytest.approx(0.1 * (15 / 16 + 7 / 4 + 3 + 4) / 4)


def plane(slope):
    """z = slope x: its normal is turned by atan(slope)."""
    row, column = torch.meshgrid(
        torch.arange(SIDE, dtype=torch.float64), torch.arange(SIDE, dtype=torch.float64),
        indexing="ij",
    )  # fmt: skip
    return torch.stack([column, row, slope * column], dim=-1)[None]


def test_normals_of_turned_planes_differ_by_the_cosine():
    one, angle = maps(1.0).squeeze(-1), 0.4
    slope = torch.tensor(angle).double().tan()
    loss = dense_loss(plane(slope), plane(0.0), one, everything_valid(), gradient="normal")
    assert loss.gradient.item() == pytest.approx(1 - cos(angle))
    same = dense_loss(
        3 * plane(slope) + 1, plane(slope), one, everything_valid(), gradient="normal"
    )
    assert same.gradient.item() == pytest.approx(0, abs=1e-12), "place and size are no matter"
    sure = dense_loss(plane(slope), plane(0.0), 2 * one, everything_valid(), gradient="normal_conf")
    assert sure.gradient.item() == pytest.approx(2 * (1 - cos(angle)) - 0.2 * log(2))


def test_largest_errors_are_left_out():
    """Of 2304 errors 0 ... 2303 (in thousandths) the rank of the quantile is round(0.98 * 2303)
    = 2257: the mean of 0 ... 2256 is 1128."""
    views = 9
    error = torch.arange(views * SIDE * SIDE, dtype=torch.float64) / 1000
    predicted = 1 + error[torch.randperm(error.numel())].reshape(views, SIDE, SIDE, 1)
    one = torch.ones(views, SIDE, SIDE, dtype=torch.float64)
    arguments = (predicted, maps(1.0, views=views), one, everything_valid(views))
    assert dense_loss(*arguments, gradient="none").regression.item() == pytest.approx(1.128)
    every = dense_loss(*arguments, gradient="none", keep_fraction=None)
    assert every.regression.item() == pytest.approx(2303 / 2000)


@pytest.fixture
def random_maps():
    torch.manual_seed(0)
    shape = (2, 3, 20, 24)
    return {
        "predicted": torch.randn(*shape, 3, dtype=torch.float64),
        "expected": torch.randn(*shape, 3, dtype=torch.float64),
        "confidence": 1 + torch.rand(shape, dtype=torch.float64),
        "is_valid": torch.rand(shape) > 0.3,
    }


@pytest.mark.parametrize("gradient", ["grad", "normal", "normal_conf", "none"])
@pytest.mark.parametrize("name", ["predicted", "expected", "confidence"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e9])
def test_invalid_pixels_have_no_influence(random_maps, gradient, name, value):
    """Neither on the loss nor on the gradients."""

    def loss_and_gradients(tensors):
        leaves = [tensors[key].clone().requires_grad_() for key in ("predicted", "confidence")]
        loss = dense_loss(
            leaves[0], tensors["expected"], leaves[1], tensors["is_valid"], gradient=gradient
        )
        return loss.total, torch.autograd.grad(loss.total, leaves)

    is_valid = random_maps["is_valid"]
    mask = is_valid if name == "confidence" else is_valid[..., None]
    spoilt = {**random_maps, name: torch.where(mask, random_maps[name], value)}
    loss, gradients = loss_and_gradients(spoilt)
    expected_loss, expected_gradients = loss_and_gradients(random_maps)
    assert torch.equal(loss, expected_loss)
    for found, expected in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gradient", ["grad", "grad_conf", "normal", "normal_conf"])
def test_gradients_are_those_of_finite_differences(random_maps, gradient):
    small = {name: tensor[:1, :1, :12, :12] for name, tensor in random_maps.items()}
    small["is_valid"] = torch.rand(1, 1, 12, 12) > 0.1

    def loss(predicted, confidence):
        return dense_loss(
            predicted, small["expected"], confidence, small["is_valid"], gradient=gradient
        ).total

    leaves = [small[name].clone().requires_grad_() for name in ("predicted", "confidence")]
    assert torch.autograd.gradcheck(loss, leaves, fast_mode=True)


def test_too_few_valid_pixels_give_zero_with_zero_gradients(random_maps):
    is_valid = torch.zeros_like(random_maps["is_valid"])
    is_valid[0, 0, :4, :24] = True
    is_valid[0, 1, 0, :3] = True
    assert is_valid.sum() == 99
    predicted = random_maps["predicted"].requires_grad_()
    rest = (random_maps["expected"], random_maps["confidence"])
    loss = dense_loss(predicted, *rest, is_valid, gradient="normal").total
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(predicted.grad, torch.zeros_like(predicted))
    is_valid[0, 1, 1, 0] = True
    assert dense_loss(predicted, *rest, is_valid, gradient="normal").total.item() != 0.0


def test_normals_of_depth_are_refused():
    one = maps(1.0)
    with pytest.raises(ValueError, match="1 channels"):
        dense_loss(one, one, one.squeeze(-1), everything_valid(), gradient="normal")
