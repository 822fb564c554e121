"""Real spherical harmonics up to degree 3, in the order and with the signs of 3DGS."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# sqrt(1 / 4 pi), and the usual normalisations of the Cartesian forms in each band.
C0 = 0.28209479177387814
C1 = 0.4886025119029199
C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
C3 = (
    0.5900435899266435,
    2.890611442640554,
    0.4570457994644658,
    0.3731763325901154,
    1.445305721320277,
)


def sh_basis(
    directions: Float[Tensor, "*batch 3"], degree: int
) -> Float[Tensor, "*batch num_coefficients"]:
    """The (degree + 1)^2 basis functions at unit directions.

    Band l holds m = -l ... l. The sign (-1)^m of the Condon-Shortley phase is kept, as 3DGS does:
    band 1 is -y, z, -x.
    """
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, C0)]
    if degree >= 1:
        basis += [-C1 * y, C1 * z, -C1 * x]
    if degree >= 2:
        basis += [
            C2[0] * x * y,
            -C2[0] * y * z,
            C2[1] * (3.0 * z * z - 1.0),
            -C2[0] * x * z,
            C2[2] * (x * x - y * y),
        ]
    if degree >= 3:
        basis += [
            -C3[0] * y * (3.0 * x * x - y * y),
            C3[1] * x * y * z,
            -C3[2] * y * (5.0 * z * z - 1.0),
            C3[3] * z * (5.0 * z * z - 3.0),
            -C3[2] * x * (5.0 * z * z - 1.0),
            C3[4] * z * (x * x - y * y),
            -C3[0] * x * (x * x - 3.0 * y * y),
        ]
    return torch.stack(basis, dim=-1)


def sh_colors(
    coefficients: Float[Tensor, "*batch num_coefficients 3"],
    directions: Float[Tensor, "*batch 3"],
    degree: int,
) -> Float[Tensor, "*batch 3"]:
    """Colours max(SH(direction) + 1/2, 0) seen along unit directions; unused bands are ignored."""
    basis = sh_basis(directions, degree)
    active = coefficients[..., : basis.shape[-1], :]
    return torch.clamp_min((basis[..., None] * active).sum(-2) + 0.5, 0.0)


def rotated_sh(
    coefficients: Float[Tensor, "*batch num_coefficients channel"], rotation: Float[Tensor, "3 3"]
) -> Float[Tensor, "*batch num_coefficients channel"]:
    """Coefficients of the same function after space is turned: f'(R d) = f(d).

    Args:
        coefficients: Whole bands, in the order of `sh_basis`.
        rotation: R, without reflection.
    """
    count = coefficients.shape[-2]
    degree = math.isqrt(count) - 1
    # More directions than a band has functions determine how they mix, to rounding.
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(4 * count, 3, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    turned = directions @ rotation.detach().cpu().double().T
    before, after = sh_basis(directions, degree), sh_basis(turned, degree)
    mixing = before.new_zeros(count, count)
    for band in range(degree + 1):
        rows = slice(band * band, (band + 1) ** 2)
        mixing[rows, rows] = torch.linalg.lstsq(after[:, rows], before[:, rows]).solution
    return mixing.to(coefficients) @ coefficients
