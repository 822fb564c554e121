"""A network of views scored on a whole data set, as papers score it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.backends.metrics import Lpips, image_metrics
from fm3d_plugins.data.chunks import read_chunk
from fm3d_plugins.data.evaluation_index import EvaluationViews
from fm3d_plugins.data.protocols import Protocol, middle_frames
from fm3d_plugins.data.scenes import CapturedScene, read_scene, read_scene_list, scene_name
from fm3d_plugins.data.views import Views, ViewSize, load_views
from fm3d_plugins.progress import track

CHUNK = ".torch"

Render = Callable[[Views, Sequence[int], Sequence[int]], Float[Tensor, "target 3 height width"]]
"""From views in the order of the video, and the positions of context and targets among them, to
the targets. RGB in [0, 1]."""


def data_files(data: Path) -> list[Path]:
    """Scene files and chunks that a path means: itself, a list's, or a folder's chunks.

    Raises:
        FileNotFoundError: There is nothing, or what a list names is absent.
        ValueError: A list names nothing.
    """
    found = sorted(data.glob(f"*{CHUNK}")) if data.is_dir() else [data] * data.is_file()
    if not found:
        raise FileNotFoundError(
            f"{data} is {'a folder without chunks' if data.is_dir() else 'absent'}. Expected a "
            f"list of scene files, a scene's JSON file, a chunk of scenes (*{CHUNK}) or a folder "
            "of chunks. Give one of these."
        )
    return found if found[0].suffix in (".json", CHUNK) else read_scene_list(data)


@dataclass(frozen=True)
class SceneScore:
    """Metrics of one scene, means over its targets."""

    scene: str
    context: tuple[int, ...]
    targets: tuple[int, ...]
    metrics: dict[str, float]


@dataclass
class Evaluation:
    """A network under a protocol: scores of scenes so far, and why others have none."""

    protocol: Protocol
    index: Mapping[str, EvaluationViews] | None
    """Frames by scene. None: as `middle_frames` chooses them."""
    render: Render
    patch_size: int
    """Of the network, pixels."""
    device: torch.device
    scores: list[SceneScore] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """Numbers of scenes that are left out, by reason."""
    lpips: Lpips = field(default_factory=lambda: Lpips("vgg"))
    _seen: set[str] = field(default_factory=set)

    def run(self, files: Sequence[Path], limit: int | None = None) -> None:
        """Score all scenes, or a number of them, while a bar shows how many.

        Raises:
            ValueError: There is none, or a scene is damaged.
            OSError: A file cannot be read.
        """
        # Chunks do not tell how many scenes they hold before they are read.
        is_known = self.index is None or all(path.suffix != CHUNK for path in files)
        most = min(len(files) if is_known else len(self.index or ()), limit or 10**9)
        samples = islice(self._samples(files), limit)
        for scene, frames in track(samples, "Scoring scenes", most):
            self.scores.append(self.score(scene, frames))
        if not self.scores:
            raise ValueError(
                f"No scene can be scored; {self.left_out()}. Expected scenes with all frames that "
                "the evaluation index names. Give the index that was made for this data set: "
                f"{self.protocol.index_file}."
            )

    def means(self) -> dict[str, float]:
        """Of every metric over the scenes."""
        return mean_metrics([score.metrics for score in self.scores])

    def left_out(self) -> str:
        """Which scenes have no score."""
        parts = [f"{count} {reason}" for reason, count in self.skipped.items()]
        return f"left out: {', '.join(parts) or 'none'}"

    def missing(self) -> list[str]:
        """Scenes of the index that the data lack, once all files were read."""
        return sorted(set(self.index or ()) - self._seen)

    @torch.inference_mode()
    def score(self, scene: CapturedScene, frames: EvaluationViews) -> SceneScore:
        """Render the targets of a scene and compare them with the photos."""
        numbers, context, targets = frames.in_order()
        size = ViewSize(self.protocol.image_size, self.patch_size)
        views = load_views(scene, numbers, size).to(self.device)
        renders = self.render(views, context, targets).float().clamp(0, 1)
        pairs = zip(renders.movedim(1, -1), views.images[targets].movedim(1, -1), strict=True)
        each = [image_metrics(*pair, [self.lpips], sample_covariance=True) for pair in pairs]
        return SceneScore(scene.name, frames.context, frames.targets, mean_metrics(each))

    def _samples(self, files: Sequence[Path]) -> Iterator[tuple[CapturedScene, EvaluationViews]]:
        """Scenes that can be scored, one after the other, and their frames."""
        for path in files:
            for scene in self._scenes(path):
                frames = self.index[scene.name] if self.index else middle_frames(len(scene))
                if frames is None or max(frames.context + frames.targets) >= len(scene):
                    self.skipped["too short"] += 1
                else:
                    yield scene, frames

    def _scenes(self, path: Path) -> Iterator[CapturedScene]:
        """Scenes of a file that the index has."""
        if path.suffix == CHUNK:
            yield from (scene for scene in read_chunk(path) if self._is_asked_for(scene.name))
        elif self._is_asked_for(scene_name(path)):
            yield read_scene(path)

    def _is_asked_for(self, name: str) -> bool:
        if self.index is not None and name not in self.index:
            self.skipped["not in the index, or null there"] += 1
            return False
        self._seen.add(name)
        return True


def mean_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every metric; all have the same."""
    return {name: fmean(each[name] for each in metrics) for name in metrics[0]}
