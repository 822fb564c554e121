"""`fm3d film`: a finished run seen along a camera path, as one mp4."""

import time
from pathlib import Path
from typing import Any, Literal

import torch

LARGEST_PICTURE, MOST_FPS = 20_000, 1000
"""Pixels of a side; frames per second."""

LONG_SECONDS = 10
"""What is left after two frames, from which on it is said."""


def command(
    load_config: Path,
    output: Path = Path("film.mp4"),
    path: Literal["through", "around"] = "through",
    camera_path: Path | None = None,
    num_keys: int = 6,
    order: Literal["capture", "nearest"] = "capture",
    radius: float = 0.1,
    frames: int = 30,
    fps: int = 30,
    loop: bool = False,
) -> None:
    """Write a film of a finished run. ffmpeg need not be installed.

    Args:
        load_config: config.yml of a finished run, or a folder: the newest run in it.
        output: The film to write (mp4).
        path: through: from one key camera to the next; around: a small circle around each of them.
        camera_path: A path that was saved in the viewer (JSON), in the place of the options below.
        num_keys: Key cameras, evenly among the training photos; at least 2 for a path through them.
        order: Of the photos: capture, by name; nearest, each the nearest that is left to the last.
        radius: Of the circles, as a share of the mean distance of the cameras from their centre.
        frames: Of each transition or circle.
        fps: Frames per second.
        loop: Return to the first key camera at the end; only with path through.

    Raises:
        FileNotFoundError: There is no such run or camera path.
        ValueError: A number is too small, the camera path is no such file, or the run is of a
            method of another package.
    """
    from fm3d_plugins.atomic import require_place
    from fm3d_plugins.cli.runs import files_of, find_run, load_run
    from fm3d_plugins.io.video import write_video
    from fm3d_plugins.progress import say, track

    for name, value in (("num-keys", num_keys), ("frames", frames), ("fps", fps)):
        if value < 1:
            raise ValueError(f"--{name} is {value}; expected at least 1. Give a larger number.")
    if not 0 < radius < float("inf"):
        raise ValueError(f"--radius is {radius}; expected a number above 0, such as 0.1.")
    if camera_path is not None:
        cameras, fps = read_camera_path(camera_path, fps)
    load_config = find_run(load_config)
    _, pipeline = load_run(load_config)
    inputs = [load_config, *files_of(pipeline), *([camera_path] if camera_path else [])]
    require_place(output, inputs)
    if camera_path is None:
        training = pipeline.datamanager.train_dataset.cameras.to("cpu")
        cameras = _cameras(training, path, num_keys, order, radius, frames, loop)

    def pictures():
        for number in track(range(len(cameras)), "Rendering", len(cameras)):
            before = time.monotonic()
            yield pipeline.model.get_outputs_for_camera(cameras[number : number + 1])["rgb"]
            # The first frame also pays for what is made once.
            left = (time.monotonic() - before) * (len(cameras) - number - 1)
            if number == 1 and left > LONG_SECONDS:
                say(f"{len(cameras)} frames, expected to take {left / 60:.1f} minutes.")

    write_video(pictures(), output, fps, inputs)
    say(f"{len(cameras)} frames, {len(cameras) / fps:.1f} s: {output}")


def _cameras(
    training, path: str, num_keys: int, order: str, radius: float, frames: int, loop: bool
):
    """Of the film, in nerfstudio's type."""
    from fm3d_plugins.geometry.trajectories import (
        circles_around,
        interpolate_cameras,
        nearest_neighbour_order,
    )
    from fm3d_plugins.nerfstudio_cameras import (
        intrinsics_matrices,
        pinhole_cameras,
        world_from_cameras,
    )

    poses, lenses = world_from_cameras(training), intrinsics_matrices(training)
    row = nearest_neighbour_order(poses) if order == "nearest" else torch.arange(len(poses))
    chosen = row[torch.linspace(0, len(row) - 1, min(num_keys, len(row))).round().long()]
    # Photos of a scene may differ in size and lens: the film has those of its first one.
    height, width = int(training.height[chosen[0]]), int(training.width[chosen[0]])
    keys, lens = poses[chosen], lenses[chosen[:1]].expand(len(chosen), -1, -1)
    if path == "around":
        centers = poses[:, :3, 3]
        spread = float((centers - centers.mean(0)).norm(dim=-1).mean()) or 1.0
        views = circles_around(keys, radius * spread, frames)
        lens = lens[:1].expand(len(views), -1, -1)
    else:
        views, lens = interpolate_cameras(keys, lens, frames, loop=loop)
    return pinhole_cameras(views, lens, height, width)


def read_camera_path(path: Path, fps: int) -> tuple[Any, int]:
    """Cameras that the viewer saved, in nerfstudio's type, and their frames per second.

    Args:
        fps: Where the file names none.

    Raises:
        ValueError: The file is no such path.
        OSError: It cannot be read.
    """
    from nerfstudio.cameras.camera_paths import get_path_from_json

    from fm3d_plugins.files import naming_damage, read_json_object

    expected = "a camera path that the viewer saved: an object with camera_path, a list of cameras"
    content = read_json_object(path, expected)
    with naming_damage(path, f"Expected {expected}. Save it again."):
        _require_sizes(path, content)
        cameras = get_path_from_json(content)
        found = len(cameras)
        fps = round(float(content.get("fps", fps)))
    if not found or not 1 <= fps <= MOST_FPS:
        raise ValueError(
            f"{path} has {found} cameras and {fps} frames per second. Expected {expected}, and 1 "
            f"to {MOST_FPS} frames per second."
        )
    _require_cameras(path, cameras)
    return cameras, fps


def _require_sizes(path: Path, content: dict[str, Any]) -> None:
    for key in ("render_width", "render_height"):
        if type(content[key]) not in (int, float) or not 1 <= content[key] <= LARGEST_PICTURE:
            raise ValueError(
                f"{path}: {key} is {content[key]!r:.80}. Expected 1 to {LARGEST_PICTURE} pixels. "
                "Save the camera path again."
            )


def _require_cameras(path: Path, cameras: Any) -> None:
    """Raise ValueError where poses are not rigid, or fields of view not from 0 to 180 degrees."""
    from fm3d_plugins.geometry.poses import nearest_rotation
    from fm3d_plugins.io.scene_checks import MAX_ROTATION_ERROR
    from fm3d_plugins.scene import FARTHEST, LARGEST_FOCAL, LEAST_FOCAL

    poses = cameras.camera_to_worlds.double()
    rotations = poses[:, :, :3]
    focal = torch.stack([cameras.fx, cameras.fy]).double()
    longest = max(int(cameras.width.max()), int(cameras.height.max()))
    off = (rotations - nearest_rotation(rotations.nan_to_num(0, 0, 0))).abs()
    for fine, what in (
        ((poses.abs() <= FARTHEST).all(), "poses that are not finite"),
        ((off <= MAX_ROTATION_ERROR).all(), "poses without a rotation"),
        (
            ((focal >= LEAST_FOCAL * longest) & (focal <= LARGEST_FOCAL)).all(),
            "fields of view that no camera has",
        ),
    ):
        if not bool(fine):
            raise ValueError(
                f"{path} has {what}. Expected a camera path that the viewer saved. Save it again."
            )
