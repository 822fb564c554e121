"""Warnings of other packages that no user of a command can do anything about."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_KNOWN: tuple[tuple[str, type[Warning], str], ...] = (
    (r"`torch\.jit\.script", FutureWarning, ""),
    (r"`torch\.cuda\.amp\.", FutureWarning, ""),
    # nerfstudio leaves out the optimisers of parameters without gradients.
    (r"Detected call of `lr_scheduler\.step\(\)` before", UserWarning, ""),
    # nerfstudio's log turns losses into numbers.
    (r"Converting a tensor with requires_grad=True to a scalar", UserWarning, ""),
    # Outputs of divided networks are not changed in place here.
    (r"FSDP2-wrapped module .* returned a view tensor", UserWarning, ""),
    ("", DeprecationWarning, r"(nerfstudio|torch|torchvision|torchmetrics|timm|viser)\b"),
)
"""Beginning of the text, kind, and beginning of the module's name."""


@contextmanager
def known_warnings_hidden() -> Iterator[None]:
    """Within, what is known to come from nerfstudio 1.1.5 on today's torch is not printed.

    Any other warning is. Importing this package changes nothing.
    """
    with warnings.catch_warnings():
        for message, kind, module in _KNOWN:
            warnings.filterwarnings("ignore", message, kind, module)
        yield
