"""Depth where a pixel's light is absorbed: planes, layers, and a naive loop."""

import pytest
import torch

from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.poses import quaternion_wxyz_from_rotation, so3_exp
from fm3d_plugins.kernels.rasterizer.definitions import MIN_ALPHA, Camera, Gaussians
from fm3d_plugins.kernels.rasterizer.surface_depth import ray_measures, surface_depth
from fm3d_plugins.kernels.rasterizer.torch_reference import _project

WIDTH, HEIGHT = 40, 30
INTRINSICS = intrinsics_matrix(*torch.tensor([40.0, 44.0, 19.0, 16.0]))


def depth_of(means, quaternions, scales, opacities, pose=None):
    pose = torch.eye(4) if pose is None else pose
    size = {"width": WIDTH, "height": HEIGHT}
    return surface_depth(means, quaternions, scales, opacities, pose, INTRINSICS, **size)


def rays():
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return torch.stack([(x - 19) / 40, (y - 16) / 44, torch.ones_like(x)], dim=-1)


def test_a_flat_gaussian_has_the_depth_of_its_plane():
    """Truth: the ray d meets the plane n (p - m) = 0 at z = (n m) / (n d), d having z = 1."""
    turn = so3_exp(torch.tensor([[0.5, -0.7, 0.2]]))
    mean, normal = torch.tensor([[0.1, 0.2, 3.0]]), turn[0, :, 2]
    quaternion = quaternion_wxyz_from_rotation(turn)
    found = depth_of(mean, quaternion, torch.tensor([[3.0, 3, 1e-4]]), torch.tensor([0.99]))
    expected = float(normal @ mean[0]) / (rays() @ normal)
    assert float((found > 0).float().mean()) > 0.9
    torch.testing.assert_close(found[found > 0], expected[found > 0], rtol=1e-3, atol=0)


@pytest.mark.parametrize(("front", "expected"), [(0.25, 4.0), (0.35, 2.0)])
def test_the_surface_is_where_three_tenths_of_the_light_are_gone(front, expected):
    means = torch.tensor([[0.0, 0, 4], [0, 0, 2]])
    quaternions = torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4)
    scales = torch.tensor([[9.0, 9, 1e-3]]).expand(2, 3)
    found = depth_of(means, quaternions, scales, torch.tensor([0.9, front]))
    assert float(found[16, 19]) == pytest.approx(expected, abs=1e-4)


def test_where_light_passes_there_is_none():
    found = depth_of(
        torch.tensor([[0.0, 0, 4]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.tensor([[9.0, 9, 0.1]]),
        torch.tensor([0.25]),
    )
    assert not found.any()


def test_many_gaussians_are_those_of_a_naive_loop():
    generator = torch.Generator().manual_seed(5)
    count = 300
    means = torch.randn(count, 3, generator=generator) * torch.tensor([1.5, 1.2, 1.0])
    quaternions = torch.randn(count, 4, generator=generator)
    scales = torch.rand(count, 3, generator=generator) * 0.3 + 0.02
    opacities = torch.rand(count, generator=generator)
    pose = torch.eye(4)
    pose[:3, :3] = so3_exp(torch.tensor([0.2, -0.3, 0.1]))
    pose[2, 3] = 4
    found = depth_of(means, quaternions, scales, opacities, pose)

    none = torch.zeros(count, 1, 3)
    gaussians = Gaussians(means, quaternions, scales, opacities, none, none[:, :0])
    camera = Camera(pose, INTRINSICS, torch.zeros(3), WIDTH, HEIGHT, 0.01, 1e10, 0, False)
    splats, _ = _project(gaussians, camera, torch.arange(len(gaussians.means)))
    measures, order = ray_measures(gaussians, pose), splats.depths.argsort()
    expected = torch.zeros(HEIGHT, WIDTH)
    for row in range(0, HEIGHT, 3):
        for column in range(0, WIDTH, 3):
            dx, dy = (torch.tensor([column + 0.5, row + 0.5]) - splats.means2d[order]).unbind(-1)
            a, b, c = splats.conics[order].unbind(-1)
            alpha = splats.opacities[order] * torch.exp(
                -0.5 * (a * dx**2 + c * dy**2) - b * dx * dy
            )
            left = torch.cumprod(1 - torch.where(alpha >= MIN_ALPHA, alpha, 0.0), 0)
            reached = (left <= 0.7).nonzero().flatten()
            if len(reached):
                xx, xy, xz, yy, yz, zz, *along = measures[order[reached[0]]]
                inverse = torch.tensor([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]).double()
                d = rays()[row, column].double()
                expected[row, column] = d @ torch.stack(along) / (d @ inverse @ d)
    some = found[::3, ::3]
    assert float((some > 0).float().mean()) > 0.2
    torch.testing.assert_close(some, expected[::3, ::3], rtol=1e-4, atol=1e-4)
