"""Cameras as nine numbers."""

import math

import pytest
import torch

from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.poses import se3_exp
from fm3d_plugins.vggt.pose_encoding import decode, encode


def test_decoding_and_encoding_match_golden_values(shared):
    from safetensors.torch import load_file

    golden = load_file(shared / "golden" / "vggt_fn_geometry.safetensors")
    camera_from_world, intrinsics = decode(golden["pose_enc"], (392, 518))
    torch.testing.assert_close(camera_from_world[..., :3, :], golden["pose_extrinsics"])
    torch.testing.assert_close(intrinsics, golden["pose_intrinsics"])
    again = encode(camera_from_world, intrinsics, (392, 518))
    torch.testing.assert_close(again, golden["pose_enc_roundtrip"], atol=1e-5, rtol=0)


def test_quaternions_match_golden_values_at_half_turns(shared):
    from safetensors.torch import load_file

    golden = load_file(shared / "golden" / "vggt_fn_geometry.safetensors")
    quaternions = golden["quat_in"]
    encoding = torch.zeros(len(quaternions), 9)
    encoding[:, 3:7], encoding[:, 7:] = quaternions, 1.0
    camera_from_world, intrinsics = decode(encoding, (10, 10))
    torch.testing.assert_close(camera_from_world[:, :3, :3], golden["quat_mat"], atol=1e-5, rtol=0)
    ours = encode(camera_from_world, intrinsics, (10, 10))[:, 3:7]
    # Where w = 0 both signs are the same rotation.
    same_sign = (ours * golden["quat_out"]).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(ours * same_sign, golden["quat_out"], atol=1e-5, rtol=0)
    assert (ours[:, 3] >= 0).all()


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_encoding_then_decoding_gives_back_the_camera(batch):
    torch.manual_seed(0)
    camera_from_world = se3_exp(torch.randn(*batch, 6, dtype=torch.float64))
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(*batch, 1, 1)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = 300.0, 320.0
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = 100.0, 70.0
    encoding = encode(camera_from_world, intrinsics, (140, 200))
    decoded = decode(encoding, (140, 200))
    torch.testing.assert_close(decoded[0], camera_from_world)
    torch.testing.assert_close(decoded[1], intrinsics)


def test_vertical_field_of_view_comes_first_and_spans_the_image():
    """Truth: at 90 degrees across and 60 upwards, rays (1, tan 30, 1) end at the corner."""
    encoding = torch.tensor([0, 0, 0, 0, 0, 0, 1, math.pi / 3, math.pi / 2], dtype=torch.float64)
    _, intrinsics = decode(encoding, (100, 200))
    ray = torch.tensor([[1.0, math.tan(math.pi / 6), 1.0]], dtype=torch.float64)
    corner = torch.tensor([[200.0, 100.0]], dtype=torch.float64)
    torch.testing.assert_close(project(ray, intrinsics), corner)


def test_quaternion_has_its_scalar_last_and_any_length():
    """Truth: (0, 0, s, s) is a quarter turn about z, which takes x to y."""
    encoding = torch.tensor([1.0, 2.0, 3.0, 0, 0, 5.0, 5.0, 1, 1])
    camera_from_world, _ = decode(encoding, (10, 10))
    point = camera_from_world @ torch.tensor([1.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(point, torch.tensor([1.0, 3.0, 3.0, 1.0]))
