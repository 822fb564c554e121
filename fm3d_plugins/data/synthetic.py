"""Batches of rooms that are drawn and rendered when they are asked for: every image is new."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from fm3d_plugins.data.view_batch import WHOLE, ViewBatch
from fm3d_plugins.synthetic_rooms.endless.rooms import RoomOptions, render_rooms

Split = Literal["training", "held-out"]

ROOMS_VERSION = 1
"""Of what a seed means; it changes with the rooms, their light or their cameras."""

_WORD = (1 << 64) - 1
_STREAMS = {"training": 0, "held-out": 1}


def mixed(*numbers: int) -> int:
    """One number of 64 random bits that follows from some numbers and their order."""
    state = 0
    for number in numbers:
        # splitmix64 (Steele et al. 2014) of what was mixed so far.
        state = (state ^ number) + 0x9E3779B97F4A7C15 & _WORD
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _WORD
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _WORD
        state ^= state >> 31
    return state


def scene_seeds(split: Split, seed: int, step: int, worker: int, count: int) -> Int64[Tensor, " n"]:
    """Seeds of the scenes of one batch.

    Those held out are negative and those of training are not: none is ever trained on.
    """
    numbers = [mixed(seed, step, worker, number) >> 1 for number in range(count)]
    sign = -1 if _STREAMS[split] else 1
    return torch.tensor([sign * number - _STREAMS[split] for number in numbers])


@dataclass(frozen=True)
class EndlessRooms:
    """A source of scenes without end. What it yields follows from its fields and the step alone."""

    seed: int = 0
    options: RoomOptions = field(default_factory=RoomOptions)
    split: Split = "training"

    def batch(
        self,
        step: int,
        num_scenes: int,
        num_views: int,
        height: int,
        width: int,
        worker: int = 0,
        part: slice = WHOLE,
    ) -> ViewBatch:
        """The batch of a step, or a part of its scenes, on the CPU; another worker's are others.

        Views lie in order along each scene's path. Lengths are metres.

        Raises:
            ValueError: As `render_rooms`.
        """
        seeds = scene_seeds(self.split, self.seed, step, worker, num_scenes)[part]
        views = render_rooms(seeds, num_views, height, width, self.options)
        return ViewBatch(
            images=views.images,
            intrinsics=views.intrinsics,
            world_from_camera=views.world_from_camera,
            depth=views.depth,
            is_valid=torch.ones_like(views.depth, dtype=torch.bool),
            first=part.indices(num_scenes)[0],
        )
