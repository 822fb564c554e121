"""The similarity between two chunks, from the photos in both."""

from dataclasses import replace
from statistics import NormalDist

import pytest
import torch

from fm3d_plugins.estimators.chunks.joint import SharedView, measure_joint
from fm3d_plugins.geometry.alignment import umeyama
from fm3d_plugins.geometry.pose_graph import points_information
from fm3d_plugins.geometry.poses import se3_exp, sim3_exp, sim3_log, transform_points


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def randn(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def shared_views(generator, *, num_views=3, noise=0.0, outliers=0.0):
    """Truth, and photos of points in front of their cameras as two chunks see them."""
    first_from_second = sim3_exp(randn(7, generator=generator))
    scale = torch.linalg.det(first_from_second[:3, :3]).pow(1 / 3)
    first, second = [], []
    for _ in range(num_views):
        camera = se3_exp(0.3 * randn(6, generator=generator))
        rays = torch.nn.functional.pad(randn(800, 2, generator=generator) * 0.4, (0, 1), value=1.0)
        depth = 2 + 2 * torch.rand(800, generator=generator, dtype=torch.float64)
        world = first_from_second @ camera
        world[:3, :3] /= scale
        for views, pose, unit in ((second, camera, 1.0), (first, world, scale)):
            seen = unit * depth * (1 + noise * randn(800, generator=generator))
            is_wrong = torch.rand(800, generator=generator) < outliers
            seen = torch.where(is_wrong, seen * randn(800, generator=generator).exp(), seen)
            points = transform_points(pose, rays * seen.unsqueeze(-1))
            views.append(SharedView(points, seen, torch.ones_like(seen), pose))
    return first_from_second, first, second


def error(found, truth):
    return sim3_log(torch.linalg.solve(truth, found)).abs().max()


@pytest.mark.parametrize("num_views", [1, 3])
def test_exact_predictions_give_the_exact_similarity(num_views, generator):
    truth, first, second = shared_views(generator, num_views=num_views)
    found = measure_joint(first, second)
    torch.testing.assert_close(found.first_from_second, truth, atol=1e-9, rtol=1e-9)
    assert found.inlier_share == 1 and found.residual < 1e-9


@pytest.mark.parametrize("outliers", [0.05, 0.2])
def test_noise_is_averaged_and_wrong_depth_ignored(outliers, generator):
    """Noise of 1 % on 2400 points leaves 0.02 %; wrong points pull by a few of those at most."""
    truth, first, second = shared_views(generator, noise=0.01, outliers=outliers)
    found = measure_joint(first, second)
    assert float(error(found.first_from_second, truth)) < 2e-3
    # Of all pairs, those right in both chunks come first: normal with a spread of 1.414 %.
    right = (1 - outliers) ** 2
    median = 0.01 * 2**0.5 * NormalDist().inv_cdf(0.5 + 0.25 / right)
    assert found.residual == pytest.approx(median, rel=0.1)
    assert found.inlier_share == pytest.approx(right, abs=0.05)


def test_scale_is_not_biased_by_noise(generator):
    """The least squares scale is short by the noise's share of the variance, 0.3 % or more here."""
    found, least_squares = [], []
    for _ in range(8):
        truth, first, second = shared_views(generator, noise=0.03)
        plain = umeyama(*(torch.cat([view.points for view in views]) for views in (second, first)))
        for estimates, matrix in (
            (found, measure_joint(first, second).first_from_second),
            (least_squares, plain.matrix()),
        ):
            estimates.append(sim3_log(torch.linalg.solve(truth, matrix))[6])
    # 8 x 2400 points of 3 % noise leave 0.03 %.
    assert abs(float(torch.stack(found).mean())) < 1e-3
    assert float(torch.stack(least_squares).mean()) < -2e-3


def test_measured_backwards_it_is_the_inverse(generator):
    _, first, second = shared_views(generator, noise=0.01, outliers=0.05)
    there = measure_joint(first, second).first_from_second
    back = measure_joint(second, first).first_from_second
    assert float(error(there @ back, torch.eye(4, dtype=torch.float64))) < 1e-3


def test_confident_pixels_count_for_more(generator):
    """A third of the pixels are off by 5 % in one chunk; their confidence says so."""
    truth, first, second = shared_views(generator, noise=0.02)
    for view in second:
        view.points[::3] += 0.05 * (view.points[::3] - view.world_from_camera[:3, 3])
    plain = error(measure_joint(first, second).first_from_second, truth)
    second = [replace(view, confidence=view.confidence.clone()) for view in second]
    for view in second:
        view.confidence[::3] = 0.01
    told = error(measure_joint(first, second).first_from_second, truth)
    assert float(told) < 0.4 * float(plain)


def test_unknown_depth_is_left_out(generator):
    truth, first, second = shared_views(generator)
    first[0].depth[:100] = 0.0
    second[1].depth[50:250] = torch.nan
    second[1].points[50:250] = torch.nan
    first[2].confidence[:10] = 0.0
    found = measure_joint(first, second)
    torch.testing.assert_close(found.first_from_second, truth, atol=1e-9, rtol=1e-9)


def test_information_measures_displacement_per_depth_in_spreads(generator):
    """Truth: moving everything by a tangent moves points by so many spreads, in the mean."""
    _, first, second = shared_views(generator, noise=0.01)
    found = measure_joint(first, second)
    points = torch.cat([view.points for view in second])
    depth = torch.cat([view.depth for view in second])
    spread = 1.4826 * found.residual
    shares = torch.full_like(depth, 1 / len(depth)) / (depth * spread).square()
    expected = points_information(points, shares)
    # Weights differ a little from equal ones, as points near the spread's limit fade.
    torch.testing.assert_close(found.information, expected, rtol=0.1, atol=0.05 * expected.max())


def test_too_few_points_are_refused(generator):
    _, first, second = shared_views(generator, num_views=1)
    first[0].depth[40:] = 0.0
    with pytest.raises(ValueError, match="only 40 pixels"):
        measure_joint(first, second)


def test_unrelated_predictions_are_refused(generator):
    """Another scene of the same spread in every direction: no similarity fits."""
    _, first, second = shared_views(generator, num_views=2)
    second = [
        replace(view, points=view.points[torch.randperm(800, generator=generator)])
        for view in second
    ]
    with pytest.raises(ValueError, match="agree within"):
        measure_joint(first, second)
