"""Batches of views of many scenes."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
import tyro
from nerfstudio.data.datamanagers.base_datamanager import DataManager, DataManagerConfig
from torch.nn import Parameter

from fm3d_plugins.data.filters import SceneFilters
from fm3d_plugins.data.frames import joined
from fm3d_plugins.data.many_scenes import ManyScenes, find_scenes, parted
from fm3d_plugins.data.skipped import FILE, Skipped
from fm3d_plugins.data.synthetic import EndlessRooms, mixed
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.network_training.processes import share_of
from fm3d_plugins.progress import say
from fm3d_plugins.synthetic_rooms.endless.rooms import RoomOptions

HELD_OUT_AT_ONCE = 16
"""Scenes that are scored together."""


@dataclass
class ManySceneDataManagerConfig(DataManagerConfig):
    """Which scenes, and how much of them a step sees."""

    _target: type = field(default_factory=lambda: ManySceneDataManager)
    data: tyro.conf.Suppress[Path | None] = None
    more_data: tuple[Path, ...] = ()
    """Further folders of scenes, beside that of --data. Without any, rooms are drawn."""
    filters: SceneFilters = field(default_factory=SceneFilters)
    """Which scenes of such folders are used."""
    held_out_share: float = 0.05
    """Of the scenes in such folders, by their names; these are never trained on."""
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
    """Scenes that are never trained on, to score the network with; of folders at most so many."""
    num_steps: tyro.conf.Suppress[int] = 0
    """Of the whole run."""

    def check(self) -> None:
        """Refuse what no batch can be made of.

        Raises:
            ValueError: Some option is.
        """
        self.filters.check()
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

    def fewest_scenes(self) -> int:
        """Of a step, that of the largest images."""
        return self.scenes_of(max(self.image_sizes))

    def scenes_of(self, size: int) -> int:
        """Of a step with images of a size."""
        return max(1, round(self.scenes_per_step * (self.image_sizes[0] / size) ** 2))

    def folders(self) -> tuple[Path, ...]:
        """Of scenes; none where rooms are drawn."""
        return (*([self.data] if self.data else []), *self.more_data)


@dataclass(frozen=True)
class BatchShape:
    """How many views of which size a step sees."""

    num_scenes: int
    height: int
    width: int


class ManySceneDataManager(DataManager):
    """Scenes to train with, captured or rooms without end, and others, always the same, for scores.

    A batch follows from the options and its step alone, and each process makes its part of the
    scenes; the next one is made in the background.
    """

    config: ManySceneDataManagerConfig

    def __init__(self, config: ManySceneDataManagerConfig, device: torch.device | str) -> None:
        config.check()
        super().__init__()
        self.config, self.device = config, device
        self.skipped = Skipped()
        self.source: EndlessRooms | ManyScenes = EndlessRooms(config.seed, config.rooms)
        self.held_out_rooms = EndlessRooms(config.seed, config.rooms, "held-out")
        self.held_out_captured: ManyScenes | None = None
        if config.folders():
            self.source, self.held_out_captured = self._captured()
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="fm3d-scenes")
        self._next: tuple[int, Future[ViewBatch]] | None = None

    def _captured(self) -> tuple[ManyScenes, ManyScenes]:
        """Scenes of the folders to train with, and to score with.

        Raises:
            ValueError, FileNotFoundError: As `find_scenes` and `parted`.
        """
        config, largest = self.config, max(self.config.image_sizes)
        shapes = [sides(largest, aspect, config.patch_size) for aspect in (1.0, *config.aspects)]
        found = find_scenes(
            config.folders(), config.filters, config.views_per_scene, shapes, self.skipped
        )
        if self.skipped.sentence():
            say(self.skipped.sentence(), "yellow")
        training, held_out = parted(found, config.held_out_share)
        say(f"{len(training)} scenes to train with and {len(held_out)} held out.")
        scored = sorted(held_out, key=lambda each: each.number)[: config.held_out_scenes]
        return (
            ManyScenes(training, config.filters, self.skipped, config.seed),
            ManyScenes(scored, config.filters, self.skipped),
        )

    def keep_report(self, folder: Path) -> None:
        """Write which scenes are not used and why into a run's folder, and go on as more are found.

        Raises:
            OSError: It cannot be written.
        """
        if self.config.folders():
            self.skipped.keep_in(folder / FILE)

    def size_at(self, step: int) -> int:
        """Side of the images of a step if they are square."""
        config = self.config
        return size_at(step / max(1, config.num_steps), config.image_sizes, config.size_shares)

    def shape_at(self, step: int) -> BatchShape:
        """Of the batch of a step."""
        config, side = self.config, self.size_at(step)
        aspect = config.aspects[mixed(config.seed, step) % len(config.aspects)]
        return BatchShape(config.scenes_of(side), *sides(side, aspect, config.patch_size))

    def batch(self, step: int) -> ViewBatch:
        """This process's part of the batch of a step, on the CPU."""
        shape, views = self.shape_at(step), self.config.views_per_scene
        part = share_of(shape.num_scenes)
        return self.source.batch(
            step, shape.num_scenes, views, shape.height, shape.width, part=part
        )

    def next_batch(self, step: int) -> ViewBatch:
        """As `batch`, on the device; that of the step after it is begun."""
        if self._next is not None and self._next[0] == step:
            batch = self._next[1].result()
        else:
            batch = self.batch(step)
        self._next = (step + 1, self._maker.submit(self.batch, step + 1))
        return batch.to(self.device)

    def held_out(self, size: int) -> Iterator[ViewBatch]:
        """All scenes to score with, square, some at a time, on the device."""
        views = self.config.views_per_scene
        if self.held_out_captured is not None:
            yield from self._held_out_captured(self.held_out_captured, views, size)
            return
        left, number = self.config.held_out_scenes, 0
        while left > 0:
            count = min(left, HELD_OUT_AT_ONCE)
            batch = self.held_out_rooms.batch(number, HELD_OUT_AT_ONCE, views, size, size)
            yield batch.of_scenes(slice(count)).to(self.device)
            left, number = left - count, number + 1

    def _held_out_captured(self, source: ManyScenes, views: int, size: int) -> Iterator[ViewBatch]:
        scenes = source.each(views, size, size)
        while some := list(islice(scenes, HELD_OUT_AT_ONCE)):
            yield joined(some).to(self.device)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """None."""
        return {}

    def get_datapath(self) -> Path:
        """That of --data; none for rooms."""
        return self.config.data or Path()


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
