"""What is dropped after a round, and the points that begin one."""

import numpy as np
import pytest
import torch

from fm3d_plugins.backends.pycolmap.triangulation import TriangulationSettings, triangulate
from fm3d_plugins.estimators.refinement.belief import spread_at
from fm3d_plugins.estimators.refinement.epipolar import pinholes
from fm3d_plugins.estimators.refinement.rounds import (
    Solution,
    filtered,
    widest_angles,
    world_from_camera,
)
from fm3d_plugins.kernels.bundle_adjustment import Observations


def angles_between(rig, point, views):
    rays = rig.points[point] - rig.cameras.centers[list(views)]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip(rays @ rays.T, -1, 1))).max()


def observed(rows):
    point, view = np.array(sorted(rows)).T
    return Observations(view.copy(), point.copy(), np.zeros((len(view), 2)))


def test_the_widest_angle_of_a_point_is_that_of_its_outermost_views(ring):
    rows = [(0, 0), (0, 3), (0, 5), (1, 2), (1, 3), (2, 4), (3, 1), (3, 7)]
    seen = observed(rows)
    counted = np.array([row != (3, 7) for row in sorted(rows)])
    found = widest_angles(ring.cameras, ring.points, seen, counted)
    # The centres lie nearly in a plane with each point.
    assert found[0] == pytest.approx(angles_between(ring, 0, (0, 3, 5)), rel=1e-6)
    assert found[1] == pytest.approx(angles_between(ring, 1, (2, 3)), rel=1e-6)
    assert found[2] == found[3] == 0


def test_far_observations_and_points_that_nothing_holds_are_dropped(ring):
    rows = [(0, 0), (0, 3), (0, 5), (1, 2), (1, 3), (2, 0), (2, 7)]
    seen = observed(rows)
    errors = np.array([0.5, 9.0, 0.5, 0.5, 9.0, 0.5, 0.5])
    spread = spread_at(ring.cameras, 0.5)
    whole = Solution(ring.cameras, ring.points, seen, np.arange(7), errors, ring.cameras, spread)
    found = filtered(whole, 4.0)
    np.testing.assert_array_equal(found.points, ring.points[[0, 2]])
    np.testing.assert_array_equal(found.seen.view, [0, 5, 0, 7])
    np.testing.assert_array_equal(found.seen.point, [0, 0, 1, 1])
    np.testing.assert_array_equal(found.keypoint, [0, 2, 5, 6])
    assert found.rms == pytest.approx(0.5)
    np.testing.assert_array_equal(found.observations, [2, 0, 0, 0, 0, 1, 0, 1])


def test_triangulated_points_are_where_they_are(rigs):
    rig = rigs.orbit(4, noise=0.0, outliers=0.0)
    evidence = rig.evidence
    model = triangulate(
        world_from_camera(rig.cameras),
        pinholes(rig.cameras),
        evidence.image_sizes,
        evidence.keypoints,
        evidence.matches,
        TriangulationSettings(2.0, completes=True),
    )
    assert len(model.points) == len(rig.points)
    nearest = torch.cdist(torch.from_numpy(model.points), torch.from_numpy(rig.points)).min(1)
    assert float(nearest.values.max()) < 1e-6
    assert len(set(nearest.indices.tolist())) == len(rig.points)
    assert len(model.track_point) == sum(map(len, evidence.keypoints))
