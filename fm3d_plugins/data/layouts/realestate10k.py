"""RealEstate10K as published: a text file of cameras per clip, and frames of the video beside it.

google.github.io/realestate10k: the first line is the video's address; each other one is a frame:
its time in microseconds, fx, fy, cx, cy in units of the image's sides, two zeros, and 3 x 4 numbers
camera_from_world, row by row, OpenCV axes. Lengths have no unit, and there is no depth.

The frames are not given out; who fetches the videos keeps them in a folder named as the text file,
each frame named by its time. It is looked for beside the text file, and in `frames` or `images`
beside it or beside its folder, there also below the folder's name (`train/CLIP.txt`,
`frames/train/CLIP/TIME.png`).
"""

from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path

import torch

from fm3d_plugins.data.layouts.layout import Layout, Where, lenses
from fm3d_plugins.data.scenes import CapturedScene, checked_scene
from fm3d_plugins.files import is_file, naming_damage
from fm3d_plugins.io.pose_files.reading import head, numbers, read_text

_COLUMNS = 19
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_EXPECTED = (
    "Expected RealEstate10K's text: the video's address, then lines of a time and 18 numbers. "
    "Fetch the file again, or leave it out."
)


def _find(folder: Path, names: Set[str]) -> list[Path]:
    texts = sorted(name for name in names if name.endswith(".txt"))
    # One tells for its folder, which may have ten thousand.
    if not texts or not is_file(folder / texts[0]):
        return []
    is_clip = head(folder / texts[0]).startswith((b"http://", b"https://"))
    return [folder / name for name in texts] if is_clip else []


def read_clip(path: Path, where: Where) -> Iterator[CapturedScene]:
    """The clip of a text file."""
    with naming_damage(path, _EXPECTED):
        address, *lines = read_text(path).splitlines() or [""]
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"its first line is {address!r:.80}")
        rows = [line.split() for line in lines if line.strip()]
        times = [row[0] for row in rows]
        if not rows or not all(time.isascii() and time.isdigit() for time in times):
            raise ValueError("it lists no frame, or one without a time")
        if len(set(times)) < len(times) or max(map(len, times)) > _COLUMNS:
            raise ValueError("a time is there twice, or is none")
        found = torch.tensor(
            [numbers(row[1:], _COLUMNS - 1, f"the frame {row[0]}") for row in rows],
            dtype=torch.float64,
        )
    folder, suffix = _frames(path, times)
    pose = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    pose[:, :3] = found[:, 6:].unflatten(-1, (3, 4))
    photos = [where.below(folder, time + suffix, path) for time in times]
    scene = checked_scene(path.stem, photos, lenses(found[:, :4].tolist()), pose, path)
    yield replace(scene, sizes=found.new_ones(len(photos), 2))


def _frames(path: Path, times: list[str]) -> tuple[Path, str]:
    """The folder of the frames, and their suffix; of the frames some may be absent."""
    parent = path.parent
    places = [parent]
    for around in (parent, parent.parent):
        for name in ("frames", "images"):
            places += [around / name, around / name / parent.name]
    for place in places:
        folder = place / path.stem
        for suffix in _SUFFIXES:
            if folder.is_dir() and any(is_file(folder / (time + suffix)) for time in times):
                return folder, suffix
    raise FileNotFoundError(
        f"{path} has no frames: expected images TIME.png or TIME.jpg in a folder {path.stem} "
        "beside it, or in frames/. Fetch the video's frames, or leave the clip out."
    )


REALESTATE10K = Layout("RealEstate10K", _find, read_clip)
