"""What plans of a network's run have in common: types of numbers, a device's speed, words."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fm3d_plugins.nn.linear import Linear

Precision = Literal["auto", "float32", "bfloat16", "float16"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

RESERVE = 0.9
"""Of the available memory that is planned with."""

FIXED_BYTES = 100 << 20
"""Of the libraries' own buffers."""

PROBE_SECONDS = 0.15
PROBE_TOKENS, PROBE_HEADS, HEAD_WIDTH = 1024, 16, 64


@dataclass(frozen=True)
class Speed:
    """Operations per second of a device."""

    products: float
    attention: float


@dataclass(frozen=True)
class Plan:
    """How photos, or pairs of them, are worked on."""

    precision: str
    at_once: int
    """Photos, or pairs, in one pass of the network."""
    bytes: int
    """Expected peak, without what the caller keeps of the results."""
    seconds: float
    """Expected, for all of them."""
    sentence: str
    """Tells the user."""
    kept: int = 0
    """Photos whose tokens stay in memory from one pass to the next."""


def choose_device(name: str) -> torch.device:
    """Where a network runs; each rank of a distributed run has its own GPU.

    Args:
        name: auto (CUDA where there is a device), cpu or cuda.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device is cuda, but there is no CUDA device. Set it to auto or cpu.")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def choose_precision(precision: Precision, device: torch.device) -> str:
    """bfloat16 where the device multiplies it fast, on older GPUs float16, else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bfloat16" if device.type == "cpu" and supported() else "float32"


@torch.inference_mode()
def measured_speed(precision: str, device: torch.device) -> Speed:
    """Just measured on products and attention of the size of one photo."""
    dtype = DTYPES[precision]
    wide = HEAD_WIDTH * PROBE_HEADS
    tokens = torch.zeros(PROBE_TOKENS, wide, dtype=dtype, device=device)
    layer = Linear(wide, 4 * wide, bias=False, dtype=dtype, device=device)
    heads = tokens.reshape(1, PROBE_TOKENS, PROBE_HEADS, HEAD_WIDTH).transpose(1, 2)
    attention = partial(functional.scaled_dot_product_attention, heads, heads, heads)
    return Speed(
        products=2 * PROBE_TOKENS * layer.weight.numel() * _rate(partial(layer, tokens), device),
        attention=4 * PROBE_TOKENS**2 * wide * _rate(attention, device),
    )


def stored_bytes(
    parameters: Iterable[tuple[str, Tensor]], matrices: Collection[str], precision: torch.dtype
) -> int:
    """Of parameters by name: those among the matrices in a precision, all others in float32."""
    size = precision.itemsize
    return sum(p.numel() * (size if name in matrices else 4) for name, p in parameters)


def expect_fitting(
    needed: int, usable: int, *, name: str, work: str, precision: str, ideas: Sequence[str]
) -> None:
    """Refuse work that memory does not suffice for.

    Args:
        name: Of the estimator.
        work: What takes that much, in words.
        ideas: What would take less, besides what always helps.

    Raises:
        ValueError: More is needed than may be used.
    """
    if needed <= usable:
        return
    smaller = ["--precision bfloat16"] if precision == "float32" else []
    listed = [*smaller, *ideas, "closing other programs", "--memory-gib if more may be used"]
    raise ValueError(
        f"{name} needs {gib(needed)} for {work} at once in {precision}, but {gib(usable)} of "
        f"memory may be used. Expected at least that. Try {', '.join(listed)}, or the estimator "
        "sfm."
    )


def gib(count: int) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.1f} GiB"


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 1:
        return "less than a second"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _rate(step: Callable[[], object], device: torch.device) -> float:
    """Calls per second."""
    step()
    count, start = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - start < PROBE_SECONDS:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count += 1
    return count / (time.perf_counter() - start)
