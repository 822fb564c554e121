"""Relative pose errors, areas under the accuracy curve, trajectory error."""

import json
import math

import pytest
import torch

from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.pose_metrics import PoseMetrics, evaluate_poses, fold
from fm3d_plugins.geometry.poses import se3_exp, so3_exp


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def randn(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def named(poses):
    return {f"{index:03}.jpg": pose for index, pose in enumerate(poses)}


def metrics_of(rotation_errors, translation_errors):
    return PoseMetrics(
        rotation_errors=torch.tensor(rotation_errors, dtype=torch.float64),
        translation_errors=torch.tensor(translation_errors, dtype=torch.float64),
        registered=1.0,
        ate=None,
        extent=None,
    )


def test_perfect_poses_are_perfect_in_any_similarity_frame(generator):
    reference = se3_exp(randn(6, 6, generator=generator))
    similarity = Similarity(
        torch.tensor(7.0, dtype=torch.float64),
        so3_exp(randn(3, generator=generator)),
        randn(3, generator=generator),
    )
    metrics = evaluate_poses(named(similarity.apply_to_pose(reference)), named(reference))
    summary = metrics.summary()
    for key, value in summary.items():
        if "@" in key or key == "registered":
            assert value == 1.0, key
    for key in ("ATE", "ATE/extent", "R_median", "T_median"):
        assert summary[key] < 1e-12, key


def test_area_is_the_mean_over_one_degree_bins():
    """Truth: larger errors 0.5, 1.5, 4.5 and inf.

    Shares below 1, 2, 3, 4, 5 degrees: 1/4, 2/4, 2/4, 2/4, 3/4; their mean is 0.5.
    """
    metrics = metrics_of([0.5, 1.5, 0.0, math.inf], [0.1, 0.2, 4.5, math.inf])
    assert metrics.auc(5) == 0.5
    assert metrics.rra(1) == 0.5
    assert metrics.rra(2) == 0.75
    assert metrics.rta(1) == 0.5
    assert metrics.rotation_median == 0.5
    assert metrics.translation_median == 0.2


def test_opposite_direction_counts_as_equal_only_when_folded():
    """Truth: 179.5 degrees folds to 0.5."""
    metrics = metrics_of([0.0], [179.5])
    assert metrics.auc(1) == 1.0
    assert metrics.auc(30, signed=True) == 0.0
    assert metrics.rta(1) == 1.0
    assert fold(torch.tensor([10.0, 90.0, 120.0, math.inf])).tolist() == [10, 90, 60, math.inf]


def test_one_turned_camera_spoils_exactly_its_pairs(generator):
    """Truth: of 5 cameras the turned one is in 4 of 10 pairs, each off by its 10 degrees."""
    reference = se3_exp(randn(5, 6, generator=generator))
    estimated = reference.clone()
    turn = torch.tensor([0.0, math.radians(10), 0], dtype=torch.float64)
    estimated[2, :3, :3] = estimated[2, :3, :3] @ so3_exp(turn)
    metrics = evaluate_poses(named(estimated), named(reference))
    assert sorted(metrics.rotation_errors.round().tolist()) == [0.0] * 6 + [10.0] * 4
    assert metrics.rra(9.99) == 0.6
    assert metrics.rra(10.01) == 1.0


def test_mirrored_centers_show_only_in_the_signed_direction(generator):
    """Truth: with all centres negated and orientations kept every direction is opposite."""
    reference = se3_exp(randn(4, 6, generator=generator))
    estimated = reference.clone()
    estimated[:, :3, 3] *= -1
    metrics = evaluate_poses(named(estimated), named(reference))
    assert metrics.auc(5) == 1.0
    assert metrics.auc(30, signed=True) == 0.0


def test_unregistered_and_broken_photos_count_as_wrong(generator):
    """Truth: with 3 of 5 photos only 3 of 10 pairs can be right."""
    reference = named(se3_exp(randn(5, 6, generator=generator)))
    estimated = dict(list(reference.items())[:3])
    estimated["003.jpg"] = torch.full((4, 4), torch.nan)
    estimated["extra.jpg"] = torch.eye(4)
    metrics = evaluate_poses(estimated, reference)
    assert metrics.registered == pytest.approx(0.6)
    assert metrics.auc(30) == pytest.approx(0.3)
    assert metrics.rra(180) == pytest.approx(0.3)
    assert metrics.rotation_median == pytest.approx(0, abs=1e-10)


def test_two_registered_photos_have_no_trajectory_error(generator):
    reference = named(se3_exp(randn(4, 6, generator=generator)))
    metrics = evaluate_poses(dict(list(reference.items())[:2]), reference)
    assert metrics.ate is None
    assert metrics.ate_over_extent is None
    assert evaluate_poses({}, reference).summary()["R_median"] is None


def test_trajectory_error_and_extent_of_a_known_case():
    """Truth: a unit square's centres lie sqrt(0.5) from their mean, and a square stretched to

    1 + e by 1 - e fits it best with all corners off by e in x and in y: ATE = e sqrt(0.5).
    """
    e = 0.01
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=torch.float64)
    reference = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    reference[:, :3, 3] = corners
    estimated = reference.clone()
    estimated[:, :3, 3] = corners * torch.tensor([1 + e, 1 - e, 1], dtype=torch.float64)
    metrics = evaluate_poses(named(estimated), named(reference))
    assert metrics.extent == pytest.approx(math.sqrt(0.5))
    # The best scale 1 / (1 + e²) changes the residual in second order only.
    assert metrics.ate == pytest.approx(e * math.sqrt(0.5), rel=e * e)


