"""How sure cameras are: relative to each other, in pixels of their pictures."""

from dataclasses import replace

import numpy as np
import pytest

from fm3d_plugins.estimators.refinement.adjustment import stepped
from fm3d_plugins.estimators.refinement.confidence import (
    camera_confidence,
    relative_covariance,
    world_moves,
)
from fm3d_plugins.estimators.refinement.judged_cameras import refine_cameras
from fm3d_plugins.kernels.bundle_adjustment import Observations, reprojection_errors
from fm3d_plugins.kernels.bundle_adjustment.layout import POSE


@pytest.fixture(scope="module")
def solution(rigs, ring):
    """View 3 has no match."""
    alone = {pair: rows for pair, rows in ring.evidence.matches.items() if 3 not in pair}
    prior = rigs.disturbed(ring.cameras, 1)
    return refine_cameras(ring.names, prior, replace(ring.evidence, matches=alone)).solution


@pytest.mark.parametrize("move", range(7))
def test_a_move_of_the_world_moves_no_picture(ring, move):
    """All cameras moved, and the points with them: errors stay, to first order."""
    cameras, points = ring.cameras, ring.points
    views, size = len(cameras.centers), 1e-5
    step = size * world_moves(cameras)[:, move].reshape(views, POSE)
    moved = stepped(cameras, np.r_[step.ravel(), 0, 0])
    if move < 3:
        points = points + size * np.cross(np.eye(3)[move], points)
    elif move < 6:
        points = points + size * np.eye(3)[move - 3]
    else:
        points = points + size * (points - cameras.centers.mean(0))
    point, view = (grid.ravel() for grid in np.mgrid[: len(points), :views])
    seen = Observations(view, point, np.zeros((len(view), 2)))
    before = reprojection_errors(cameras, ring.points, seen)
    after = reprojection_errors(moved, points, seen)
    assert np.abs(after - before).max() < 1e-3 * size * 600 + 1e-7


def test_moves_of_the_world_have_no_variance(solution):
    counted = np.repeat(np.arange(8) != 3, POSE)
    spread = solution.spread
    deviations = np.repeat(np.stack([spread.turn, spread.center], axis=1), 3, axis=1).ravel()
    weighted = world_moves(solution.cameras) * (counted / deviations**2)[:, None]
    left = weighted.T @ relative_covariance(solution) @ weighted
    before = weighted.T @ solution.covariance()[: len(weighted), : len(weighted)] @ weighted
    assert np.abs(left).max() < 1e-9 * np.abs(before).max()


def test_a_view_without_matches_is_as_unsure_as_its_prior(solution):
    found = camera_confidence(solution)
    assert found[[0, 1, 2, 4, 5, 6, 7]].min() > 0.3
    # About 0.75 degrees at a focal length of 600 are 8 pixels along each axis.
    assert found[3] < 0.02
