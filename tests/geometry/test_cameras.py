"""Projection, intrinsics arithmetic, axis conversion and lens distortion."""

import pytest
import torch

from fm3d_plugins.geometry import cameras
from fm3d_plugins.geometry.cameras import (
    crop_intrinsics,
    denormalize,
    distort,
    intrinsics_matrix,
    normalize,
    opencv_from_opengl,
    opengl_from_opencv,
    project,
    resize_intrinsics,
    undistort,
    unproject,
)

BATCHES = [(), (1,), (2, 3)]


def random_intrinsics(batch, generator):
    """Focal lengths 400 to 600 px, principal points near (320, 240)."""
    values = torch.rand(4, *batch, generator=generator, dtype=torch.float64)
    return intrinsics_matrix(
        400 + 200 * values[0], 400 + 200 * values[1], 310 + 20 * values[2], 230 + 20 * values[3]
    )


def random_points(batch, num_points, generator):
    """Points 1 to 5 units before the camera."""
    points = torch.randn(*batch, num_points, 3, generator=generator, dtype=torch.float64)
    points[..., 2] = 1 + 4 * torch.rand(*batch, num_points, generator=generator)
    return points


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_projection_of_known_point():
    """Truth: x = 500 * 2 / 4 + 320 = 570, y = 400 * -1 / 4 + 240 = 140."""
    intrinsics = torch.tensor([[500.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    pixels = project(torch.tensor([[2.0, -1, 4]]), intrinsics)
    torch.testing.assert_close(pixels, torch.tensor([[570.0, 140]]))


@pytest.mark.parametrize("batch", BATCHES)
def test_unproject_inverts_project(batch, generator):
    points = random_points(batch, 7, generator)
    intrinsics = random_intrinsics(batch, generator)
    intrinsics[..., 0, 1] = 3.0  # skew
    pixels = project(points, intrinsics)
    torch.testing.assert_close(unproject(pixels, points[..., 2], intrinsics), points)
    torch.testing.assert_close(denormalize(normalize(pixels, intrinsics), intrinsics), pixels)


def test_resize_keeps_the_image_corners_on_the_same_rays(generator):
    """Truth: pixel (0, 0) is the corner, so a resized image's corners scale with its size."""
    intrinsics = random_intrinsics((), generator)
    corners = torch.tensor([[0.0, 0], [640, 0], [0, 480], [640, 480]], dtype=torch.float64)
    scale = torch.tensor([518 / 640, 392 / 480], dtype=torch.float64)
    resized, new_corners = resize_intrinsics(intrinsics, scale), corners * scale
    torch.testing.assert_close(normalize(new_corners, resized), normalize(corners, intrinsics))


def test_crop_moves_pixels_by_the_cut(generator):
    intrinsics = random_intrinsics((2,), generator)
    points = random_points((2,), 5, generator)
    shift = torch.tensor([12.0, -5.0], dtype=torch.float64)
    moved = project(points, crop_intrinsics(intrinsics, shift))
    torch.testing.assert_close(moved, project(points, intrinsics) - shift)


@pytest.mark.parametrize("rows", [3, 4])
def test_opengl_camera_looks_along_minus_z_with_y_up(rows):
    """Truth: OpenCV's forward +z becomes -z of the OpenGL camera, down +y becomes -y."""
    world_from_camera = torch.eye(4, dtype=torch.float64)[:rows]
    world_from_camera[:3, 3] = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    converted = opengl_from_opencv(world_from_camera)
    expected = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))[:rows]
    expected[:3, 3] = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    torch.testing.assert_close(converted, expected)


def test_axis_conversions_cancel_and_keep_handedness(generator):
    rotation, _ = torch.linalg.qr(torch.randn(2, 3, 3, 3, generator=generator))
    poses = torch.cat([rotation, torch.randn(2, 3, 3, 1, generator=generator)], dim=-1)
    assert torch.equal(opencv_from_opengl(opengl_from_opencv(poses)), poses)
    torch.testing.assert_close(
        torch.linalg.det(opengl_from_opencv(poses)[..., :3]), torch.linalg.det(rotation)
    )


def test_distortion_of_known_point():
    """Truth at (0.5, 0), r² = 1/4: each coefficient 0.1 adds its own closed-form term.

    radial 1 + 0.1 (1/4 + 1/16 + 1/64 + 1/256) = 1.033203125, x = 0.5166015625;
    p2 adds 0.1 (1/4 + 2/4) = 0.075 to x; p1 adds 0.1 * 1/4 = 0.025 to y.
    """
    point = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    distorted = distort(point, torch.full((6,), 0.1, dtype=torch.float64))
    expected = torch.tensor([[0.5166015625 + 0.075, 0.025]], dtype=torch.float64)
    torch.testing.assert_close(distorted, expected)


@pytest.mark.parametrize("batch", BATCHES)
def test_undistort_inverts_distort(batch, generator):
    points = 1.2 * torch.rand(*batch, 50, 2, generator=generator, dtype=torch.float64) - 0.6
    scale = torch.tensor([0.2, 0.05, 0.02, 0.01, 0.005, 0.005], dtype=torch.float64)
    signs = 2 * torch.rand(*batch, 6, generator=generator, dtype=torch.float64) - 1
    distortion = scale * signs
    recovered = undistort(distort(points, distortion), distortion)
    torch.testing.assert_close(recovered, points, atol=1e-13, rtol=0)


def test_undistort_doubles_its_digits_per_step(generator, monkeypatch):
    """Truth: Newton's method converges quadratically, which a wrong derivative would spoil."""
    points = torch.rand(50, 2, generator=generator, dtype=torch.float64) - 0.5
    distortion = torch.tensor([0.2, -0.1, 0.1, 0.3, 0.02, -0.02], dtype=torch.float64)
    errors = []
    for steps in (2, 3, 4):
        monkeypatch.setattr(cameras, "UNDISTORT_ITERATIONS", steps)
        found = undistort(distort(points, distortion), distortion)
        errors.append(float((found - points).abs().max()))
    assert errors[1] < 10 * errors[0] ** 2
    assert errors[2] < max(10 * errors[1] ** 2, 1e-15)


def test_undistort_of_a_strong_wide_lens(generator):
    """Truth: r - 0.3 r³ rises up to r = 1.054; points up to r = 1 are recovered."""
    direction = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    points = direction / direction.norm(dim=-1, keepdim=True)
    points = points * torch.linspace(0, 1, 200, dtype=torch.float64).unsqueeze(-1)
    distortion = torch.tensor([-0.3, 0, 0, 0, 0, 0], dtype=torch.float64)
    recovered = undistort(distort(points, distortion), distortion)
    # Near the fold the inverse's slope is 1 / (1 - 0.9) = 10.
    torch.testing.assert_close(recovered, points, atol=1e-13, rtol=0)


def test_no_distortion_changes_nothing(generator):
    points = torch.randn(9, 2, generator=generator)
    assert torch.equal(distort(points, torch.zeros(6)), points)
    assert torch.equal(undistort(points, torch.zeros(6)), points)


def test_undistort_is_differentiable(generator):
    points = torch.rand(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    distortion = torch.tensor(
        [-0.1, 0.02, 0.01, 0.0, 0.003, -0.002], dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(undistort, (0.4 * points, distortion))


def test_distortion_agrees_with_opencv(generator):
    """Oracle: cv2.projectPoints, whose fifth coefficient is our k3."""
    cv2 = pytest.importorskip("cv2")
    points = random_points((), 20, generator)
    k1, k2, k3, p1, p2 = -0.2, 0.05, 0.02, 0.003, -0.004
    intrinsics = random_intrinsics((), generator)
    distorted = distort(
        points[:, :2] / points[:, 2:],
        torch.tensor([k1, k2, k3, 0.0, p1, p2], dtype=torch.float64),
    )
    zeros = torch.zeros(3).double().numpy()
    expected, _ = cv2.projectPoints(
        points.numpy(),
        zeros,
        zeros,
        intrinsics.numpy(),
        torch.tensor([k1, k2, p1, p2, k3]).double().numpy(),
    )
    # The coefficients pass through float32 above: 1e-8 relative, 1e-5 px here.
    torch.testing.assert_close(
        denormalize(distorted, intrinsics), torch.from_numpy(expected[:, 0]), atol=1e-4, rtol=0
    )


def test_undistort_agrees_with_nerfstudio(generator):
    """Oracle: nerfstudio's Newton iteration, the meaning of its six parameters included."""
    camera_utils = pytest.importorskip("nerfstudio.cameras.camera_utils")
    points = torch.rand(40, 2, generator=generator, dtype=torch.float64) - 0.5
    distortion = torch.tensor([0.1, -0.05, 0.03, 0.02, 0.004, -0.003], dtype=torch.float64)
    expected = camera_utils.radial_and_tangential_undistort(points, distortion)
    torch.testing.assert_close(undistort(points, distortion), expected, atol=1e-12, rtol=0)


def test_dtype_is_kept_and_arguments_are_not_modified():
    intrinsics = torch.eye(3)
    points = torch.tensor([[0.1, 0.2, 1.0]])
    before = intrinsics.clone(), points.clone()
    for result in (
        project(points, intrinsics),
        crop_intrinsics(intrinsics, torch.ones(2)),
        resize_intrinsics(intrinsics, torch.full((2,), 0.5)),
        distort(points[:, :2], torch.full((6,), 0.01)),
    ):
        assert result.dtype == torch.float32
    assert torch.equal(intrinsics, before[0])
    assert torch.equal(points, before[1])
