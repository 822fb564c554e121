"""Batches of views of many scenes."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from nerfstudio.data.datamanagers.base_datamanager import DataManager, DataManagerConfig
from torch.nn import Parameter

from fm3d_plugins.data.synthetic import EndlessRooms, mixed
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.synthetic_rooms.endless.rooms import RoomOptions

HELD_OUT_AT_ONCE = 16
"""Scenes that are scored together."""


@dataclass
class ManySceneDataManagerConfig(DataManagerConfig):
    """Which scenes, and how much of them a step sees."""

    _target: type = field(default_factory=lambda: ManySceneDataManager)
    data: tyro.conf.Suppress[Path | None] = None
    masks_on_gpu: tyro.conf.Suppress[bool] = False
    images_on_gpu: tyro.conf.Suppress[bool] = False
    seed: int = 0
    """Of the scenes: the same number gives the same scenes, step by step."""
    rooms: RoomOptions = field(default_factory=RoomOptions)
    """Which synthetic rooms are drawn."""
    scenes_per_step: int = 16
    """Of images of the first size; fewer of larger ones, so that all steps take about as long."""
    views_per_scene: int = 4
    image_sizes: tuple[int, ...] = (32,)
    """Sides of the images in turn, pixels. Networks learn fastest from small ones."""
    size_shares: tuple[float, ...] = (1.0,)
    """Share of the steps that each of the sizes has."""
    aspects: tuple[float, ...] = (1.0, 4 / 3, 3 / 4)
    """Width to height of the images, one of these for each step; about as many pixels in all."""
    patch_size: tyro.conf.Suppress[int] = 1
    """Of the network; both sides are multiples of it."""
    held_out_scenes: int = 64
    """Scenes that are never trained on, to score the network with."""
    num_steps: tyro.conf.Suppress[int] = 0
    """Of the whole run."""

    def check(self) -> None:
        """Refuse what no batch can be made of.

        Raises:
            ValueError: Some option is.
        """
        if self.data is not None:
            raise ValueError(
                f"--data {self.data} was given, but networks are trained on synthetic rooms here, "
                "which are made on the way. Leave it out."
            )
        is_even = all(size > 0 and size % self.patch_size == 0 for size in self.image_sizes)
        is_split = len(self.size_shares) == len(self.image_sizes) and all(
            share > 0 for share in self.size_shares
        )
        counts = (self.scenes_per_step, self.held_out_scenes, self.views_per_scene)
        if not (self.image_sizes and is_even and is_split) or min(counts) < 1:
            raise ValueError(
                f"Found image sizes {self.image_sizes} with shares {self.size_shares}, and "
                f"{self.scenes_per_step} scenes per step of {self.views_per_scene} views, "
                f"{self.held_out_scenes} held out. Expected sizes that are multiples of the "
                f"network's patches ({self.patch_size} pixels), a share above 0 for each, and at "
                "least one of all else."
            )
        if not self.aspects or min(self.aspects) < 0.25 or max(self.aspects) > 4:
            raise ValueError(
                f"Found aspects {self.aspects}; expected at least one, each from 0.25 to 4."
            )


@dataclass(frozen=True)
class BatchShape:
    """How many views of which size a step sees."""

    num_scenes: int
    height: int
    width: int


class ManySceneDataManager(DataManager):
    """Scenes without end for training, and others, always the same, for scores.

    A batch follows from the options and its step alone; the next one is made in the background.
    """

    config: ManySceneDataManagerConfig

    def __init__(self, config: ManySceneDataManagerConfig, device: torch.device | str) -> None:
        config.check()
        super().__init__()
        self.config, self.device = config, device
        self.rooms = EndlessRooms(config.seed, config.rooms)
        self.held_out_rooms = EndlessRooms(config.seed, config.rooms, "held-out")
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="fm3d-scenes")
        self._next: tuple[int, Future[ViewBatch]] | None = None

    def size_at(self, step: int) -> int:
        """Side of the images of a step if they are square."""
        config = self.config
        return size_at(step / max(1, config.num_steps), config.image_sizes, config.size_shares)

    def shape_at(self, step: int) -> BatchShape:
        """Of the batch of a step."""
        config, side = self.config, self.size_at(step)
        count = max(1, round(config.scenes_per_step * (config.image_sizes[0] / side) ** 2))
        aspect = config.aspects[mixed(config.seed, step) % len(config.aspects)]
        return BatchShape(count, *sides(side, aspect, config.patch_size))

    def batch(self, step: int) -> ViewBatch:
        """The batch of a step, on the CPU."""
        shape = self.shape_at(step)
        views = self.config.views_per_scene
        return self.rooms.batch(step, shape.num_scenes, views, shape.height, shape.width)

    def next_batch(self, step: int) -> ViewBatch:
        """The batch of a step, on the device; that of the step after it is begun."""
        if self._next is not None and self._next[0] == step:
            batch = self._next[1].result()
        else:
            batch = self.batch(step)
        self._next = (step + 1, self._maker.submit(self.batch, step + 1))
        return batch.to(self.device)

    def held_out(self, size: int) -> Iterator[ViewBatch]:
        """All scenes to score with, square, some at a time, on the device."""
        left, number = self.config.held_out_scenes, 0
        while left > 0:
            count = min(left, HELD_OUT_AT_ONCE)
            views = self.config.views_per_scene
            batch = self.held_out_rooms.batch(number, HELD_OUT_AT_ONCE, views, size, size)
            yield batch.of_scenes(slice(count)).to(self.device)
            left, number = left - count, number + 1

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """None."""
        return {}

    def get_datapath(self) -> Path:
        """There is no folder."""
        return Path()


def size_at(share: float, sizes: tuple[int, ...], shares: tuple[float, ...]) -> int:
    """The size of images when a share of all steps is done."""
    end = 0.0
    for size, part in zip(sizes, shares, strict=True):
        end += part / sum(shares)
        if share < end:
            return size
    return sizes[-1]


def sides(side: int, aspect: float, patch_size: int) -> tuple[int, int]:
    """Rows and columns in whole patches, of about the pixels of a square."""
    root = aspect**0.5
    height, width = side / root / patch_size, side * root / patch_size
    return max(1, round(height)) * patch_size, max(1, round(width)) * patch_size
