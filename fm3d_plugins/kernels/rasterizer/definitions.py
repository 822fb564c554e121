"""Constants, inputs and result of every rasteriser backend."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_ALPHA = 0.999
"""Largest opacity of one gaussian in one pixel, as in gsplat 1.4."""

MIN_ALPHA = 1.0 / 255.0
"""A gaussian with less opacity than this in a pixel is not composited there."""

MIN_TRANSMITTANCE = 1e-4
"""A pixel is finished before the gaussian that would leave this transmittance or less."""

LOW_PASS_VARIANCE = 0.3
"""Added to both diagonal entries of every projected covariance, square pixels."""

FRUSTUM_MARGIN = 0.3
"""The projection's Jacobian is taken at most this share of the half image outside the image."""

RADIUS_SIGMAS = 3.0
"""Radii are reported at this many standard deviations of the longer axis."""

MAX_SH_DEGREE = 3
TILE_SIZE = 16


def camera_center(camera_from_world: Float[Tensor, "4 4"]) -> Float[Tensor, "3"]:
    """The camera's position in the world. Not -R^T t, whose gradient differs off the rotations."""
    # Without a check for singular matrices, for which a GPU would have to be waited for.
    return -torch.linalg.solve_ex(camera_from_world[:3, :3], camera_from_world[:3, 3]).result


def with_intrinsics_gradient(
    camera_from_world: Float[Tensor, "4 4"], intrinsics: Float[Tensor, "3 3"]
) -> Float[Tensor, "4 4"]:
    """The same matrix, through which gradients also reach focal lengths and principal point.

    For a rasteriser that differentiates the pose but not the intrinsics K: a matrix A with
    K = K0 A, K0 the value of K, may as well act on the camera's coordinates.
    """
    fixed = intrinsics.detach()
    stretch = torch.eye(4, dtype=fixed.dtype, device=fixed.device)
    stretch[0, 0] = intrinsics[0, 0] / fixed[0, 0]
    stretch[1, 1] = intrinsics[1, 1] / fixed[1, 1]
    stretch[0, 2] = (intrinsics[0, 2] - fixed[0, 2]) / fixed[0, 0]
    stretch[1, 2] = (intrinsics[1, 2] - fixed[1, 2]) / fixed[1, 1]
    return stretch @ camera_from_world


@dataclass(frozen=True)
class Gaussians:
    """What is rendered; fields as the arguments of `rasterize`."""

    means: Float[Tensor, "num_gaussians 3"]
    quaternions_wxyz: Float[Tensor, "num_gaussians 4"]
    scales: Float[Tensor, "num_gaussians 3"]
    opacities: Float[Tensor, " num_gaussians"]
    sh_coefficients: Float[Tensor, "num_gaussians num_coefficients 3"]
    sh_rest: Float[Tensor, "num_gaussians num_rest 3"]

    def values(self) -> tuple[Tensor, ...]:
        """The fields in order; one row per gaussian each."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def chosen(self, index: Int[Tensor, " num_chosen"]) -> "Gaussians":
        """Some of them."""
        return Gaussians(*(values[index] for values in self.values()))

    def joined_sh(self) -> Float[Tensor, "num_gaussians num_all 3"]:
        """The coefficients in one part."""
        return torch.cat([self.sh_coefficients, self.sh_rest], dim=1)


@dataclass(frozen=True)
class Camera:
    """How it is seen; fields as the arguments of `rasterize`."""

    camera_from_world: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    background: Float[Tensor, "3"]
    width: int
    height: int
    near: float
    far: float
    sh_degree: int
    antialiased: bool


@dataclass(frozen=True)
class RasterizedView:
    """One rendered view, and what density control reads from it."""

    rgb: Float[Tensor, "height width 3"]
    """Composited over the background."""

    alpha: Float[Tensor, "height width 1"]
    """1 - remaining transmittance."""

    depth: Float[Tensor, "height width 1"]
    """Expected z-depth sum(w z) / sum(w); 0 where alpha is 0."""

    means2d: Float[Tensor, "num_gaussians 2"]
    """Projected means, pixels. Part of the graph: after `means2d.retain_grad()` and the backward
    pass, `means2d.grad` is the gradient with respect to pixel positions."""

    radii: Int[Tensor, " num_gaussians"]
    """Three standard deviations of the longer axis, pixels, rounded up; 0 where invisible."""

    absolute_gradient: Float[Tensor, "num_gaussians 2"] | None = None
    """If it was asked for, after the backward pass: sums over all pixels of the absolute gradients
    with respect to pixel positions, which do not cancel (Ye et al. 2024, AbsGS)."""
