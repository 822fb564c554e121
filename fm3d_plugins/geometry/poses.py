"""Rigid and similarity transforms, named `b_from_a`: they map points of frame a into frame b.

Such names cancel: `camera2_from_world @ world_from_camera1` is `camera2_from_camera1`.
Tangent vectors of SE(3) and Sim(3) hold the translational part first.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def pose_from_rotation_translation(
    rotation: Float[Tensor, "*batch 3 3"],
    translation: Float[Tensor, "*batch 3"],
) -> Float[Tensor, "*batch 4 4"]:
    """Homogeneous matrix [[rotation, translation], [0, 1]]."""
    top = torch.cat([rotation, translation.unsqueeze(-1)], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def invert(b_from_a: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """`a_from_b` of a rigid transform, by transposing the rotation: exact, never singular.

    A matrix that holds a scale or shear needs `torch.linalg.inv`.
    """
    rotation = b_from_a[..., :3, :3].transpose(-1, -2)
    translation = -(rotation @ b_from_a[..., :3, 3:]).squeeze(-1)
    return pose_from_rotation_translation(rotation, translation)


def transform_points(
    b_from_a: Float[Tensor, "*batch 4 4"],
    points_a: Float[Tensor, "*batch point 3"],
) -> Float[Tensor, "*batch point 3"]:
    """Points of frame a in frame b; any affine matrix."""
    linear, translation = b_from_a[..., :3, :3], b_from_a[..., None, :3, 3]
    return points_a @ linear.transpose(-1, -2) + translation


def skew(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Cross-product matrix: `skew(a) @ b` is a × b."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def rotation_from_quaternion_wxyz(
    quaternion_wxyz: Float[Tensor, "*batch 4"],
) -> Float[Tensor, "*batch 3 3"]:
    """Rotation of a quaternion with its scalar first; any length but zero (which gives nan)."""
    w, x, y, z = (quaternion_wxyz / quaternion_wxyz.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def quaternion_wxyz_from_rotation(
    rotation: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion of a rotation, scalar first and w >= 0.

    Accurate for every angle: with q the quaternion, R determines the matrix 4 q qᵀ, of which the
    row with the largest diagonal entry (at least 1) is normalised. Differentiable except where
    two rows tie at w = 0, where the sign of q is arbitrary.
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (
        row.unbind(-1) for row in rotation.unbind(-2)
    )
    outer = [
        1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01,
        m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20,
        m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m21 + m12,
        m10 - m01, m02 + m20, m21 + m12, 1 - m00 - m11 + m22,
    ]  # fmt: skip
    rows = torch.stack(outer, dim=-1).unflatten(-1, (4, 4))
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    row = rows.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = normalize(row, dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def rotation_from_6d(six: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation whose first two columns are the Gram-Schmidt result of two 3-vectors.

    Zhou et al. 2019, "On the Continuity of Rotation Representations", equation 15. Defined
    unless the two vectors are parallel.
    """
    first = normalize(six[..., :3], dim=-1)
    second = six[..., 3:] - (first * six[..., 3:]).sum(-1, keepdim=True) * first
    second = normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


def nearest_rotation(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation R that maximises trace(Rᵀ M), never a reflection.

    The nearest one in the Frobenius norm; of a sum of rotations it is their chordal mean
    (Hartley et al. 2013). Where M has rank 1 or 0 several are equally near and one is returned.
    Gradients are not finite where singular values are equal.
    """
    u, _, vh = torch.linalg.svd(matrix)
    sign = torch.linalg.det(u @ vh).sign()
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    return (u * flip.unsqueeze(-2)) @ vh


def rotation_angle_degrees(
    rotation_a: Float[Tensor, "*batch 3 3"],
    rotation_b: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch"]:
    """Angle in [0, 180] degrees of the turn from one rotation to the other.

    The arc tangent of sine and cosine keeps small angles accurate to rounding, where the usual
    arc cosine of the trace loses half of the digits.
    """
    relative = rotation_a.transpose(-1, -2) @ rotation_b
    twice_sine = (relative - relative.transpose(-1, -2)).norm(dim=(-2, -1)) / 2**0.5
    trace = relative.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.rad2deg(torch.atan2(twice_sine, trace - 1))


def so3_exp(rotation_vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation by |v| radians about v (Rodrigues), exact and with a finite gradient at zero."""
    angle = rotation_vector.norm(dim=-1)[..., None, None]
    generator = skew(rotation_vector)
    sine_over_angle = torch.sinc(angle / torch.pi)
    # (1 - cos a) / a² without its cancellation near zero.
    versine_over_square = torch.sinc(angle / (2 * torch.pi)).square() / 2
    identity = torch.eye(3, dtype=generator.dtype, device=generator.device)
    return identity + sine_over_angle * generator + versine_over_square * generator @ generator


def so3_log(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotation vector in radians, length at most pi; accurate near 0 and near pi.

    At pi exactly the sign of the axis is arbitrary.
    """
    quaternion = quaternion_wxyz_from_rotation(rotation)
    vector = quaternion[..., 1:]
    half_angle = torch.atan2(vector.norm(dim=-1, keepdim=True), quaternion[..., :1])
    return 2 * vector / torch.sinc(half_angle / torch.pi)


def se3_exp(tangent: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """Rigid transform of a twist (translational part, rotation vector in radians)."""
    log_scale = torch.zeros_like(tangent[..., :1])
    return sim3_exp(torch.cat([tangent, log_scale], dim=-1))


def sim3_exp(tangent: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 4 4"]:
    """Similarity [[s R, t], [0, 1]] of (translational part, rotation vector, log of the scale)."""
    rotation_vector, log_scale = tangent[..., 3:6], tangent[..., 6]
    jacobian = _translation_jacobian(rotation_vector, log_scale)
    translation = (jacobian @ tangent[..., :3, None]).squeeze(-1)
    scaled_rotation = log_scale.exp()[..., None, None] * so3_exp(rotation_vector)
    return pose_from_rotation_translation(scaled_rotation, translation)


def sim3_log(b_from_a: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 7"]:
    """Tangent vector of a similarity [[s R, t], [0, 1]] with s > 0, inverse of `sim3_exp`."""
    scaled_rotation = b_from_a[..., :3, :3]
    log_scale = torch.linalg.det(scaled_rotation).log() / 3
    rotation_vector = so3_log(scaled_rotation / log_scale.exp()[..., None, None])
    jacobian = _translation_jacobian(rotation_vector, log_scale)
    translation = torch.linalg.solve(jacobian, b_from_a[..., :3, 3])
    return torch.cat([translation, rotation_vector, log_scale.unsqueeze(-1)], dim=-1)


def _translation_jacobian(
    rotation_vector: Float[Tensor, "*batch 3"], log_scale: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """W = ∫₀¹ exp(u (λ I + [φ]×)) du, which turns a tangent's translational part into t.

    It is the upper right block of exp [[G, I], [0, 0]] (Van Loan 1978), which the matrix
    exponential computes to rounding for every angle and scale: the closed form divides zero by
    zero in three ways.
    """
    identity = torch.eye(3, dtype=rotation_vector.dtype, device=rotation_vector.device)
    generator = skew(rotation_vector) + log_scale[..., None, None] * identity
    top = torch.cat([generator, identity.expand_as(generator)], dim=-1)
    block = torch.cat([top, torch.zeros_like(top)], dim=-2)
    return torch.linalg.matrix_exp(block)[..., :3, 3:]
