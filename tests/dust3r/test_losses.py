"""Losses: equal to the published ones, and free of what they say they are free of."""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.data.synthetic import EndlessRooms
from fm3d_plugins.dust3r.losses import (
    LossConfig,
    PairTruth,
    confidence_loss,
    normalized,
    pair_errors,
    regression_loss,
)
from fm3d_plugins.dust3r.network import PairPrediction
from fm3d_plugins.geometry.poses import invert, se3_exp, transform_points

PUBLISHED_NAMES = {
    "avg_dis": "mean_distance",
    "avg_log1p": "mean_log_distance",
    "avg_warp-log1p": "mean_warped_log_distance",
    "median_dis": "median_distance",
    "sqrt_dis": "mean_root_distance",
    "None": None,
}
CLASSES = {
    "Regr3D": {},
    "Regr3D_ShiftInv": {"shift_invariant": True},
    "Regr3D_ScaleInv": {"scale_invariant": True},
    "Regr3D_ScaleShiftInv": {"shift_invariant": True, "scale_invariant": True},
}
REGULAR = r"(ConfLoss\(0\.2\)\|)?\w+\|[\w-]+\|gt_scale=(True|False)"


@pytest.fixture(scope="module")
def tensors(shared):
    return load_file(shared / "golden" / "dust3r_losses.safetensors")


@pytest.fixture(scope="module")
def published(shared):
    return json.loads((shared / "golden" / "dust3r_losses.json").read_text())


def golden_pair(tensors):
    prediction = PairPrediction(
        tensors["pred1_pts3d"],
        tensors["pred1_conf"],
        tensors["pred2_pts3d_in_other_view"],
        tensors["pred2_conf"],
    )
    truth = PairTruth(
        tensors["gt1_pts3d"],
        tensors["gt2_pts3d"],
        tensors["gt1_camera_pose"],
        tensors["gt1_valid_mask"],
        tensors["gt2_valid_mask"],
    )
    return prediction, truth


def config_of(key):
    kind, norm, scale = key.removeprefix("ConfLoss(0.2)|").split("|")
    return LossConfig(
        normalization=PUBLISHED_NAMES[norm],
        keep_truth_scale=scale == "gt_scale=True",
        **CLASSES[kind],
    )


def test_all_published_losses_are_met(tensors, published):
    pair = golden_pair(tensors)
    before = {name: value.clone() for name, value in tensors.items()}
    kinds = set()
    regular = {key: value for key, value in published.items() if re.fullmatch(REGULAR, key)}
    assert len(regular) == len(published) - 2
    for key, expected in regular.items():
        is_weighted = key.startswith("ConfLoss")
        loss = (confidence_loss if is_weighted else regression_loss)(*pair, config_of(key))
        details = expected["details"]
        names = ["conf_loss_1", "conf_loss2"]
        if not is_weighted:
            names = sorted(details)
            assert [name[-1] for name in names] == ["1", "2"]
        assert loss.total.item() == pytest.approx(expected["loss"], rel=1e-5), key
        assert loss.first.item() == pytest.approx(details[names[0]], rel=1e-5), key
        assert loss.second.item() == pytest.approx(details[names[1]], rel=1e-5), key
        kinds.add(config_of(key))
    assert len(kinds) == len(regular) // 2
    # Published code writes into the caller's tensors; ours does not.
    for name, value in tensors.items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_far_points_count_as_little_as_published(tensors, published):
    loss = regression_loss(*golden_pair(tensors), LossConfig(farthest=4.0))
    expected = published["Regr3D|avg_dis|gt_scale=False|dist_clip=4"]["loss"]
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)


def test_published_sum_of_two_losses_is_met(tensors, published):
    pair = golden_pair(tensors)
    weighted = confidence_loss(*pair)
    plain = regression_loss(*pair, LossConfig(keep_truth_scale=True))
    expected = published["ConfLoss(0.2)|Regr3D + 0.5*Regr3D(gt_scale=True)"]["loss"]
    assert (weighted.total + 0.5 * plain.total).item() == pytest.approx(expected, rel=1e-5)


