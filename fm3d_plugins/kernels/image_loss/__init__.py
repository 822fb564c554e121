"""The loss of 3DGS between two images: fused Numba kernels on a CPU, torch elsewhere."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.kernels.image_loss.torch_reference import (
    WINDOW_SIZE,
    check_images,
    l1_ssim_torch,
    ssim,
)

__all__ = ["WINDOW_SIZE", "l1_ssim_loss", "ssim"]


def l1_ssim_loss(
    rendered: Float[Tensor, "height width 3"],
    target: Float[Tensor, "height width 3"],
    ssim_weight: float = 0.2,
    backend: Literal["auto", "torch", "numba"] = "auto",
) -> Float[Tensor, ""]:
    """(1 - w) mean |rendered - target| + w (1 - SSIM) of images in [0, 1] (3DGS, equation 7).

    Differentiable with respect to `rendered` only. SSIM is that of `ssim`.

    Args:
        ssim_weight: w, in [0, 1].
        backend: "auto" is numba for float32 images on the CPU and torch otherwise.

    Raises:
        ValueError: The images are smaller than 11 x 11, differ in size, or do not suit the backend.
    """
    check_images(rendered, target)
    suits_numba = not rendered.is_cuda and rendered.dtype == target.dtype == torch.float32
    if backend == "numba" and not suits_numba:
        raise ValueError(
            f"The numba backend got {rendered.dtype} and {target.dtype} images on "
            f"{rendered.device}. It takes float32 on the CPU. Use backend='auto'."
        )
    if backend == "torch" or not suits_numba:
        return l1_ssim_torch(rendered, target.detach(), ssim_weight)
    from fm3d_plugins.kernels.image_loss.numba_backend import l1_ssim_numba

    return l1_ssim_numba(rendered, target.detach(), ssim_weight)
