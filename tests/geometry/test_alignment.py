"""Umeyama (plain, weighted, robust), camera alignment."""

import math

import pytest
import torch

from fm3d_plugins.geometry.alignment import (
    Similarity,
    align_cameras,
    robust_umeyama,
    umeyama,
)
from fm3d_plugins.geometry.poses import (
    rotation_angle_degrees,
    se3_exp,
    so3_exp,
    so3_log,
)

BATCHES = [(), (1,), (2, 3)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def randn(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_similarity(batch, generator):
    return Similarity(
        scale=randn(*batch, generator=generator).exp(),
        rotation=so3_exp(2 * randn(*batch, 3, generator=generator)),
        translation=3 * randn(*batch, 3, generator=generator),
    )


def assert_same(found, expected, atol=1e-10):
    torch.testing.assert_close(found.matrix(), expected.matrix(), atol=atol, rtol=1e-9)


@pytest.mark.parametrize("batch", BATCHES)
def test_similarity_inverse_and_matrix_agree_with_apply(batch, generator):
    similarity = random_similarity(batch, generator)
    points = randn(*batch, 5, 3, generator=generator)
    moved = similarity.apply(points)
    torch.testing.assert_close(similarity.inverse().apply(moved), points)
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    expected = homogeneous @ similarity.matrix().transpose(-1, -2)
    torch.testing.assert_close(moved, expected[..., :3])


def test_similarity_moves_cameras_so_that_images_stay_the_same(generator):
    """Truth: a point and a camera moved together keep their bearing, distances scale."""
    similarity = random_similarity((), generator)
    world_from_camera = se3_exp(randn(4, 6, generator=generator))
    moved = similarity.apply_to_pose(world_from_camera)
    point = randn(1, 3, generator=generator)
    before = torch.linalg.inv(world_from_camera) @ torch.cat([point[0], point.new_ones(1)])
    moved_point = similarity.apply(point)[0]
    after = torch.linalg.inv(moved) @ torch.cat([moved_point, point.new_ones(1)])
    torch.testing.assert_close(after[:, :3], similarity.scale * before[:, :3])
    identity = torch.eye(3, dtype=torch.float64).expand(4, 3, 3)
    torch.testing.assert_close(moved[:, :3, :3] @ moved[:, :3, :3].mT, identity)


@pytest.mark.parametrize("batch", BATCHES)
def test_umeyama_recovers_the_similarity(batch, generator):
    similarity = random_similarity(batch, generator)
    source = randn(*batch, 8, 3, generator=generator)
    assert_same(umeyama(source, similarity.apply(source)), similarity)


def test_umeyama_is_the_minimum(generator):
    """Property: no small change of scale, rotation or translation lowers the weighted residual."""
    source, target = randn(9, 3, generator=generator), randn(9, 3, generator=generator)
    weights = torch.rand(9, generator=generator, dtype=torch.float64)

    def cost(similarity):
        return (weights * (similarity.apply(source) - target).square().sum(-1)).sum()

    best = umeyama(source, target, weights)
    for _ in range(50):
        step = 1e-3 * randn(7, generator=generator)
        other = Similarity(
            best.scale * step[6].exp(),
            so3_exp(step[:3]) @ best.rotation,
            best.translation + step[3:6],
        )
        assert cost(other) > cost(best)


def test_umeyama_never_returns_a_reflection(generator):
    source = randn(10, 3, generator=generator)
    mirrored = source * torch.tensor([1.0, 1, -1], dtype=torch.float64)
    rotation = umeyama(source, mirrored).rotation
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones((), dtype=torch.float64))


def test_umeyama_of_three_points_and_of_a_plane_is_exact(generator):
    similarity = random_similarity((), generator)
    for num_points in (3, 20):
        source = randn(num_points, 3, generator=generator)
        source[:, 2] = 0
        assert_same(umeyama(source, similarity.apply(source)), similarity)


def test_umeyama_of_a_line_has_no_residual(generator):
    similarity = random_similarity((), generator)
    source = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None] * randn(3, generator=generator)
    target = similarity.apply(source)
    torch.testing.assert_close(umeyama(source, target).apply(source), target)


def test_weight_zero_removes_a_point(generator):
    similarity = random_similarity((), generator)
    source = randn(6, 3, generator=generator)
    target = similarity.apply(source)
    target[2] += 100
    weights = torch.ones(6, dtype=torch.float64)
    weights[2] = 0
    assert_same(umeyama(source, target, weights), similarity)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.rand(2, 3), "2 of 2 points"),
        (torch.full((5, 3), 1000.1), "coincide"),
        (torch.full((5, 3), torch.nan), "not finite"),
    ],
)
def test_degenerate_points_are_refused(source, message):
    target = torch.arange(len(source) * 3.0).reshape(-1, 3)
    with pytest.raises(ValueError, match=message):
        umeyama(source, target)


