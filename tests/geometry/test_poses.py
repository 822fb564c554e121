"""Rigid and similarity transforms, rotation representations, exponential and logarithm."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from fm3d_plugins.geometry.poses import (
    invert,
    nearest_rotation,
    pose_from_rotation_translation,
    quaternion_wxyz_from_rotation,
    rotation_angle_degrees,
    rotation_from_6d,
    rotation_from_quaternion_wxyz,
    se3_exp,
    sim3_exp,
    sim3_log,
    skew,
    so3_exp,
    so3_log,
    transform_points,
)

BATCHES = [(), (1,), (2, 3)]
ANGLES = [0.0, 1e-12, 1e-7, 1e-3, 0.5, 2.0, 3.0, math.pi - 1e-7, math.pi]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def randn(*shape, generator, dtype=torch.float64):
    return torch.randn(shape, generator=generator, dtype=dtype)


def random_rotation(batch, generator):
    return rotation_from_quaternion_wxyz(randn(*batch, 4, generator=generator))


def axes(generator, num=20):
    """Random axes, the coordinate axes and diagonals, where implementations like to branch."""
    fixed = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [1, -1, 0], [0, 1, -1]])
    both = torch.cat([fixed.double(), randn(num, 3, generator=generator)])
    return both / both.norm(dim=-1, keepdim=True)


def test_quarter_turn_about_z_takes_x_to_y():
    rotation = so3_exp(torch.tensor([0.0, 0, math.pi / 2], dtype=torch.float64))
    expected = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(rotation, expected)
    quaternion = quaternion_wxyz_from_rotation(expected)
    half = math.sqrt(0.5)
    torch.testing.assert_close(quaternion, torch.tensor([half, 0, 0, half], dtype=torch.float64))


def test_skew_is_the_cross_product(generator):
    a, b = randn(2, 3, 3, generator=generator), randn(2, 3, 3, generator=generator)
    torch.testing.assert_close((skew(a) @ b.unsqueeze(-1)).squeeze(-1), torch.linalg.cross(a, b))


@pytest.mark.parametrize("batch", BATCHES)
def test_names_of_poses_cancel(batch, generator):
    """Truth: c_from_b @ b_from_a maps points as doing one after the other, inverses undo it."""
    b_from_a = se3_exp(randn(*batch, 6, generator=generator))
    c_from_b = se3_exp(randn(*batch, 6, generator=generator))
    points = randn(*batch, 5, 3, generator=generator)
    torch.testing.assert_close(
        transform_points(c_from_b @ b_from_a, points),
        transform_points(c_from_b, transform_points(b_from_a, points)),
    )
    torch.testing.assert_close(
        transform_points(invert(b_from_a), transform_points(b_from_a, points)), points
    )
    torch.testing.assert_close(invert(b_from_a), torch.linalg.inv(b_from_a))


def test_pose_keeps_its_parts(generator):
    rotation, translation = random_rotation((2,), generator), randn(2, 3, generator=generator)
    pose = pose_from_rotation_translation(rotation, translation)
    assert torch.equal(pose[:, :3, :3], rotation)
    assert torch.equal(pose[:, :3, 3], translation)
    assert torch.equal(pose[:, 3], torch.tensor([[0.0, 0, 0, 1]]).double().expand(2, 4))


@pytest.mark.parametrize("batch", BATCHES)
def test_quaternion_round_trip(batch, generator):
    quaternion = randn(*batch, 4, generator=generator)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    recovered = quaternion_wxyz_from_rotation(rotation_from_quaternion_wxyz(3 * quaternion))
    assert bool((recovered[..., 0] >= 0).all())
    sign = torch.where(quaternion[..., :1] < 0, -1.0, 1.0)
    torch.testing.assert_close(recovered, sign * quaternion)


@pytest.mark.parametrize("angle", ANGLES)
def test_quaternion_is_accurate_for_every_angle(angle, generator):
    """Truth: (cos a/2, sin a/2 axis); at half turns the sign is free, so compare rotations."""
    axis = axes(generator)
    half = torch.tensor(angle / 2, dtype=torch.float64)
    expected = torch.cat([half.cos().expand(len(axis), 1), half.sin() * axis], dim=-1)
    rotation = so3_exp(angle * axis)
    recovered = quaternion_wxyz_from_rotation(rotation)
    torch.testing.assert_close(
        (recovered * expected).sum(-1).abs(), torch.ones(len(axis)).double(), atol=1e-14, rtol=0
    )
    torch.testing.assert_close(
        rotation_from_quaternion_wxyz(recovered), rotation, atol=1e-14, rtol=0
    )


def test_quaternions_agree_with_golden_values(shared):
    """Golden: published VGGT conversion (scalar last), with half turns and negative scalars."""
    from safetensors.torch import load_file

    golden = load_file(shared / "golden" / "vggt_fn_geometry.safetensors")
    wxyz = golden["quat_in"].roll(1, dims=-1)
    rotation = rotation_from_quaternion_wxyz(wxyz)
    torch.testing.assert_close(rotation, golden["quat_mat"], atol=1e-6, rtol=0)
    recovered = quaternion_wxyz_from_rotation(rotation).roll(-1, dims=-1)
    expected = golden["quat_out"]
    # The two agree up to the sign, which is free where the scalar is zero.
    torch.testing.assert_close(
        (recovered * expected).sum(-1).abs(), torch.ones(len(expected)), atol=1e-5, rtol=0
    )
    assert bool((recovered[..., 3] >= 0).all())


@pytest.mark.parametrize("batch", BATCHES)
def test_6d_round_trip_and_orthonormality(batch, generator):
    rotation = random_rotation(batch, generator)
    torch.testing.assert_close(rotation_from_6d(rotation[..., :2].mT.flatten(-2)), rotation)
    arbitrary = rotation_from_6d(randn(*batch, 6, generator=generator))
    identity = torch.eye(3, dtype=torch.float64).expand_as(arbitrary)
    torch.testing.assert_close(arbitrary @ arbitrary.transpose(-1, -2), identity)
    assert bool((torch.linalg.det(arbitrary) > 0).all())


def test_6d_keeps_the_first_column_direction():
    """Truth: Gram-Schmidt of (2, 0, 0) and (5, 3, 0) is the identity."""
    six = torch.tensor([2.0, 0, 0, 5, 3, 0])
    torch.testing.assert_close(rotation_from_6d(six), torch.eye(3))


@pytest.mark.parametrize("angle", ANGLES)
def test_so3_log_inverts_exp_for_every_angle(angle, generator):
    axis = axes(generator)
    vector = angle * axis
    recovered = so3_log(so3_exp(vector))
    if angle == math.pi:  # v and -v are the same half turn
        recovered = recovered * (recovered * vector).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(recovered, vector, atol=1e-14, rtol=1e-13)


def test_so3_exp_agrees_with_the_matrix_exponential(generator):
    """Oracle: exp of the cross-product matrix."""
    vector = 3 * randn(2, 4, 3, generator=generator)
    torch.testing.assert_close(so3_exp(vector), torch.linalg.matrix_exp(skew(vector)))


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-4, 1.0])
def test_exponentials_and_logarithms_have_right_gradients(scale, generator):
    """Finite differences, at zero too, where naive formulas give nan."""
    vector = (scale * randn(2, 7, generator=generator)).requires_grad_()
    assert gradcheck(so3_exp, (vector[:, :3],))
    assert gradcheck(so3_log, (so3_exp(vector[:, :3]),))
    assert gradcheck(se3_exp, (vector[:, :6],))
    assert gradcheck(sim3_exp, (vector,))
    assert gradcheck(sim3_log, (sim3_exp(vector),))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-3, 0.3, 1.0])
def test_sim3_log_inverts_exp(batch, scale, generator):
    tangent = scale * randn(*batch, 7, generator=generator)
    tangent[..., 3:6] = tangent[..., 3:6].clamp(-1.7, 1.7)  # |v| < pi, where log is unique
    torch.testing.assert_close(sim3_log(sim3_exp(tangent)), tangent, atol=1e-13, rtol=1e-7)


def test_sim3_exp_agrees_with_the_matrix_exponential(generator):
    """Oracle: exp of the 4x4 generator [[λ I + [φ]×, ρ], [0, 0]]."""
    tangent = randn(5, 7, generator=generator)
    generator_matrix = torch.zeros(5, 4, 4, dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    generator_matrix[:, :3, :3] = skew(tangent[:, 3:6]) + tangent[:, 6, None, None] * identity
    generator_matrix[:, :3, 3] = tangent[:, :3]
    torch.testing.assert_close(sim3_exp(tangent), torch.linalg.matrix_exp(generator_matrix))


def test_pure_translation_and_pure_scale():
    """Truth: no rotation moves by the vector itself; log scale λ moves by (e^λ - 1) / λ of it."""
    moved = se3_exp(torch.tensor([1.0, 2, 3, 0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(moved[:3, 3], torch.tensor([1.0, 2, 3], dtype=torch.float64))
    scaled = sim3_exp(torch.tensor([1.0, 0, 0, 0, 0, 0, math.log(3)], dtype=torch.float64))
    torch.testing.assert_close(scaled[0, 0].item(), 3.0)
    torch.testing.assert_close(scaled[0, 3].item(), 2 / math.log(3))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 30.0, 90.0, 179.9999, 180.0])
def test_rotation_angle_is_accurate_for_every_angle(angle, generator):
    rotation = random_rotation((26,), generator)
    turned = rotation @ so3_exp(math.radians(angle) * axes(generator))
    degrees = rotation_angle_degrees(rotation, turned)
    torch.testing.assert_close(degrees, torch.full_like(degrees, angle), atol=1e-13, rtol=1e-13)


def test_float32_rotation_angle_of_equal_rotations_is_tiny(generator):
    """The arc cosine form gives up to 0.03 degrees here, float32 rounding itself 1e-5."""
    rotation = random_rotation((1000,), generator).float()
    assert float(rotation_angle_degrees(rotation, rotation.clone()).max()) < 2e-5


def test_nearest_rotation_fixes_scale_and_reflection(generator):
    rotation = random_rotation((2, 3), generator)
    torch.testing.assert_close(nearest_rotation(5 * rotation), rotation)
    mirrored = nearest_rotation(torch.diag(torch.tensor([3.0, 2, -1])))
    # Truth: of all rotations, diag(1, 1, 1) has the largest trace with diag(3, 2, -1): 4.
    torch.testing.assert_close(mirrored, torch.eye(3))


def test_chordal_mean_of_opposite_turns_is_the_middle(generator):
    middle = random_rotation((), generator)
    turn = 0.4 * axes(generator)[7]
    both = middle @ so3_exp(turn) + middle @ so3_exp(-turn)
    torch.testing.assert_close(nearest_rotation(both), middle)


def test_float32_stays_float32(generator):
    tangent = randn(4, 7, generator=generator, dtype=torch.float32)
    for result in (
        sim3_exp(tangent),
        se3_exp(tangent[:, :6]),
        so3_log(so3_exp(tangent[:, :3])),
    ):
        assert result.dtype == torch.float32
        assert bool(result.isfinite().all())
