"""How papers score networks of views: which frames of each scene, and the scores they report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from fm3d_plugins.data.evaluation_index import EvaluationViews, read_evaluation_index

ProtocolName = Literal["re10k-2view", "dl3dv-16-8"]


class PublishedScore(NamedTuple):
    """A row of a paper's table: PSNR in dB, SSIM, LPIPS with VGG."""

    network: str
    source: str
    psnr: float
    ssim: float
    lpips: float


@dataclass(frozen=True)
class Protocol:
    """What a network is shown of a scene, and what it is asked for."""

    method: Literal["lvsm", "rayzer"]
    weights: str
    """That the published scores are of."""
    index_file: str
    """Names the frames of each scene, and where to get it."""
    num_context: int
    num_targets: int
    needs_index: bool
    """False: without one, `middle_frames` chooses."""
    published: tuple[PublishedScore, ...]
    image_size: int = 256
    """Side of the square views, pixels."""

    def read_index(self, path: Path | None) -> dict[str, EvaluationViews] | None:
        """Frames by scene; None for no file where the protocol has a rule instead.

        Raises:
            ValueError: The file is needed and not given, damaged, or was made for other numbers of
                views.
            OSError: It cannot be read.
        """
        remedy = f"Give the protocol's own index: {self.index_file}."
        if path is None:
            if self.needs_index:
                raise ValueError(
                    "No evaluation index was given. Expected --index with the file that names the "
                    f"frames of each scene. {remedy}"
                )
            return None
        index = read_evaluation_index(path)
        expected = (self.num_context, self.num_targets)
        for scene, views in index.items():
            counts = (len(views.context), len(views.targets))
            if counts != expected or len({*views.context, *views.targets}) != sum(expected):
                raise ValueError(
                    f"{path}: the scene {scene} has context {list(views.context)} and targets "
                    f"{list(views.targets)}. Expected {expected[0]} and {expected[1]} frames, all "
                    f"different. {remedy}"
                )
        return index


PROTOCOLS: Mapping[ProtocolName, Protocol] = {
    "re10k-2view": Protocol(
        method="lvsm",
        weights="coast01/LVSM/decoder_only_256",
        index_file="assets/evaluation_index_re10k.json of pixelSplat's repository",
        num_context=2,
        num_targets=3,
        needs_index=True,
        published=(
            PublishedScore("pixelSplat", "LVSM's paper", 26.09, 0.863, 0.136),
            PublishedScore("MVSplat", "LVSM's paper", 26.39, 0.869, 0.128),
            PublishedScore("GS-LRM", "LVSM's paper", 28.10, 0.892, 0.114),
            PublishedScore("LVSM encoder-decoder", "LVSM's README", 28.60, 0.893, 0.114),
            PublishedScore("LVSM decoder-only", "LVSM's README", 29.67, 0.906, 0.098),
        ),
    ),
    "dl3dv-16-8": Protocol(
        method="rayzer",
        weights="hwjiang/RayZer",
        index_file=(
            "rayzer_evaluation_index_dl3dv_even.json or ..._random.json of RayZer's repository"
        ),
        num_context=16,
        num_targets=8,
        needs_index=False,
        published=(
            PublishedScore("GS-LRM, even", "RayZer's paper", 23.49, 0.712, 0.252),
            PublishedScore("GS-LRM, random", "RayZer's paper", 23.02, 0.705, 0.266),
            PublishedScore("LVSM encoder-decoder, even", "RayZer's paper", 23.69, 0.723, 0.242),
            PublishedScore("LVSM encoder-decoder, random", "RayZer's paper", 23.10, 0.703, 0.257),
            PublishedScore("RayZer of the paper, even", "RayZer's paper", 24.36, 0.757, 0.209),
            PublishedScore("RayZer of the paper, random", "RayZer's paper", 23.72, 0.733, 0.222),
            PublishedScore("RayZer as released, even", "RayZer's README", 25.59, 0.795, 0.183),
            PublishedScore("RayZer as released, random", "RayZer's README", 25.47, 0.795, 0.181),
        ),
    ),
}
"""Of LVSM on RealEstate10K (Jin et al. 2025) and of RayZer on DL3DV (Jiang et al. 2025).

even and random name RayZer's two indices.
"""

SHORTEST, LONGEST = 64, 96
"""Frames from the first to the last that RayZer's indices take on DL3DV."""

TARGETS = (2, 5, 8, 11, 14, 17, 20, 22)
"""Of 24 frames in order, those that both of RayZer's indices ask for."""


def middle_frames(num_frames: int) -> EvaluationViews | None:
    """24 frames at equal distances in the middle of a video; None if it is too short.

    **Departure:** the published frames are in index files alone; this is for data without one.
    """
    if num_frames <= SHORTEST:
        return None
    distance = min(num_frames - 1, LONGEST)
    start = (num_frames - 1 - distance) // 2
    frames = [start + round(index * distance / 23) for index in range(24)]
    context = tuple(frame for index, frame in enumerate(frames) if index not in TARGETS)
    return EvaluationViews(context, tuple(frames[index] for index in TARGETS))
