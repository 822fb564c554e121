"""Which frames of a scene a training step takes, drawn as the published programs draw them."""

import math
import random
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class EndsFirst:
    """LVSM's way: two frames some way apart, then frames between them in any order.

    The first two are the context of the published training.
    """

    num_views: int = 8
    shortest: int = 25
    """Least number of frames from the first to the second."""
    longest: int = 192

    def __post_init__(self) -> None:
        _require_room(self.num_views, self.shortest, self.longest)

    def draw(self, num_frames: int, rng: random.Random) -> list[int] | None:
        """Frame numbers; none if the scene is too short, so that another is to be taken."""
        ends = _draw_ends(num_frames, self.shortest, self.longest, rng)
        if ends is None:
            return None
        return [*ends, *rng.sample(range(ends[0] + 1, ends[1]), self.num_views - 2)]


def draw_targets(num_views: int, num_targets: int, rng: random.Random) -> list[int]:
    """Positions of targets among all views of a sample, context included (LVSM's training)."""
    return rng.sample(range(num_views), num_targets)


@dataclass(frozen=True)
class InOrder:
    """RayZer's way: frames of a stretch of video that grows while training goes on.

    **Departure:** the published program leaves the frames between both ends in the order they
    were drawn in, against its paper, which loses 3.8 dB by that (Jiang et al. 2025, table 4).
    """

    num_views: int = 24
    shortest: tuple[int, int] = (48, 64)
    """Least number of frames from the first to the last, at the first step and from `steps` on."""
    longest: tuple[int, int] = (64, 96)
    steps: int = 30_000
    is_sorted: bool = True
    """False: as published."""

    def __post_init__(self) -> None:
        for shortest, longest in zip(self.shortest, self.longest, strict=True):
            _require_room(self.num_views, shortest, longest)

    def distances(self, step: int) -> tuple[int, int]:
        """Least and greatest number of frames from the first to the last."""
        share = min(1.0, step / self.steps)
        shortest, longest = (
            int(first + (last - first) * share) for first, last in (self.shortest, self.longest)
        )
        return shortest, longest

    def draw(self, num_frames: int, step: int, rng: random.Random) -> list[int] | None:
        """Frame numbers; none if the scene is too short, so that another is to be taken."""
        ends = _draw_ends(num_frames, *self.distances(step), rng)
        if ends is None:
            return None
        between = rng.sample(range(ends[0] + 1, ends[1]), self.num_views - 2)
        return [ends[0], *(sorted(between) if self.is_sorted else between), ends[1]]


def ends(num_views: int, num_contexts: int) -> tuple[list[int], list[int]]:
    """Positions of contexts, spread evenly from the first view to the last, and of the others."""
    last = max(1, num_contexts - 1)
    context = sorted({round(i * (num_views - 1) / last) for i in range(num_contexts)})
    return context, [view for view in range(num_views) if view not in context]


def even_split(
    num_context: int, num_targets: int
) -> tuple[Int[Tensor, " context"], Int[Tensor, " target"]]:
    """Positions of context and targets in turn, in equal groups (RayZer)."""
    num_groups = math.gcd(num_context, num_targets)
    group = (num_context + num_targets) // num_groups
    positions = torch.arange(num_context + num_targets)
    is_context = positions % group < num_context // num_groups
    return positions[is_context], positions[~is_context]


def random_split(
    num_context: int, num_targets: int, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, " context"], Int[Tensor, " target"]]:
    """Positions of context and targets, the first and the last being context (RayZer).

    Raises:
        ValueError: The context cannot hold both.
    """
    if num_context < 2 or num_targets < 0:
        raise ValueError(
            f"Found {num_context} context views and {num_targets} targets; expected at least 2 "
            "context views, the first and the last frame. Give more."
        )
    num_views = num_context + num_targets
    is_context = torch.zeros(num_views, dtype=torch.bool)
    is_context[[0, -1]] = True
    drawn = torch.randperm(num_views - 2, generator=generator)[: num_context - 2]
    is_context[drawn + 1] = True
    return is_context.nonzero().flatten(), (~is_context).nonzero().flatten()


def _draw_ends(
    num_frames: int, shortest: int, longest: int, rng: random.Random
) -> tuple[int, int] | None:
    """First and last frame."""
    longest = min(num_frames - 1, longest)
    if longest <= shortest:
        return None
    distance = rng.randint(shortest, longest)
    start = rng.randint(0, num_frames - distance - 1)
    return start, start + distance


def _require_room(num_views: int, shortest: int, longest: int) -> None:
    if not 2 <= num_views <= shortest + 1 or longest <= shortest:
        raise ValueError(
            f"Found {num_views} views from {shortest} to {longest} frames apart; expected at least "
            f"2, the least distance at least {num_views - 1} so that all frames differ, and the "
            "greatest above it. Change the number of views or the distances."
        )
