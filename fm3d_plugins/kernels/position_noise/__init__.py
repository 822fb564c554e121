"""Random moves of gaussians, shaped by their covariance: Numba on a CPU, torch elsewhere."""

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.kernels.position_noise.torch_reference import add_noise_torch
from fm3d_plugins.kernels.shapes import check_shapes
from fm3d_plugins.kernels.threads import run_kernel


@torch.no_grad()
def add_position_noise(
    means: Float[Tensor, "n 3"],
    quaternions_wxyz: Float[Tensor, "n 4"],
    log_scales: Float[Tensor, "n 3"],
    opacity_logits: Float[Tensor, "n 1"],
    noise: Float[Tensor, "n 3"],
    smallest_opacity: float,
) -> None:
    """Add covariance times noise times a gate to `means`, in place; not differentiable.

    Kheradmand et al. 2024, equation 8. The gate, sigmoid(100 (smallest_opacity - opacity)), is 1
    for a gaussian that is nearly dead and falls steeply above.

    Args:
        quaternions_wxyz: Rotations world from gaussian, of any length but zero.
        log_scales: Logarithms of the standard deviations along the gaussian's axes.
        noise: Independent draws, all of the same size.
        smallest_opacity: Below it a gaussian is dead.

    Raises:
        ValueError: The tensors do not belong together.
    """
    check_shapes(
        "Position noise",
        {
            "means": (means, "gaussian 3"),
            "rotations": (quaternions_wxyz, "gaussian 4"),
            "scales": (log_scales, "gaussian 3"),
            "opacities": (opacity_logits, "gaussian 1"),
            "noise": (noise, "gaussian 3"),
        },
    )
    tensors = (means, quaternions_wxyz, log_scales, opacity_logits, noise)
    if means.device.type != "cpu" or means.dtype != torch.float32 or not means.is_contiguous():
        add_noise_torch(*tensors, smallest_opacity)
        return
    from fm3d_plugins.kernels.position_noise.kernels import BLOCK, add_noise

    arrays = [values.detach().contiguous().numpy() for values in tensors]
    run_kernel(add_noise, -(-len(means) // BLOCK), *arrays, smallest_opacity)
