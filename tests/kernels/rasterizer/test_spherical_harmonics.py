"""The basis against the textbook definition with associated Legendre functions."""

import math
from functools import partial

import pytest
import torch
from scipy.special import lpmv

from fm3d_plugins.geometry.poses import so3_exp
from fm3d_plugins.kernels.rasterizer.spherical_harmonics import rotated_sh, sh_basis, sh_colors


def _textbook(degree, order, directions):
    """Real spherical harmonic; scipy's Legendre functions carry the Condon-Shortley sign."""
    x, y, z = directions.unbind(-1)
    m = abs(order)
    factor = math.sqrt(
        (2 * degree + 1) / (4 * math.pi) * math.factorial(degree - m) / math.factorial(degree + m)
    )
    polar = torch.as_tensor(lpmv(m, degree, z.numpy()))
    azimuth = torch.atan2(y, x)
    if order == 0:
        return factor * polar
    wave = torch.cos(m * azimuth) if order > 0 else torch.sin(m * azimuth)
    return math.sqrt(2) * factor * polar * wave


@pytest.mark.parametrize("batch", [(), (1,), (2, 50)])
def test_basis_is_that_of_the_textbook(batch):
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(*batch, 3, dtype=torch.float64), dim=-1)
    expected = [_textbook(n, m, directions) for n in range(4) for m in range(-n, n + 1)]
    torch.testing.assert_close(sh_basis(directions, 3), torch.stack(expected, dim=-1))


def test_degree_zero_is_one_colour_from_everywhere_and_cut_off_at_black():
    coefficients = torch.tensor([[[1.0, -3.0, 0.0]]]).expand(5, 1, 3)
    directions = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    expected = torch.tensor([0.5 + 0.28209479, 0.0, 0.5]).expand(5, 3)
    torch.testing.assert_close(sh_colors(coefficients, directions, 0), expected)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_turned_coefficients_say_the_same_of_turned_directions(degree):
    """f'(R d) = f(d), for every d."""
    generator = torch.Generator().manual_seed(degree)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    coefficients, turn = draw(2, 5, (degree + 1) ** 2, 3), so3_exp(draw(3))
    directions = torch.nn.functional.normalize(draw(2, 5, 3), dim=-1)
    before = sh_basis(directions, degree)[..., None] * coefficients
    turned = rotated_sh(coefficients, turn)
    after = sh_basis(directions @ turn.T, degree)[..., None] * turned
    torch.testing.assert_close(after.sum(-2), before.sum(-2))
    torch.testing.assert_close(rotated_sh(turned, turn.T), coefficients)
