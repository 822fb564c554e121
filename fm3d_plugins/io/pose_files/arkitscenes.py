"""Scans of the data set ARKitScenes (Baruch et al. 2021): a trajectory and a lens per frame.

A row of *.traj is a time in seconds, the rotation vector (radians) and the translation (metres) of
camera_from_world with OpenCV axes. A frame's *.pincam holds width, height, fx, fy, cx, cy; its name
ends with the frame's time.
"""

from pathlib import Path

import torch

from fm3d_plugins.errors import listed
from fm3d_plugins.geometry.poses import invert, pose_from_rotation_translation, so3_exp
from fm3d_plugins.io.pose_files.posed_photos import PosedPhotos, posed_photos
from fm3d_plugins.io.pose_files.reading import files_in, numbers, read_text, size

LOOKED_FOR = "ARKitScenes: *.traj, and *_intrinsics/*.pincam"

LONGEST_GAP = 0.01
"""Seconds between a frame and the row of the trajectory that is its own."""


def find(path: Path) -> tuple[Path, ...]:
    """The trajectory, then the frames' files."""
    trajectories = [file for file in files_in(path, (".",), ("*.traj",)) if file.suffix == ".traj"]
    if not trajectories:
        return ()
    folder = trajectories[0].parent
    below = sorted(each.name for each in folder.glob("*_intrinsics"))
    frames = files_in(folder, (*below, "."), ("*.pincam",))
    return (trajectories[0], *frames) if frames else ()


def read(files: tuple[Path, ...]) -> PosedPhotos:
    """All frames for whose time there is a pose.

    Raises:
        ValueError: A file is damaged.
    """
    trajectory, *frames = files
    rows = [
        numbers(line, 7, f"a row of {trajectory}")
        for line in read_text(trajectory).splitlines()
        if line.strip()
    ]
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 7)
    chosen, lenses, names, without = [], [], [], []
    for frame in frames:
        time = numbers(frame.stem.rpartition("_")[2], 1, f"the time in the name of {frame}")[0]
        away = (table[:, 0] - time).abs()
        if not len(away) or float(away.min()) > LONGEST_GAP:
            without.append(frame.stem)
            continue
        chosen.append(int(away.argmin()))
        lenses.append(numbers(read_text(frame), 6, f"the lens in {frame}"))
        names.append(frame.stem)
    if not names:
        raise ValueError(
            f"{trajectory} has {len(rows)} poses, none within {LONGEST_GAP} s of the "
            f"{len(frames)} frames beside it ({listed(without)}). Expected those of one scan."
        )
    poses = table[chosen]
    lens = torch.tensor(lenses, dtype=torch.float64)
    camera_from_world = pose_from_rotation_translation(so3_exp(poses[:, 1:4]), poses[:, 4:])
    return posed_photos(
        names,
        invert(camera_from_world),
        lens[:, 2:4],
        axes="opencv",
        principal_points=lens[:, 4:],
        image_sizes=[size(row[:2], name) for row, name in zip(lenses, names, strict=True)],
        scale="metric",
        without_pose=without,
    )