def test_robust_umeyama_ignores_forty_percent_wrong_matches(generator):
    similarity = random_similarity((), generator)
    source = randn(200, 3, generator=generator)
    target = similarity.apply(source)
    target[:80] = 10 * randn(80, 3, generator=generator)
    found, inliers = robust_umeyama(source, target)
    assert_same(found, similarity)
    assert not bool(inliers[:80].any())
    assert bool(inliers[80:].all())


def test_robust_umeyama_under_noise_is_nearly_the_fit_of_the_right_points(generator):
    source = randn(300, 3, generator=generator)
    target = source + 0.01 * randn(300, 3, generator=generator)
    target[:100] += 5
    found, inliers = robust_umeyama(source, target)
    # The fit of 200 points with noise 0.01 errs by about 0.01 / sqrt(200) = 7e-4; allow 4 sigma.
    identity = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(found.matrix(), identity, atol=3e-3, rtol=0)
    assert not bool(inliers[:100].any())
    # 2.5 sigma of the median-based estimate keeps nearly all points of a Gaussian in 3D.
    assert float(inliers[100:].double().mean()) > 0.9


def test_robust_umeyama_is_deterministic(generator):
    source, target = randn(50, 3, generator=generator), randn(50, 3, generator=generator)
    first, second = (robust_umeyama(source, target)[0] for _ in range(2))
    assert torch.equal(first.matrix(), second.matrix())


@pytest.mark.parametrize("layout", ["space", "plane", "line", "two", "one"])
def test_cameras_are_aligned_whatever_the_layout_of_their_centers(layout, generator):
    """Truth: cameras moved by a similarity are moved back, by their orientations if need be."""
    num_views = {"two": 2, "one": 1}.get(layout, 6)
    estimated = se3_exp(2 * randn(num_views, 6, generator=generator))
    if layout == "plane":
        estimated[:, 2, 3] = 1.0
    if layout == "line":
        estimated[:, :2, 3] = 1.0
    similarity = random_similarity((), generator)
    if layout == "one":
        similarity = Similarity(
            torch.ones_like(similarity.scale), similarity.rotation, similarity.translation
        )
    assert_same(align_cameras(estimated, similarity.apply_to_pose(estimated)), similarity)


def test_two_cameras_share_the_decision_between_baseline_and_orientations():
    """Truth: baseline along x asks for angle 0 about z, both orientations ask for a.

    The chordal mean of R(a) and of the projector on x is the turn by
    atan2(2 sin a, 2 cos a + 1), the antisymmetric part over the trace within the plane.
    """
    angle = 0.3
    reference = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    reference[1, 0, 3] = 1
    estimated = reference.clone()
    turn = so3_exp(torch.tensor([0, 0, angle], dtype=torch.float64))
    reference[:, :3, :3] = turn
    found = so3_log(align_cameras(estimated, reference).rotation)
    expected = math.atan2(2 * math.sin(angle), 2 * math.cos(angle) + 1)
    torch.testing.assert_close(found, torch.tensor([0, 0, expected], dtype=torch.float64))


def test_cameras_at_one_place_are_aligned_by_their_orientations(generator):
    estimated = se3_exp(randn(5, 6, generator=generator))
    estimated[:, :3, 3] = torch.tensor([4.0, 5, 6], dtype=torch.float64)
    turn = so3_exp(randn(3, generator=generator))
    expected = Similarity(turn.new_ones(()), turn, turn.new_zeros(3))
    found = align_cameras(estimated, expected.apply_to_pose(estimated))
    assert_same(found, expected)


def test_collapsed_reference_does_not_stop_the_alignment(generator):
    estimated = se3_exp(randn(5, 6, generator=generator))
    reference = estimated.clone()
    reference[:, :3, 3] = 0
    found = align_cameras(estimated, reference)
    assert float(found.scale) == 1.0
    degrees = rotation_angle_degrees(found.rotation, torch.eye(3, dtype=torch.float64))
    assert float(degrees) < 1e-10


def test_no_camera_is_refused():
    with pytest.raises(ValueError, match="0 camera pairs"):
        align_cameras(torch.zeros(0, 4, 4), torch.zeros(0, 4, 4))
