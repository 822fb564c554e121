"""Bundler's bundle.out with its list of photos (Snavely et al. 2006).

A point X of the world lies at P = R X + t in the camera, which looks along -z with y up; with
p = -P / P.z and r² = |p|² its pixel is f (1 + k1 r² + k2 r⁴) p from the photo's middle, y up.
In OpenCV's axes (y and z turned round) that is k1 and k2 of the usual polynomial.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch

from fm3d_plugins.geometry.poses import invert, pose_from_rotation_translation
from fm3d_plugins.io.pose_files.posed_photos import PosedPhotos, posed_photos, without_rounding
from fm3d_plugins.io.pose_files.reading import files_in, head, numbers, read_text

LOOKED_FOR = "Bundler: *.out that begins with `# Bundle file`, and list.txt beside it"

_LISTS = ("list.txt", "../list.txt", "*list*.txt")
"""Names of photos, in the order of the cameras: beside bundle.out, or above its folder."""

_FOCAL_GUESS = re.compile(r"\s+0\s+[-+.\deE]+$")
"""Behind a photo's name, where EXIF told one."""


def find(path: Path) -> tuple[Path, ...]:
    """bundle.out, and the list of photos if there is one."""
    for file in files_in(path, (".", "bundle"), ("bundle.out", "*.out")):
        if head(file).startswith(b"# Bundle file"):
            return file, *_photo_lists(file)[:1]
    return ()


def read(files: tuple[Path, ...]) -> PosedPhotos:
    """Cameras that have a focal length; the others were not registered.

    Raises:
        ValueError: A file is cut off, or the list names another number of photos.
    """
    bundle = files[0]
    if len(files) < 2:
        raise ValueError(
            f"{bundle} names no photos itself, and there is no list.txt beside it. Expected the "
            "list of photos that Bundler was given, one path a line. Copy it there."
        )
    lines = iter(read_text(bundle).splitlines()[1:])
    tokens = (token for line in lines if not line.startswith("#") for token in line.split())
    cameras, points = (int(_taken(tokens, 1)[0]) for _ in range(2))
    rows = filter(str.strip, read_text(files[1]).splitlines())
    listed = [_FOCAL_GUESS.sub("", row.strip()) for row in rows]
    if len(listed) != cameras:
        raise ValueError(
            f"{bundle} has {cameras} cameras, but {files[1]} names {len(listed)} photos. Expected "
            "as many, in the same order. Take the list that the file was made with."
        )
    table = torch.tensor([_taken(tokens, 15) for _ in range(cameras)]).double()
    xyz, rgb = [], []
    for _ in range(points):
        xyz.append(_taken(tokens, 3))
        rgb.append(_taken(tokens, 3))
        # The views that see it: image, key, x, y.
        skipped = 4 * int(_taken(tokens, 1)[0])
        if sum(1 for _ in islice(tokens, skipped)) != skipped:
            raise ValueError(f"{bundle} is cut off within its points. Copy it anew.")
    has_pose = table[:, 0] != 0
    kept = table[has_pose]
    distortion = torch.zeros(len(kept), 6, dtype=torch.float64)
    distortion[:, :2] = kept[:, 1:3]
    camera_from_world = pose_from_rotation_translation(
        kept[:, 3:12].unflatten(-1, (3, 3)), kept[:, 12:]
    )
    return posed_photos(
        [name for name, has in zip(listed, has_pose.tolist(), strict=True) if has],
        invert(without_rounding(camera_from_world)),
        kept[:, :1].expand(-1, 2),
        axes="opengl",
        distortion=distortion,
        points=torch.tensor(xyz, dtype=torch.float64).reshape(-1, 3),
        point_colors=torch.tensor(rgb).reshape(-1, 3).clamp(0, 255).to(torch.uint8),
        without_pose=[n for n, has in zip(listed, has_pose.tolist(), strict=True) if not has],
    )


def _photo_lists(bundle: Path) -> list[Path]:
    found = []
    for pattern in _LISTS:
        folder = bundle.parent.parent if pattern.startswith("../") else bundle.parent
        name = pattern.removeprefix("../")
        found += files_in(folder, (".",), (name,))
    return found


def _taken(tokens: Iterator[str], count: int) -> list[float]:
    """The next numbers of the file, in double precision."""
    return numbers([next(tokens, None) for _ in range(count)], count, "a row of numbers")
