"""Equality of the pieces around the network with the published code's."""

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.backends.metrics import psnr
from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.geometry.trajectories import interpolate_cameras, nearest_neighbour_order
from fm3d_plugins.kernels.image_loss import ssim
from fm3d_plugins.lvsm.cameras import normalization


@pytest.fixture(scope="module")
def functions(shared):
    return load_file(shared / "golden" / "lvsm_functions.safetensors")


@pytest.mark.parametrize("scale", [1.0, 1.35])
def test_normalized_cameras_are_the_published_ones(scale, functions, assert_near):
    """The published loader takes all cameras of a sample, so here all are context."""
    cameras = functions["pose_norm.c2w_in"]
    ours = normalization(cameras, scale).apply_to_pose(cameras)
    assert_near(ours, functions[f"pose_norm.c2w_out_scale{scale}"], share=1e-6)


def test_rays_and_posed_photos_are_the_published_ones(functions, assert_near):
    intrinsics = intrinsics_matrix(*functions["plucker.fxfycxcy"].unbind(-1))
    images = functions["plucker.image"]
    rays = plucker_maps(intrinsics, functions["plucker.c2w"], *images.shape[-2:])
    assert_near(rays, functions["plucker.default_o_cross_d__d"], share=1e-6)
    assert_near(rays[:, :, 3:], functions["plucker.ray_d"], share=1e-6)
    posed = torch.cat([2 * images - 1, rays], dim=2)
    assert_near(posed, functions["plucker.posed_image_9ch"], share=1e-6)
    origins = functions["plucker.ray_o"].movedim(2, -1)
    moments = torch.linalg.cross(origins, rays[:, :, 3:].movedim(2, -1)).movedim(-1, 2)
    assert_near(rays[:, :, :3], moments, share=1e-6)


def test_paths_between_cameras_are_the_published_ones(functions, assert_near):
    """Through the first three normalised cameras; their focal lengths stand at the joints."""
    keys = functions["pose_norm.c2w_out_scale1.35"][:3]
    intrinsics = functions["traj.K"][[0, 3, 7]]
    poses, lenses = interpolate_cameras(keys, intrinsics, 4)
    assert_near(poses[:, :3], functions["traj.poses_4_per_transition"], share=1e-6)
    assert_near(lenses, functions["traj.K"], share=1e-6)


def test_ordered_path_is_the_published_one(functions, assert_near):
    """The published code orders the poses but leaves intrinsics where they were."""
    given = [0, 2, 1]
    keys = functions["pose_norm.c2w_out_scale1.35"][given]
    intrinsics = functions["traj.K"][[0, 3, 7]][given]
    order = nearest_neighbour_order(keys)
    assert order.tolist() == [0, 2, 1]
    poses, _ = interpolate_cameras(keys[order], intrinsics[order], 3)
    expected = functions["traj_ordered.poses_3_per_transition_from_views_0_2_1"]
    assert_near(poses[:, :3], expected, share=1e-6)
    _, lenses = interpolate_cameras(keys[order], intrinsics, 3)
    assert_near(lenses, functions["traj_ordered.K"], share=1e-6)


def test_metrics_are_the_published_ones(functions):
    """To rounding in float32."""
    targets = functions["metrics.gt"].movedim(1, -1)
    rendered = functions["metrics.pred_unclamped"].movedim(1, -1)
    for index, (render, target) in enumerate(zip(rendered, targets, strict=True)):
        clamped = render.clamp(0, 1)
        for ours, name in (
            (psnr(clamped, target), "psnr"),
            (ssim(clamped, target, sample_covariance=True), "ssim_of_pred_clamped01"),
            (ssim(render, target, sample_covariance=True), "ssim_of_pred_unclamped"),
        ):
            expected = float(functions[f"metrics.{name}"][index])
            assert float(ours) == pytest.approx(expected, rel=1e-6), name