def test_gradients_are_the_published_ones(tensors):
    prediction, truth = golden_pair(tensors)
    names = ["points_first", "confidence_first", "points_second_in_first", "confidence_second"]
    leaves = [getattr(prediction, name).clone().requires_grad_() for name in names]
    confidence_loss(PairPrediction(*leaves), truth).total.backward()
    for leaf, name in zip(leaves, ("1_pts3d", "1_conf", "2_pts3d", "2_conf"), strict=True):
        expected = tensors[f"grad_pred{name}"]
        assert (leaf.grad - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", [name for name in PUBLISHED_NAMES if name != "None"])
def test_sizes_are_the_published_ones(name, tensors):
    prediction, truth = golden_pair(tensors)
    points = torch.cat(
        [prediction.points_first.flatten(1, 2), prediction.points_second_in_first.flatten(1, 2)], 1
    )
    counts = torch.cat([truth.is_valid_first.flatten(1), truth.is_valid_second.flatten(1)], 1)
    ours, size = normalized(points, counts, PUBLISHED_NAMES[name])
    torch.testing.assert_close(size, tensors[f"norm_{name}.factor"][..., 0], rtol=1e-5, atol=0)
    expected = tensors[f"norm_{name}.pts1"].flatten(1, 2)
    kept = counts[:, : expected.shape[1]]
    torch.testing.assert_close(
        ours[:, : expected.shape[1]][kept], expected[kept], rtol=1e-5, atol=1e-6
    )


def random_pair(seed=0, **changes):
    """Batch of two; photos of different sizes; some pixels without ground truth, which is nan."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    points = [random(2, 3, 4, 3), random(2, 5, 2, 3)]
    valid = [random(2, 3, 4) > -0.5, random(2, 5, 2) > -0.5]
    points[0][~valid[0]] = torch.nan
    points[1][~valid[1]] = torch.inf
    prediction = PairPrediction(
        random(2, 3, 4, 3),
        1 + random(2, 3, 4).exp(),
        random(2, 5, 2, 3),
        1 + random(2, 5, 2).exp(),
    )
    truth = PairTruth(*points, se3_exp(random(2, 6)), *valid)
    return replace(prediction, **changes), truth


def scaled(prediction, factor, shift=0.0):
    along = torch.tensor([0.0, 0.0, shift], dtype=torch.float64)
    return replace(
        prediction,
        points_first=factor * prediction.points_first + along,
        points_second_in_first=factor * prediction.points_second_in_first + along,
    )


def test_error_is_the_naive_mean_of_distances_in_the_first_camera():
    prediction, truth = random_pair()
    loss = regression_loss(prediction, truth, LossConfig(normalization=None))
    ours, sides = (
        [],
        (
            (prediction.points_first, truth.points_first, truth.is_valid_first),
            (prediction.points_second_in_first, truth.points_second, truth.is_valid_second),
        ),
    )
    for predicted, expected, is_valid in sides:
        distances = []
        for batch, row, column in is_valid.nonzero().tolist():
            rotation = truth.world_from_first[batch, :3, :3]
            offset = expected[batch, row, column] - truth.world_from_first[batch, :3, 3]
            distances.append((predicted[batch, row, column] - rotation.T @ offset).norm())
        ours.append(torch.stack(distances).mean())
    torch.testing.assert_close(loss.first, ours[0])
    torch.testing.assert_close(loss.second, ours[1])


@pytest.mark.parametrize(
    ("config", "factor", "shift"),
    [
        (LossConfig(), 3.0, 0.0),
        (LossConfig(normalization="median_distance"), 3.0, 0.0),
        (LossConfig(normalization="mean_root_distance"), 3.0, 0.0),
        (LossConfig(normalization=None, shift_invariant=True), 1.0, 2.0),
        (LossConfig(normalization=None, scale_invariant=True), 3.0, 0.0),
        (LossConfig(normalization=None, scale_invariant=True, keep_truth_scale=True), 3.0, 0.0),
        (LossConfig(normalization=None, scale_invariant=True, shift_invariant=True), 3.0, 2.0),
    ],
)
def test_loss_ignores_what_it_says_and_nothing_else(config, factor, shift):
    prediction, truth = random_pair()
    expected = regression_loss(prediction, truth, config).total
    changed = regression_loss(scaled(prediction, factor, shift), truth, config).total
    # 1e-8 is added to the count of points.
    torch.testing.assert_close(changed, expected, rtol=1e-7, atol=0)
    other = regression_loss(scaled(prediction, 1 / factor, shift + 1), truth, LossConfig(None))
    assert abs(other.total - regression_loss(prediction, truth, LossConfig(None)).total) > 1e-3


def test_best_confidence_of_an_error_is_alpha_divided_by_it():
    """d/dc (c e - alpha log c) = 0 at c = alpha / e."""
    prediction, truth = random_pair()
    config = LossConfig(normalization=None, confidence_weight=0.7)
    confidence = prediction.confidence_first.clone().requires_grad_()
    loss = confidence_loss(replace(prediction, confidence_first=confidence), truth, config)
    loss.first.backward()
    counts = truth.is_valid_first
    errors = pair_errors(prediction, truth, config)
    expected = (errors.first - 0.7 / prediction.confidence_first[counts]) / counts.sum()
    torch.testing.assert_close(confidence.grad[counts], expected)
    assert (confidence.grad[~counts] == 0).all()


@pytest.mark.parametrize("normalization", [*PUBLISHED_NAMES.values()])
def test_gradients_are_those_of_finite_differences(normalization):
    prediction, truth = random_pair()
    config = LossConfig(normalization=normalization)
    detached = normalization == "median_distance"

    def loss(first):
        return confidence_loss(replace(prediction, points_first=first), truth, config).total

    first = prediction.points_first.clone().requires_grad_()
    if detached:
        loss(first).backward()
        frozen = normalized_by_constant(prediction, truth)
        other = prediction.points_first.clone().requires_grad_()
        frozen(other).backward()
        torch.testing.assert_close(first.grad, other.grad)
    else:
        assert torch.autograd.gradcheck(loss, (first,))


def normalized_by_constant(prediction, truth):
    """The loss where the prediction's median size is a number."""
    points = [
        prediction.points_first.flatten(1, 2),
        prediction.points_second_in_first.flatten(1, 2),
    ]
    counts = torch.cat([truth.is_valid_first.flatten(1), truth.is_valid_second.flatten(1)], 1)
    _, size = normalized(torch.cat(points, 1), counts, "median_distance")
    to_first = invert(truth.world_from_first)
    known = [
        transform_points(to_first, points.flatten(1, 2))
        for points in (truth.points_first, truth.points_second)
    ]
    _, true_size = normalized(torch.cat(known, 1), counts, "median_distance")
    size, true_size = size[..., None], true_size[..., None]
    shapes = (truth.points_first.shape, truth.points_second.shape)
    exact = PairTruth(
        *(
            (each / true_size[..., 0]).reshape(shape)
            for each, shape in zip(known, shapes, strict=True)
        ),
        torch.eye(4, dtype=torch.float64).expand(2, 4, 4),
        truth.is_valid_first,
        truth.is_valid_second,
    )

    def loss(first):
        divided = replace(
            prediction,
            points_first=first / size,
            points_second_in_first=prediction.points_second_in_first / size,
        )
        return confidence_loss(divided, exact, LossConfig(normalization=None)).total

    return loss


@pytest.mark.parametrize(
    "config",
    [LossConfig(), LossConfig("mean_root_distance"), LossConfig("median_distance")]
    + [LossConfig(shift_invariant=True, scale_invariant=True)],
)
def test_pairs_without_a_valid_pixel_cost_nothing_and_have_finite_gradients(config):
    prediction, truth = random_pair()
    none = {
        "is_valid_first": torch.zeros_like(truth.is_valid_first),
        "is_valid_second": torch.zeros_like(truth.is_valid_second),
    }
    points = prediction.points_first.clone().requires_grad_()
    loss = confidence_loss(replace(prediction, points_first=points), replace(truth, **none), config)
    assert loss.total == 0
    loss.total.backward()
    assert (points.grad == 0).all()
    # One pair of the batch without any: the other still counts.
    truth.is_valid_first[0] = truth.is_valid_second[0] = False
    loss = confidence_loss(replace(prediction, points_first=points), truth, config)
    loss.total.backward()
    assert loss.total.isfinite() and points.grad.isfinite().all()
    assert (points.grad[1] != 0).any() and (points.grad[0] == 0).all()


def test_points_at_the_camera_have_finite_gradients():
    prediction, truth = random_pair()
    for normalization in PUBLISHED_NAMES.values():
        points = torch.zeros_like(prediction.points_first).requires_grad_()
        loss = confidence_loss(
            replace(prediction, points_first=points), truth, LossConfig(normalization)
        )
        loss.total.backward()
        assert points.grad.isfinite().all(), normalization


def test_a_prediction_of_a_batchs_true_points_has_no_error():
    batch = EndlessRooms(1).batch(0, num_scenes=2, num_views=3, height=12, width=16)
    truth = PairTruth.of(batch, first=2, second=0)
    first_from_world = invert(batch.world_from_camera[:, 2])
    points = [
        transform_points(first_from_world, each.flatten(1, 2)).reshape(each.shape)
        for each in (truth.points_first, truth.points_second)
    ]
    # The z coordinate of what a camera sees is its depth.
    torch.testing.assert_close(points[0][..., 2], batch.depth[:, 2])
    ones = torch.ones_like(points[0][..., 0])
    prediction = PairPrediction(points[0], ones, points[1], ones)
    assert regression_loss(prediction, truth).total < 1e-5
