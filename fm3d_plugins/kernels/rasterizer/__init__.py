"""Rasterise 3D gaussians: gsplat on CUDA, Numba on a CPU, plain torch as the definition."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.kernels.rasterizer.definitions import (
    MAX_SH_DEGREE,
    Camera,
    Gaussians,
    RasterizedView,
)
from fm3d_plugins.kernels.shapes import check_shapes

__all__ = ["RasterizedView", "rasterize"]


def rasterize(
    means: Float[Tensor, "num_gaussians 3"],
    quaternions_wxyz: Float[Tensor, "num_gaussians 4"],
    scales: Float[Tensor, "num_gaussians 3"],
    opacities: Float[Tensor, " num_gaussians"],
    sh_coefficients: Float[Tensor, "num_gaussians num_coefficients 3"],
    camera_from_world: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    *,
    width: int,
    height: int,
    sh_degree: int,
    background: Float[Tensor, "3"],
    sh_rest: Float[Tensor, "num_gaussians num_rest 3"] | None = None,
    near: float = 0.01,
    far: float = 1e10,
    antialiased: bool = False,
    absolute_gradient: bool = False,
    backend: Literal["auto", "torch", "numba", "gsplat"] = "auto",
) -> RasterizedView:
    """Render one view of 3D gaussians, differentiable in every tensor.

    Pixel centres are at +0.5. A gaussian with non-finite parameters is invisible (with gsplat: do
    not rely on it); bands that are not active do not count. The gradient with respect to
    `camera_from_world` covers its top three rows, also through the viewing direction.

    Args:
        means: Centres. World frame, scene units.
        quaternions_wxyz: Rotations world from gaussian; normalised here.
        scales: Standard deviations along the gaussian's axes, scene units, positive.
        opacities: In [0, 1].
        sh_coefficients: Spherical harmonics as in 3DGS: colour = max(SH(direction) + 1/2, 0).
            May hold more bands than are active.
        camera_from_world: Rigid motion to the OpenCV camera.
        intrinsics: In pixels; skew is ignored.
        sh_degree: Highest active band, 0 to 3.
        sh_rest: Coefficients that follow `sh_coefficients`, where they are kept apart.
        background: RGB behind everything.
        near: Gaussians whose centre is nearer than this z-depth are left out.
        far: Likewise, farther.
        antialiased: Lower the opacity of gaussians that the 0.3 pixel low-pass filter widens, so
            that they keep their integral (Mip-Splatting).
        absolute_gradient: Whether the backward pass fills the view's `absolute_gradient`.
        backend: "auto" is gsplat for CUDA tensors and numba otherwise. "numba" takes float32.

    Raises:
        ValueError: Sizes, degree or backend that cannot be used.
    """
    chosen = backend
    if backend == "auto":
        chosen = "gsplat" if means.is_cuda else "numba"
    rest = means.new_zeros(len(means), 0, 3) if sh_rest is None else sh_rest
    gaussians = Gaussians(means, quaternions_wxyz, scales, opacities, sh_coefficients, rest)
    camera = Camera(
        camera_from_world, intrinsics, background, width, height, near, far, sh_degree, antialiased
    )
    _check(gaussians, camera, chosen)
    absolute = means.new_zeros(len(means), 2) if absolute_gradient else None
    return _renderer(chosen)(gaussians, camera, absolute)


def _renderer(backend: str) -> Callable[[Gaussians, Camera, Tensor | None], RasterizedView]:
    """The backend's function, imported on first use."""
    if backend == "numba":
        from fm3d_plugins.kernels.rasterizer.numba_backend import rasterize_numba

        return rasterize_numba
    if backend == "gsplat":
        from fm3d_plugins.kernels.rasterizer.gsplat_backend import rasterize_gsplat

        return rasterize_gsplat
    from fm3d_plugins.kernels.rasterizer.torch_reference import rasterize_torch

    return rasterize_torch


def _check(gaussians: Gaussians, camera: Camera, backend: str) -> None:
    means = gaussians.means
    check_shapes(
        "The rasteriser",
        {
            "means": (means, "gaussian 3"),
            "rotations": (gaussians.quaternions_wxyz, "gaussian 4"),
            "scales": (gaussians.scales, "gaussian 3"),
            "opacities": (gaussians.opacities, "gaussian"),
            "colours": (gaussians.sh_coefficients, "gaussian coefficient 3"),
            "further colours": (gaussians.sh_rest, "gaussian further 3"),
            "camera_from_world": (camera.camera_from_world, "4 4"),
            "intrinsics": (camera.intrinsics, "3 3"),
            "background": (camera.background, "3"),
        },
    )
    if camera.width < 1 or camera.height < 1:
        raise ValueError(
            f"The image is {camera.width} x {camera.height} pixels. Expected at least 1 x 1. "
            "Check the camera's width and height."
        )
    if not 0 < camera.near < camera.far:
        raise ValueError(
            f"near is {camera.near} and far is {camera.far}. Expected 0 < near < far. "
            "Correct the clip planes."
        )
    degree = camera.sh_degree
    num_coefficients = gaussians.sh_coefficients.shape[1] + gaussians.sh_rest.shape[1]
    if not 0 <= degree <= MAX_SH_DEGREE or num_coefficients < (degree + 1) ** 2:
        raise ValueError(
            f"sh_degree is {degree} and there are {num_coefficients} coefficients per colour. "
            f"Expected a degree of 0 to {MAX_SH_DEGREE} and at least (degree + 1)^2 coefficients. "
            "Lower the degree."
        )
    if backend == "numba" and (means.is_cuda or means.dtype != torch.float32):
        raise ValueError(
            f"The numba backend got {means.dtype} tensors on {means.device}. It takes float32 on "
            "the CPU. Use backend='torch' for other types, 'auto' for other devices."
        )
    if backend == "gsplat" and not means.is_cuda:
        raise ValueError(
            f"The gsplat backend got tensors on {means.device}. It takes CUDA tensors. "
            "Use backend='auto'."
        )
