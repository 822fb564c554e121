"""Geometry keeps its digits where networks may do with few."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

DEVICES = ("cpu", "cuda")


def in_full_precision(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, whose matrix products are taken in the type of its tensors, always.

    Within autocast they would be in bfloat16, of three digits: enough for what networks say, too
    few for cameras and for the points that they are compared with.
    """

    @wraps(function)
    def exact(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        before = {device: torch.is_autocast_enabled(device) for device in DEVICES}
        try:
            for device in DEVICES:
                torch.set_autocast_enabled(device, False)
            return function(*args, **kwargs)
        finally:
            for device, was_on in before.items():
                torch.set_autocast_enabled(device, was_on)

    return exact