def test_collapsed_estimate_gets_no_credit_for_directions(generator):
    reference = se3_exp(randn(5, 6, generator=generator))
    estimated = reference.clone()
    estimated[:, :3, 3] = 0
    metrics = evaluate_poses(named(estimated), named(reference))
    assert metrics.rta(30) == 0.0
    assert metrics.auc(89, signed=True) == 0.0


def test_pure_rotation_reference_is_judged_by_rotation(generator):
    reference = se3_exp(randn(4, 6, generator=generator))
    reference[:, :3, 3] = 0
    metrics = evaluate_poses(named(reference), named(reference))
    assert metrics.auc(5, signed=True) == 1.0
    assert metrics.ate_over_extent is None


def test_names_without_overlap_are_refused(generator):
    poses = se3_exp(randn(3, 6, generator=generator))
    with pytest.raises(ValueError, match="same names"):
        evaluate_poses({"images/000.jpg": poses[0]}, named(poses))
    with pytest.raises(ValueError, match="at least 2"):
        evaluate_poses({}, named(poses[:1]))


def test_figures_agree_with_the_published_baseline(shared):
    """Oracle: another program's figures for one registered pair of fifteen."""
    baseline = json.loads((shared / "scenes" / "fox" / "colmap_baseline.json").read_text())
    expected = baseline["few_views"]["pose_auc"]
    missing = [math.inf] * (expected["pairs"] - 1)
    summary = metrics_of(
        [expected["R_median_common"], *missing], [expected["T_median_common"], *missing]
    ).summary()
    for key, value in summary.items():
        if "@" in key:
            assert value == pytest.approx(expected[key]), key


@pytest.mark.parametrize("scene", ["fox", "sceaux", "berlin3"])
def test_extent_agrees_with_the_published_baseline(shared, scene):
    """Oracle: another program's ATE over its ATE / extent, where all photos were registered."""
    folder = shared / "scenes" / scene
    expected = json.loads((folder / "colmap_baseline.json").read_text())["pose_auc"]
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    poses = {
        frame["file_path"]: torch.tensor(frame["transform_matrix"], dtype=torch.float64)
        for frame in frames
    }
    extent = evaluate_poses(poses, poses).extent
    assert extent == pytest.approx(expected["ATE"] / expected["ATE/extent"])


def naive_errors(estimated, reference):
    """Larger of the rotation and the signed direction error of each pair, by plain formulas."""
    names, errors = list(reference), []
    for row, first in enumerate(names):
        for second in names[row + 1 :]:
            if first not in estimated or second not in estimated:
                errors.append(math.inf)
                continue
            a = torch.linalg.inv(estimated[first]) @ estimated[second]
            b = torch.linalg.inv(reference[first]) @ reference[second]
            cosine = ((a[:3, :3] * b[:3, :3]).sum() - 1) / 2
            turn = math.degrees(math.acos(min(1.0, max(-1.0, float(cosine)))))
            u, v = a[:3, 3], b[:3, 3]
            cosine = float(u @ v / (u.norm() * v.norm()))
            errors.append(max(turn, math.degrees(math.acos(min(1.0, max(-1.0, cosine))))))
    return errors


@pytest.mark.parametrize("at_once", [1, 7, 1 << 15])
def test_blocks_of_pairs_give_the_errors_of_all_pairs(at_once, generator, monkeypatch):
    monkeypatch.setattr("fm3d_plugins.geometry.pose_metrics.PAIRS_AT_ONCE", at_once)
    reference = se3_exp(randn(13, 6, generator=generator))
    estimate = named(reference @ se3_exp(0.3 * randn(13, 6, generator=generator)))
    del estimate["004.jpg"]
    metrics = evaluate_poses(estimate, named(reference))
    expected = naive_errors(estimate, named(reference))
    found = torch.maximum(metrics.rotation_errors, metrics.translation_errors)
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-6, atol=1e-6)
    shares = [sum(error < limit for error in expected) for limit in range(1, 31)]
    assert metrics.auc(30, signed=True) == pytest.approx(sum(shares) / (30 * len(expected)))


def test_no_intermediate_result_holds_more_than_a_number_per_pair(generator, monkeypatch):
    """Truth: two results of 8 bytes per pair; matrices of all pairs would be 128 bytes each."""
    from torch.utils._python_dispatch import TorchDispatchMode

    monkeypatch.setattr("fm3d_plugins.geometry.pose_metrics.PAIRS_AT_ONCE", 1000)
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, operation, kinds, arguments=(), options=None):
            nonlocal largest
            result = operation(*arguments, **(options or {}))
            for each in result if isinstance(result, tuple | list) else (result,):
                if isinstance(each, torch.Tensor):
                    largest = max(largest, each.numel() * each.element_size())
            return result

    reference = se3_exp(randn(300, 6, generator=generator))
    with Sizes():
        evaluate_poses(named(reference), named(reference)).summary()
    assert largest <= 8 * (300 * 299 // 2)
