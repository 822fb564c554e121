"""Reprojection errors against the package's cameras, and the equations against dense algebra."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fm3d_plugins.geometry.cameras import denormalize, distort
from fm3d_plugins.geometry.poses import so3_exp
from fm3d_plugins.kernels.bundle_adjustment import (
    Cameras,
    Observations,
    derivatives,
    moved_points,
    reduced_equations,
    reprojection_errors,
)
from fm3d_plugins.kernels.bundle_adjustment.layout import BEHIND, LENS, POSE

VIEWS, POINTS = 4, 9


@pytest.fixture
def problem():
    """Four views by two lenses, and points that two to four of them see, a few pixels off.

    Of some points the views stand in falling order, and one view sees the last point twice.
    """
    random = np.random.default_rng(0)
    centers = random.normal(size=(VIEWS, 3)) - [0, 0, 6]
    turns = so3_exp(torch.from_numpy(0.1 * random.normal(size=(VIEWS, 3)))).numpy()
    cameras = Cameras(
        camera_from_world=turns,
        centers=centers,
        group=np.array([0, 1, 1, 0]),
        focal=np.array([[500.0, 510.0], [620.0, 600.0]]),
        principal_point=np.array([[320.0, 240.0], [300.0, 250.0]]),
        distortion=0.02 * random.normal(size=(2, 6)),
    )
    points = random.normal(size=(POINTS, 3))
    rows = [(p, v) for p in range(POINTS) for v in range(VIEWS) if (p + v) % 3 or v < 2]
    rows = sorted(rows, key=lambda row: (row[0], row[1] * (-1) ** row[0])) + [(POINTS - 1, 1)]
    point, view = np.array(rows).T
    pixel = np.array([320, 240]) + 40 * random.normal(size=(len(rows), 2))
    return cameras, points, Observations(view.copy(), point.copy(), pixel)


def projected(cameras, points, seen):
    """The same by the package's own cameras."""
    group = cameras.group[seen.view]
    offset = points[seen.point] - cameras.centers[seen.view]
    here = np.einsum("oij,oj->oi", cameras.camera_from_world[seen.view], offset)
    flat = torch.from_numpy(here[:, None, :2] / here[:, None, 2:])
    bent = distort(flat, torch.from_numpy(cameras.distortion[group]))
    matrix = np.tile(np.eye(3), (len(group), 1, 1))
    matrix[:, (0, 1), (0, 1)] = cameras.focal[group]
    matrix[:, (0, 1), (2, 2)] = cameras.principal_point[group]
    return denormalize(bent, torch.from_numpy(matrix))[:, 0].numpy()


def moved(cameras, step):
    """Cameras after a step of all unknowns, as `layout` defines them."""
    poses = step[: POSE * VIEWS].reshape(VIEWS, POSE)
    lenses = step[POSE * VIEWS :].reshape(-1, LENS)
    distortion = cameras.distortion.copy()
    distortion[:, 0] += lenses[:, 1]
    turns = so3_exp(torch.from_numpy(poses[:, :3].copy())).numpy()
    return replace(
        cameras,
        camera_from_world=turns @ cameras.camera_from_world,
        centers=cameras.centers + poses[:, 3:],
        focal=cameras.focal * np.exp(lenses[:, :1]),
        distortion=distortion,
    )


def jacobian(problem):
    """Of all errors by all cameras' unknowns, then all points, by central differences."""
    cameras, points, seen = problem
    unknowns = POSE * VIEWS + LENS * 2
    columns = []
    for column in range(unknowns + points.size):
        ends = []
        for sign in (1, -1):
            step = np.zeros(unknowns + points.size)
            step[column] = sign * 1e-6
            shifted = points + step[unknowns:].reshape(-1, 3)
            ends.append(projected(moved(cameras, step[:unknowns]), shifted, seen))
        columns.append(((ends[0] - ends[1]) / 2e-6).ravel())
    return np.stack(columns, axis=1)


def test_errors_are_those_of_the_packages_cameras(problem):
    cameras, points, seen = problem
    expected = projected(cameras, points, seen) - seen.pixel
    np.testing.assert_allclose(reprojection_errors(cameras, points, seen), expected, atol=1e-9)


def test_what_is_behind_a_camera_is_far_off_and_pulls_nowhere(problem):
    cameras, points, seen = problem
    points = points - [0, 0, 40]
    assert (reprojection_errors(cameras, points, seen) == BEHIND).all()
    slopes = derivatives(cameras, points, seen)
    assert not slopes.by_camera.any() and not slopes.by_point.any()


def test_derivatives_are_those_of_differences(problem):
    cameras, points, seen = problem
    slopes, dense = derivatives(cameras, points, seen), jacobian(problem)
    for row, (view, point) in enumerate(zip(seen.view, seen.point, strict=True)):
        here = dense[2 * row : 2 * row + 2]
        lens = POSE * VIEWS + LENS * cameras.group[view]
        own = np.r_[POSE * view : POSE * view + POSE, lens : lens + LENS]
        np.testing.assert_allclose(slopes.by_camera[row], here[:, own], rtol=1e-6, atol=1e-4)
        start = POSE * VIEWS + LENS * 2 + 3 * point
        near = here[:, start : start + 3]
        np.testing.assert_allclose(slopes.by_point[row], near, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_equations_are_schurs_complement_of_the_whole(problem, damping):
    cameras, points, seen = problem
    weights = np.random.default_rng(1).uniform(0.1, 1, len(seen))
    errors = reprojection_errors(cameras, points, seen)
    slopes = derivatives(cameras, points, seen)
    made = reduced_equations(
        cameras, seen, errors, weights, slopes, num_points=POINTS, damping=damping
    )
    dense = jacobian(problem)
    twice = np.repeat(weights, 2)
    whole, right = (dense.T * twice) @ dense, -(dense.T * twice) @ errors.ravel()
    cut = POSE * VIEWS + LENS * 2
    # Differences leave small numbers between points, which have none.
    own = np.zeros_like(whole[cut:, cut:])
    for start in range(0, len(own), 3):
        block = slice(start, start + 3)
        own[block, block] = whole[cut:, cut:][block, block]
    own[np.diag_indices_from(own)] *= 1 + damping
    solved = np.linalg.solve(own, whole[cut:, :cut])
    expected = whole[:cut, :cut] - whole[:cut, cut:] @ solved
    scale = np.abs(expected).max()
    np.testing.assert_allclose(made.matrix / scale, expected / scale, atol=1e-6)
    np.testing.assert_allclose(made.diagonal, np.diag(whole[:cut, :cut]), rtol=1e-5)
    reduced = right[:cut] - solved.T @ right[cut:]
    np.testing.assert_allclose(made.right, reduced, atol=1e-5 * np.abs(reduced).max())
    step = np.random.default_rng(2).normal(size=cut)
    points_step = np.linalg.solve(own, right[cut:] - whole[cut:, :cut] @ step)
    found = moved_points(cameras, seen, weights, slopes, made, step)
    np.testing.assert_allclose(found.ravel(), points_step, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c, p, s: (c, p[:3], s), "point from 0 to 8"),
        (lambda c, p, s: (c, p, replace(s, view=s.view + 2)), "view from 2 to 5"),
        (lambda c, p, s: (replace(c, group=c.group - 1), p, s), "group from -1 to 0"),
        (lambda c, p, s: (c, p, replace(s, point=s.point[::-1].copy())), "mixed order"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(problem, change, named):
    with pytest.raises(ValueError, match=named):
        reprojection_errors(*change(*problem))
