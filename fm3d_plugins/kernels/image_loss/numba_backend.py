"""L1 + SSIM on a CPU: value and gradient in one go."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.kernels.image_loss.kernels import NUM_GRADIENTS, compare, pull_back
from fm3d_plugins.kernels.image_loss.torch_reference import WINDOW_SIZE, gaussian_window
from fm3d_plugins.kernels.threads import run_kernel


class _Loss(torch.autograd.Function):
    """The gradient is computed with the value; the backward pass only scales it."""

    @staticmethod
    def forward(ctx, rendered, target, ssim_weight):
        x, y = rendered.detach().contiguous().numpy(), target.detach().contiguous().numpy()
        height, width = x.shape[:2]
        num_rows, num_columns = height - WINDOW_SIZE + 1, width - WINDOW_SIZE + 1
        window = gaussian_window(torch.float32).numpy()
        needs_gradient = ctx.needs_input_grad[0]
        gradient = np.empty(x.shape if needs_gradient else (0, 0, 0), np.float32)
        spread = np.empty(num_rows * NUM_GRADIENTS * width * 3 if needs_gradient else 0, np.float32)
        ssim_sums, l1_sums = np.empty(num_rows), np.empty(height)
        run_kernel(compare, num_rows, x, y, window, needs_gradient, ssim_sums, spread)
        l1_factor = np.float32((1.0 - ssim_weight) / x.size)
        ssim_factor = np.float32(-ssim_weight / (num_rows * num_columns * 3))
        run_kernel(
            pull_back, height, x, y, window, l1_factor, ssim_factor, spread, l1_sums, gradient
        )
        similarity = ssim_sums.sum() / (num_rows * num_columns * 3)
        value = (1.0 - ssim_weight) * l1_sums.sum() / x.size + ssim_weight * (1.0 - similarity)
        ctx.save_for_backward(torch.from_numpy(gradient))
        return rendered.new_tensor(value)

    @staticmethod
    def backward(ctx, d_loss):
        (gradient,) = ctx.saved_tensors
        return gradient * d_loss, None, None


def l1_ssim_numba(
    rendered: Float[Tensor, "height width 3"],
    target: Float[Tensor, "height width 3"],
    ssim_weight: float,
) -> Float[Tensor, ""]:
    """`l1_ssim_loss` for float32 images on the CPU."""
    return _Loss.apply(rendered, target, ssim_weight)
