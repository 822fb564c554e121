"""Batches of views of many captured scenes."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from fm3d_plugins.data.filters import TOO_LITTLE, SceneFilters, usable
from fm3d_plugins.data.frames import joined, load_frames
from fm3d_plugins.data.layouts.layout import Where
from fm3d_plugins.data.layouts.table import LAYOUTS, found_below
from fm3d_plugins.data.overlap import Frusta, draw_overlapping
from fm3d_plugins.data.scenes import CapturedScene
from fm3d_plugins.data.skipped import Skipped, SkippedError
from fm3d_plugins.data.synthetic import mixed
from fm3d_plugins.data.view_batch import WHOLE, ViewBatch
from fm3d_plugins.files import kind_of
from fm3d_plugins.progress import track

UNREADABLE = "cannot be read"
TWICE = "name there already"
SPARSE_DEPTH = "too little known depth"

DRAWS = 4
"""Times that views are drawn of a scene before another one takes its place in a batch."""

_SHARES = 1 << 32
_THREADS = 8


@dataclass(frozen=True)
class UsableScene:
    """A scene that passed the filters, and what its cameras see."""

    scene: CapturedScene
    frusta: Frusta

    @property
    def number(self) -> int:
        """32 random bits that follow from the scene's own name, wherever its data set lies."""
        return name_number(self.scene.name)


def name_number(name: str) -> int:
    """32 random bits that follow from the last part of a name."""
    digest = hashlib.blake2b(name.rsplit("/", 1)[-1].encode("utf-8", "surrogateescape"))
    return int.from_bytes(digest.digest()[:4], "big")


def find_scenes(
    folders: Sequence[Path],
    filters: SceneFilters,
    num_views: int,
    shapes: Sequence[tuple[int, int]],
    skipped: Skipped,
) -> list[UsableScene]:
    """All scenes below some folders that can be used, in the order of their names.

    Args:
        num_views: That a step takes of a scene.
        shapes: Rows and columns of images: photos are at least as large as all of them.
        skipped: Is told of all that is left out.

    Raises:
        FileNotFoundError: A folder is absent.
        ValueError: None is there, or none can be used.
    """
    filters.check()
    found: dict[str, UsableScene] = {}
    sources = 0
    for folder in folders:
        if kind_of(folder) != "a folder":
            raise FileNotFoundError(
                f"{folder} is {kind_of(folder) or 'absent'}; expected a folder of scenes. Give one "
                f"that holds some ({', '.join(layout.name for layout in LAYOUTS)})."
            )
        where = Where(folder, max(max(shape) for shape in shapes))
        files = list(found_below(folder))
        sources += len(files)
        for layout, path in track(files, "Reading scenes", len(files)):
            for scene in _read(layout.read(path, where), path, skipped):
                try:
                    each = UsableScene(*usable(scene, filters, num_views, shapes, skipped))
                except SkippedError as error:
                    skipped.scene(scene.name, error.reason, error.detail)
                except (ValueError, OSError) as error:
                    skipped.scene(scene.name, UNREADABLE, str(error))
                else:
                    if scene.name in found:
                        skipped.scene(scene.name, TWICE, str(scene.source))
                    found.setdefault(scene.name, each)
    if not found:
        names = ", ".join(map(str, folders))
        depth = "with depth maps, as this network learns depth, " if filters.require_depth else ""
        raise ValueError(
            f"No scene in {names} can be used: {sources} were found. {skipped.sentence()} Expected "
            f"scenes {depth}of these layouts: {', '.join(layout.name for layout in LAYOUTS)}. Give "
            "another folder, or loosen the filters."
        )
    return [found[name] for name in sorted(found)]


def _read(scenes: Iterable[CapturedScene], path: Path, skipped: Skipped) -> Iterator[CapturedScene]:
    """Scenes of a file up to where it is damaged."""
    try:
        yield from scenes
    except (ValueError, OSError) as error:
        skipped.scene(str(path), UNREADABLE, str(error))


def parted(
    scenes: Sequence[UsableScene], held_out_share: float
) -> tuple[list[UsableScene], list[UsableScene]]:
    """Scenes to train with, and those to score with: by their names alone.

    So a scene stays on its side when others come or go, or the data set moves.

    Raises:
        ValueError: One side is empty.
    """
    limit = held_out_share * _SHARES
    held_out = [each for each in scenes if each.number < limit]
    training = [each for each in scenes if each.number >= limit]
    if not training or not held_out:
        lowest = sorted(each.number / _SHARES for each in scenes)
        advice = f"from above {lowest[0]:.4f} to {lowest[-1]:.4f}"
        raise ValueError(
            f"By their names, {len(held_out)} of {len(scenes)} scenes are held out for scores at a "
            f"share of {held_out_share}; expected at least one to score and one to train with. Set "
            f"--pipeline.datamanager.held-out-share to {advice}, or give more scenes."
            if len(scenes) > 1
            else f"{scenes[0].scene.name} is the only scene that can be used; expected at least "
            "two, one of them to score with. Give more."
        )
    return training, held_out


