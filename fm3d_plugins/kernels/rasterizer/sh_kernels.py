"""Spherical harmonics for the Numba kernels; the definition is `spherical_harmonics.py`."""

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.rasterizer.spherical_harmonics import C0, C1, C2, C3

C20, C21, C22 = C2
C30, C31, C32, C33, C34 = C3


@kernel
def evaluate_basis(degree, direction, basis):
    """Write the (degree + 1)^2 basis values at a unit direction to `basis`."""
    x, y, z = direction
    basis[0] = C0
    if degree >= 1:
        basis[1] = -C1 * y
        basis[2] = C1 * z
        basis[3] = -C1 * x
    if degree >= 2:
        basis[4] = C20 * x * y
        basis[5] = -C20 * y * z
        basis[6] = C21 * (3.0 * z * z - 1.0)
        basis[7] = -C20 * x * z
        basis[8] = C22 * (x * x - y * y)
    if degree >= 3:
        basis[9] = -C30 * y * (3.0 * x * x - y * y)
        basis[10] = C31 * x * y * z
        basis[11] = -C32 * y * (5.0 * z * z - 1.0)
        basis[12] = C33 * z * (5.0 * z * z - 3.0)
        basis[13] = -C32 * x * (5.0 * z * z - 1.0)
        basis[14] = C34 * z * (x * x - y * y)
        basis[15] = -C30 * x * (x * x - 3.0 * y * y)


@kernel
def pull_back_basis(degree, direction, gradient):
    """The gradient with respect to (x, y, z) of sum(gradient * basis)."""
    x, y, z = direction
    g = gradient
    dx = dy = dz = 0.0
    if degree >= 1:
        dx -= C1 * g[3]
        dy -= C1 * g[1]
        dz += C1 * g[2]
    if degree >= 2:
        dx += C20 * (y * g[4] - z * g[7]) + 2.0 * C22 * x * g[8]
        dy += C20 * (x * g[4] - z * g[5]) - 2.0 * C22 * y * g[8]
        dz += 6.0 * C21 * z * g[6] - C20 * (y * g[5] + x * g[7])
    if degree >= 3:
        xx, yy, zz = x * x, y * y, z * z
        dx += -6.0 * C30 * x * y * g[9] + C31 * y * z * g[10] - C32 * (5.0 * zz - 1.0) * g[13]
        dx += 2.0 * C34 * x * z * g[14] - 3.0 * C30 * (xx - yy) * g[15]
        dy += -3.0 * C30 * (xx - yy) * g[9] + C31 * x * z * g[10] - C32 * (5.0 * zz - 1.0) * g[11]
        dy += -2.0 * C34 * y * z * g[14] + 6.0 * C30 * x * y * g[15]
        dz += C31 * x * y * g[10] - 10.0 * C32 * z * (y * g[11] + x * g[13])
        dz += C33 * (15.0 * zz - 3.0) * g[12] + C34 * (xx - yy) * g[14]
    return dx, dy, dz
