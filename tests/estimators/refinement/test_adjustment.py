"""Bundle adjustment with priors: without data, with exact data, and its covariance."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fm3d_plugins.estimators.refinement.adjustment import Spread, adjust, covariance
from fm3d_plugins.geometry.poses import so3_exp, so3_log
from fm3d_plugins.kernels.bundle_adjustment import Observations, reprojection_errors
from fm3d_plugins.kernels.bundle_adjustment.layout import POSE

VIEWS = 8


def spread(turn=0.02, center=0.1, log_focal=0.03, k1=0.05, views=VIEWS):
    pose = np.full(views, float(turn)), np.full(views, float(center))
    return Spread(*pose, np.full(1, float(log_focal)), np.full(1, float(k1)))


def exact(rig):
    """Every point of the rig, seen without error by all views."""
    point, view = (grid.ravel() for grid in np.mgrid[: len(rig.points), :VIEWS])
    seen = Observations(view, point, np.zeros((len(view), 2)))
    return replace(seen, pixel=reprojection_errors(rig.cameras, rig.points, seen))


def nothing():
    none = np.zeros(0, np.int64)
    return np.zeros((0, 3)), Observations(none, none, np.zeros((0, 2)))


def degrees_apart(one, other):
    turned = one.camera_from_world @ other.camera_from_world.transpose(0, 2, 1)
    return np.degrees(np.linalg.norm(so3_log(torch.from_numpy(turned)).numpy(), axis=1))


def test_exact_observations_outweigh_a_prior_that_is_off(rigs, ring):
    seen = exact(ring)
    prior = rigs.disturbed(ring.cameras, 1)
    start = ring.points + 0.05 * np.random.default_rng(0).normal(size=ring.points.shape)
    loose = spread(turn=10, center=10, log_focal=10, k1=10)
    found = adjust(prior, start, seen, prior, loose, reach=4.0, tolerance=1e-12)
    errors = reprojection_errors(found.cameras, found.points, seen)
    assert np.abs(errors).max() < 0.05
    np.testing.assert_allclose(found.cameras.focal, ring.cameras.focal, rtol=1e-3)


def test_without_observations_cameras_return_to_the_prior(rigs, ring):
    prior = ring.cameras
    away = rigs.disturbed(prior, 4)
    found = adjust(away, *nothing(), prior, spread(), reach=1.0, tolerance=1e-15).cameras
    assert degrees_apart(found, prior).max() < 1e-6
    np.testing.assert_allclose(found.centers, prior.centers, atol=1e-9)
    np.testing.assert_allclose(found.focal, prior.focal, rtol=1e-9)


def test_without_observations_the_covariance_is_the_priors(ring):
    expected = np.diag(np.r_[np.tile(np.repeat([0.02**2, 0.1**2], 3), VIEWS), [0.03**2, 0.05**2]])
    found = covariance(ring.cameras, *nothing(), ring.cameras, spread(), reach=1.0)
    np.testing.assert_allclose(found, expected, atol=1e-15)


def test_what_has_no_spread_stays(rigs, ring):
    prior = rigs.disturbed(ring.cameras, 1)
    held = spread(log_focal=0.0, k1=0.0)
    found = adjust(prior, ring.points, exact(ring), prior, held, reach=4.0, tolerance=1e-6)
    np.testing.assert_array_equal(found.cameras.focal, prior.focal)
    np.testing.assert_array_equal(found.cameras.distortion, prior.distortion)
    matrix = covariance(found.cameras, found.points, exact(ring), prior, held, reach=4.0)
    assert not matrix[POSE * VIEWS :].any() and not matrix[:, POSE * VIEWS :].any()


def test_the_result_is_where_the_cost_has_no_slope(rigs, ring):
    """Moved along any camera's unknown, the posterior's cost (written down anew) only grows."""
    prior, firm, reach = rigs.disturbed(ring.cameras, 1), spread(), 2.0
    seen = exact(ring)
    found = adjust(prior, ring.points, seen, prior, firm, reach=reach, tolerance=1e-14)

    def cost(cameras):
        squared = (reprojection_errors(cameras, found.points, seen) ** 2).sum(1)
        turned = cameras.camera_from_world @ prior.camera_from_world.transpose(0, 2, 1)
        turns = so3_log(torch.from_numpy(turned)).numpy()
        return (
            (reach**2 * np.log1p(squared / reach**2)).sum()
            + (turns**2).sum() / 0.02**2
            + ((cameras.centers - prior.centers) ** 2).sum() / 0.1**2
            + (np.log(cameras.focal[:, 0] / prior.focal[:, 0]) ** 2).sum() / 0.03**2
            + ((cameras.distortion[:, 0] - prior.distortion[:, 0]) ** 2).sum() / 0.05**2
        )

    def moved(kind, row, size):
        cameras = found.cameras
        if kind == "turn":
            turn = np.zeros((VIEWS, 3))
            turn[row // 3, row % 3] = size
            turns = so3_exp(torch.from_numpy(turn)).numpy() @ cameras.camera_from_world
            return replace(cameras, camera_from_world=turns)
        if kind == "center":
            shift = np.zeros((VIEWS, 3))
            shift[row // 3, row % 3] = size
            return replace(cameras, centers=cameras.centers + shift)
        return replace(cameras, focal=cameras.focal * np.exp(size))

    for kind, rows, step in (("turn", 24, 1e-5), ("center", 24, 1e-4), ("focal", 1, 1e-5)):
        for row in range(rows):
            up, down = cost(moved(kind, row, step)), cost(moved(kind, row, -step))
            curved = up + down - 2 * cost(found.cameras)
            assert curved > 0
            assert abs(up - down) < 0.02 * curved


def test_the_covariance_is_the_spread_of_solutions_under_noise(rigs):
    """Many draws of prior and pixels: the squared errors are as large as the covariance says."""
    rig = rigs.orbit(5, seed=3)
    rig = replace(rig, points=rig.points[:25])
    point, view = (grid.ravel() for grid in np.mgrid[:25, :5])
    true = Observations(view, point, np.zeros((len(view), 2)))
    true = replace(true, pixel=reprojection_errors(rig.cameras, rig.points, true))
    firm = spread(turn=0.01, center=0.03, log_focal=0.02, k1=0.02, views=5)
    random, ratios = np.random.default_rng(0), []
    for _ in range(20):
        turns = so3_exp(torch.from_numpy(0.01 * random.normal(size=(5, 3)))).numpy()
        prior = replace(
            rig.cameras,
            camera_from_world=turns @ rig.cameras.camera_from_world,
            centers=rig.cameras.centers + 0.03 * random.normal(size=(5, 3)),
            focal=rig.cameras.focal * np.exp(0.02 * random.normal()),
            distortion=0.02 * random.normal(size=(1, 1)) * np.eye(1, 6),
        )
        # The loss has a reach, and pixels a standard deviation, of which one is their variance.
        seen = replace(true, pixel=true.pixel + random.normal(size=true.pixel.shape))
        found = adjust(prior, rig.points, seen, prior, firm, reach=100.0, tolerance=1e-9)
        matrix = covariance(found.cameras, found.points, seen, prior, firm, reach=100.0)
        turned = found.cameras.camera_from_world @ rig.cameras.camera_from_world.transpose(0, 2, 1)
        off = np.concatenate(
            [
                so3_log(torch.from_numpy(turned)).numpy(),
                found.cameras.centers - rig.cameras.centers,
            ],
            axis=1,
        ).ravel()
        ratios.append(off @ np.linalg.solve(matrix[:30, :30], off) / 30)
    # The mean of 20 draws of chi² with 30 degrees of freedom, over 30: 1 +- 0.06.
    assert np.mean(ratios) == pytest.approx(1, abs=0.2)