@dataclass(frozen=True)
class ManyScenes:
    """A source of batches. What it yields follows from the scenes' files, its fields and the step.

    A scene whose files are damaged, or of which no views were found that fit, gives its place to
    one that is drawn after all others; which ones follows from the files and the place alone, so a
    resumed run sees the same, and a process that makes a part of the batch reads no other scene.
    """

    scenes: Sequence[UsableScene]
    filters: SceneFilters
    skipped: Skipped
    seed: int = 0

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
        """The batch of a step, or a part of its scenes, on the CPU; another worker draws otherwise.

        No scene is there twice as long as there are enough sound ones. Views lie in the order of
        their frames.

        Raises:
            ValueError: Too few scenes can be used.
        """
        order = self._order(random.Random(mixed(self.seed, step, worker)))
        drawn: list[UsableScene] = []

        def made(number: int) -> ViewBatch | None:
            seed = mixed(self.seed, step, worker, number)
            return self.views(drawn[number], seed, num_views, height, width)

        places = range(num_scenes)[part]
        found: dict[int, ViewBatch] = {}
        tried = {place: place for place in places}
        with ThreadPoolExecutor(_THREADS) as threads:
            while tried:
                drawn += islice(order, max(0, max(tried.values()) + 1 - len(drawn)))
                batches = zip(tried, threads.map(made, tried.values()), strict=True)
                found |= {place: batch for place, batch in batches if batch is not None}
                tried = {p: number + num_scenes for p, number in tried.items() if p not in found}
                if tried and len(drawn) > 4 * (num_scenes + len(self.scenes)):
                    raise ValueError(
                        f"Of {len(drawn)} scenes that were drawn for step {step}, {len(found)} can "
                        f"be used; expected {len(places)}. {self.skipped.sentence()} Restore the "
                        "files, or loosen the filters."
                    )
        return replace(joined([found[place] for place in places]), first=places.start)

    def each(self, num_views: int, height: int, width: int) -> Iterator[ViewBatch]:
        """Views of every scene in turn, always the same; none of one that cannot be used."""
        for each in self.scenes:
            batch = self.views(each, each.number, num_views, height, width)
            if batch is not None:
                yield batch

    def views(
        self, each: UsableScene, seed: int, num_views: int, height: int, width: int
    ) -> ViewBatch | None:
        """Overlapping views of a scene; none where they cannot be had."""
        rng = random.Random(seed)
        for _ in range(DRAWS):
            drawn = draw_overlapping(each.frusta, num_views, self.filters.min_overlap, rng)
            if drawn is None:
                continue
            try:
                batch = load_frames(each.scene, drawn[0], height, width)
                self._require_depth(batch, drawn[1])
            except SkippedError as error:
                self.skipped.scene(each.scene.name, error.reason, error.detail)
            except (ValueError, OSError) as error:
                self.skipped.scene(each.scene.name, UNREADABLE, str(error))
            else:
                return batch
        return None

    def _require_depth(self, batch: ViewBatch, anchor: int) -> None:
        """Where depth is known, it tells whether views show the same."""
        if batch.depth is None or batch.is_valid is None:
            return
        known = batch.is_valid[0].float().mean((1, 2))
        if self.filters.require_depth and float(known.min()) < self.filters.min_known_depth:
            raise SkippedError(SPARSE_DEPTH, f"{float(known.min()):.1%} of a view")
        # Where too little is known, it does not tell.
        if float(known.min()) < max(0.5, self.filters.min_known_depth):
            return
        for view in range(batch.num_views):
            _, is_seen = batch.correspondences(anchor, view)
            share = float(is_seen.float().mean() / known[anchor])
            if view != anchor and share < self.filters.min_overlap / 2:
                raise SkippedError(TOO_LITTLE, f"{share:.1%} by depth")

    def _order(self, rng: random.Random) -> Iterator[UsableScene]:
        """Scenes at random, each once before one comes again (Fisher and Yates's shuffle)."""
        while True:
            moved: dict[int, int] = {}
            for row in range(len(self.scenes)):
                other = rng.randrange(row, len(self.scenes))
                yield self.scenes[moved.get(other, other)]
                moved[other] = moved.get(row, row)
