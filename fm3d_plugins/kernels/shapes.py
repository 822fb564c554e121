"""What compiled kernels are entered with: they follow pointers, and check nothing themselves."""

from collections.abc import Mapping

import torch
from torch import Tensor


def check_shapes(
    where: str,
    tensors: Mapping[str, tuple[Tensor, str]],
    sizes: Mapping[str, int] | None = None,
    *,
    one_type: bool = True,
) -> None:
    """Refuse tensors whose axes do not agree, whose types differ, or that lie on other devices.

    Args:
        where: The operation, as messages name it.
        tensors: By name, each with the axes expected of it, such as "n 3": a number is that size,
            a word is the same size wherever it stands.
        sizes: Of words, where they are known.
        one_type: Whether all must have the type and the device of the first.

    Raises:
        ValueError: They do not agree; all shapes are listed.
    """
    known = dict(sizes or {})
    first = next(iter(tensors.values()))[0]
    for values, axes in tensors.values():
        words = axes.split()
        agree = values.ndim == len(words) and all(
            size == (int(word) if word.isdecimal() else known.setdefault(word, size))
            for size, word in zip(values.shape, words, strict=True)
        )
        if one_type:
            agree &= values.dtype == first.dtype and values.device == first.device
        if not agree:
            raise ValueError(_disagreement(where, tensors, sizes or {}, one_type))


def _disagreement(
    where: str,
    tensors: Mapping[str, tuple[Tensor, str]],
    sizes: Mapping[str, int],
    one_type: bool,
) -> str:
    found = ", ".join(f"{name} {_described(values)}" for name, (values, _) in tensors.items())
    expected = ", ".join(f"{name} [{', '.join(a.split())}]" for name, (_, a) in tensors.items())
    known = "".join(f", {word} = {size}" for word, size in sizes.items())
    kind = " and one type and device" if one_type else ""
    return (
        f"{where} got {found}. Expected {expected}{known}: one size for each name{kind}. "
        "Pass tensors that belong together."
    )


def _described(values: Tensor) -> str:
    kind = str(values.dtype).removeprefix("torch.")
    on = "" if values.device == torch.device("cpu") else f" on {values.device}"
    return f"{list(values.shape)} {kind}{on}"
