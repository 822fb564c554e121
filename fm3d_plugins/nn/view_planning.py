"""What networks of views will cost, said before they begin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fm3d_plugins.memory import available_memory
from fm3d_plugins.nn.planning import (
    DTYPES,
    FIXED_BYTES,
    RESERVE,
    Speed,
    duration,
    gib,
    measured_speed,
    stored_bytes,
)
from fm3d_plugins.nn.view_synthesis import ViewNetwork

NUMBERS_PER_TOKEN = 10
"""That a block holds at most, in units of the width; the stream of tokens among them."""


class Pass(NamedTuple):
    """One sequence through some blocks."""

    tokens: int
    blocks: int

    def seconds(self, width: int, speed: Speed) -> float:
        """Of a device; products of weights, and of queries with keys and values."""
        products, attention = 24 * self.tokens * width**2, 4 * self.tokens**2 * width
        return self.blocks * (products / speed.products + attention / speed.attention)


@dataclass(frozen=True)
class ViewPlan:
    """What views of a scene will cost."""

    once: float
    """Seconds of what a scene costs once."""
    view: float
    """Seconds of each view."""
    bytes: int
    """Peak, weights included."""

    def sentence(self, work: str, precision: str, device: torch.device) -> str:
        """Tells the user."""
        once = f"{duration(self.once)} once, " if self.once else ""
        return (
            f"{work} on {device.type} in {precision}: about {once}{duration(self.view)} a view and "
            f"{gib(self.bytes)} of memory."
        )


def plan_views(
    network: ViewNetwork,
    once: Sequence[Pass],
    each: Sequence[Pass],
    *,
    work: str,
    precision: str,
    device: torch.device,
) -> ViewPlan:
    """Time and memory of a network's passes on a device, which is measured.

    Args:
        once: What a scene costs once.
        each: What a view costs.
        work: What is to be done, in words.

    Raises:
        ValueError: It needs more memory than there is.
    """
    width, dtype = network.config.width, DTYPES[precision]
    weights = stored_bytes(network.named_parameters(), network.matrix_names(), dtype)
    longest = max(each_pass.tokens for each_pass in (*once, *each))
    passing = 4 * NUMBERS_PER_TOKEN * longest * width
    # The weights are there already.
    if passing > (usable := int(RESERVE * available_memory(device))):
        raise ValueError(
            f"{work} needs {gib(passing)} beside the weights, but {gib(usable)} of memory may be "
            "used. Expected at least that. Use smaller pictures, fewer photos, or close other "
            "programs."
        )
    speed = measured_speed(precision, device)
    return ViewPlan(
        once=sum((each_pass.seconds(width, speed) for each_pass in once), 0.0),
        view=sum((each_pass.seconds(width, speed) for each_pass in each), 0.0),
        bytes=weights + passing + FIXED_BYTES,
    )
