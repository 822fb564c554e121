"""A linear layer that a CPU computes with the faster of its two libraries."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LARGE = 1 << 24
"""Multiplications from which the way through oneDNN is worth its two copies."""


class Linear(nn.Linear):
    """`torch.nn.Linear`; without gradients, large float32 products on a CPU are oneDNN's.

    torch gives float32 products to MKL, which keeps to AVX2 on processors that are not Intel's:
    a 768 x 1024 x 4096 product then takes 65 to 70 ms, and 30 to 40 ms by oneDNN with AVX-512 (AMD
    EPYC, one thread, both copies counted). Both round in float32 and differ by 1e-6.
    """

    def forward(self, input: Float[Tensor, "*batch channel"]) -> Float[Tensor, "*batch out"]:
        """The product and the bias."""
        if not self._by_onednn(input):
            return functional.linear(input, self.weight, self.bias)
        # Tensors in oneDNN's own layout are what makes torch call it.
        product = functional.linear(input.contiguous().to_mkldnn(), self.weight, self.bias)
        return product.to_dense()

    def _by_onednn(self, features: Float[Tensor, "*batch channel"]) -> bool:
        is_plain = features.device.type == "cpu" and features.ndim > 1
        is_single = features.dtype == self.weight.dtype == torch.float32
        if not (is_plain and is_single and torch.backends.mkldnn.is_available()):
            return False
        if _autocasts() or features.numel() * self.out_features < LARGE:
            return False
        trains = features.requires_grad or self.weight.requires_grad
        return not (torch.is_grad_enabled() and trains)


def _autocasts() -> bool:
    """Whether autocast is on for CPUs; torch < 2.4 tells by another name."""
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:
        return torch.is_autocast_cpu_enabled()
