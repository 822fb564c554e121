"""A linear layer that a CPU computes in the fastest of several equal ways."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fm3d_plugins.nn.fastest import Ways, fastest

LARGE, MANY_ROWS = 1 << 24, 64
"""Multiplications, and rows, from which another way than torch's own may be worth its copies."""

PROBE_ROWS, PROBE_WIDTH = 256, 1024


class Linear(nn.Linear):
    """`torch.nn.Linear`; without gradients, large products on a CPU take the fastest way.

    Which that is depends on the processor. torch gives float32 products to MKL, which keeps to
    AVX2 on those that are not Intel's; oneDNN uses AVX-512 where there is any, and is slower
    elsewhere. And where there are no instructions for bfloat16, torch multiplies it many times
    slower than float32. The ways differ by rounding alone.
    """

    def forward(self, input: Float[Tensor, "*batch channel"]) -> Float[Tensor, "*batch out"]:
        """The product and the bias."""
        return linear(input, self.weight, self.bias)


def linear(
    features: Float[Tensor, "*batch channel"],
    weight: Float[Tensor, "out channel"],
    bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "*batch out"]:
    """`torch.nn.functional.linear`, in the way of `Linear`."""
    if _has_choice(features, weight):
        name, product = _OTHER_WAYS[features.dtype]
        if fastest(f"product in {features.dtype}", partial(_probe, features.dtype)) == name:
            return product(features, weight, bias)
    return functional.linear(features, weight, bias)


def _has_choice(
    features: Float[Tensor, "*batch channel"], weight: Float[Tensor, "out channel"]
) -> bool:
    # Fake tensors are of another class.
    is_plain = type(features) is Tensor and features.device.type == "cpu"
    if not is_plain or features.dtype != weight.dtype or features.dtype not in _OTHER_WAYS:
        return False
    rows = features.numel() // weight.shape[1]
    if rows < MANY_ROWS or features.numel() * weight.shape[0] < LARGE:
        return False
    trains = features.requires_grad or weight.requires_grad
    is_watched = (torch.is_grad_enabled() and trains) or torch.compiler.is_compiling()
    return not (is_watched or _autocasts())


def _by_onednn(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # Tensors in oneDNN's own layout are what makes torch call it.
    return functional.linear(features.contiguous().to_mkldnn(), weight, bias).to_dense()


def _by_float32(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    wide = features.float(), weight.float(), None if bias is None else bias.float()
    return functional.linear(*wide).to(features.dtype)


_OTHER_WAYS = {torch.bfloat16: ("float32", _by_float32), torch.float16: ("float32", _by_float32)}
if torch.backends.mkldnn.is_available():
    _OTHER_WAYS[torch.float32] = ("oneDNN", _by_onednn)


def _probe(dtype: torch.dtype) -> Ways:
    """A product of the usual proportions, by torch and in the other way."""
    features = torch.ones(PROBE_ROWS, PROBE_WIDTH, dtype=dtype)
    weight, bias = torch.ones(PROBE_WIDTH, PROBE_WIDTH, dtype=dtype), features[0]
    name, product = _OTHER_WAYS[dtype]
    return {
        "torch": partial(functional.linear, features, weight, bias),
        name: partial(product, features, weight, bias),
    }


def _autocasts() -> bool:
    """Whether autocast is on for CPUs; torch < 2.4 tells by another name."""
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:
        return torch.is_autocast_cpu_enabled()
