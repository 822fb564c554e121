"""Synthetic rooms with exact cameras, depth and points: a first capture, and data to train on."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fm3d_plugins.geometry.pointmaps import points_at
from fm3d_plugins.kernels.shapes import check_shapes
from fm3d_plugins.memory import available_memory
from fm3d_plugins.photos.photo import SMALLEST_SIDE
from fm3d_plugins.scene import SceneGeometry
from fm3d_plugins.synthetic_rooms.scene import Room
from fm3d_plugins.synthetic_rooms.tables import Tables, build_tables, mean_colors

_ROWS_AT_ONCE = 8
"""Rows whose samples are kept at a time: a megabyte or two, which stays in a core's cache."""
_NODES_AT_ONCE = 2048

_NUM_POINTS = 50_000

_README = """\
A synthetic capture: photos of a room that was ray cast from seed {seed}, made by `fm3d sample`.
images/ photos; transforms.json exact cameras (nerfstudio's convention, metres, z up);
depth/ z-depth in millimetres (16-bit PNG); points.ply surface points in the same world.
"""

LARGEST_SIDE = 65_000
"""Pixels; a JPEG has at most 65 535."""

_BYTES_PER_PIXEL = 80
"""Of all views: colours, depth and charts, and copies of them while they are written."""

Track = Callable[[Sequence[Any]], Any]
"""Yields the items it is given, showing progress or not."""


@dataclass(frozen=True)
class RenderQuality:
    """What a rendering may cost."""

    samples_per_side: int = 2
    """Samples along each side of a pixel."""
    light_spacing: float = 0.08
    """Metres between the nodes of the light map."""
    light_samples: int = 4
    """Shadow rays per node and light, along each side of the light."""
    bounce_rays: int = 64
    """Rays per node that gather light from other surfaces."""


DRAFT = RenderQuality(samples_per_side=2, light_spacing=0.3, light_samples=2, bounce_rays=16)
"""For many small pictures: the light costs a tenth, and colours differ by 2 % on average."""


@dataclass(frozen=True)
class LitRoom:
    """A room whose light has been worked out: ready for any number of views."""

    room: Room
    tables: Tables
    quality: RenderQuality


@dataclass(frozen=True)
class RoomViews:
    """Views of one room. Metres; OpenCV cameras; pixel centres at +0.5."""

    rgb: Float[Tensor, "view height width 3"]
    """Display colours in [0, 1], float32."""
    depth: Float[Tensor, "view height width"]
    """z of the surface at each pixel's centre, float32; every pixel sees a surface."""
    charts: Int[Tensor, "view height width"]
    """Number of the face that is seen at the pixel's centre; equal in all views of a room."""
    world_from_camera: Float[Tensor, "view 4 4"]
    """As given; z is up in the world."""
    intrinsics: Float[Tensor, "3 3"]
    """As given, shared by all views."""


def light_room(
    room: Room, quality: RenderQuality | None = None, num_threads: int | None = None
) -> LitRoom:
    """Work out the light of a room: window, lamps, their soft shadows, and one bounce.

    Args:
        num_threads: All available by default. The result does not depend on it.
    """
    from fm3d_plugins.synthetic_rooms import lighting

    quality = quality or RenderQuality()
    tables = build_tables(room, quality.light_spacing)
    num_nodes = len(tables.light)
    nodes = np.zeros((num_nodes, 6))
    lighting.place_nodes(tables, nodes)
    direct, both = np.zeros((num_nodes, 3)), np.zeros((num_nodes, 3))
    colors, ambient = mean_colors(tables), np.array(room.ambient)
    parts = [
        (start, min(start + _NODES_AT_ONCE, num_nodes))
        for start in range(0, num_nodes, _NODES_AT_ONCE)
    ]
    with ThreadPoolExecutor(num_threads or _available_threads()) as pool:

        def shine(part: tuple[int, int]) -> None:
            lighting.direct_light(tables, nodes, *part, quality.light_samples, direct)

        list(pool.map(shine, parts))
        lit = tables._replace(light=direct)
        both[:] = direct

        def bounce(part: tuple[int, int]) -> None:
            lighting.bounced_light(lit, nodes, *part, quality.bounce_rays, colors, ambient, both)

        list(pool.map(bounce, parts))
    return LitRoom(room, tables._replace(light=both), quality)


def render_views(
    lit: LitRoom,
    world_from_camera: Float[Tensor, "view 4 4"],
    intrinsics: Float[Tensor, "3 3"],
    width: int,
    height: int,
    *,
    num_threads: int | None = None,
    track: Track = iter,
) -> RoomViews:
    """Render a lit room; each view is one task.

    Args:
        world_from_camera: Rigid OpenCV cameras inside the room.
        intrinsics: Pinhole in pixels, without skew.
        num_threads: All available by default. The pictures do not depend on it.
        track: Is given the tasks, and yields them as they are waited for.

    Raises:
        ValueError: A camera is outside the room, or the intrinsics are no pinhole.
    """
    _require_usable(lit.room, world_from_camera, intrinsics)
    cameras = world_from_camera.detach().cpu().double().numpy()
    pinhole = intrinsics.detach().cpu().double().numpy()
    with ThreadPoolExecutor(num_threads or _available_threads()) as pool:
        one = partial(_render_view, lit, pinhole, width, height)
        tasks = [pool.submit(one, camera) for camera in cameras]
        views = [task.result() for task in track(tasks)]
    rgb, depth, charts = (torch.from_numpy(np.stack(part)) for part in zip(*views, strict=True))
    return RoomViews(rgb, depth, charts, world_from_camera, intrinsics)


def capture_cameras(room: Room, num_views: int) -> Float[Tensor, "view 4 4"]:
    """Cameras of a walk with a camera in hand through a furnished room: OpenCV, float64.

    A closed loop on the free side of the room, out at knee height and back above eye height, that
    looks across the middle. Every view has neighbours on both sides, so any of them can be held
    out.
    """
    reach = 0.5 * room.size[1] - 0.35
    cameras = []
    for index in range(num_views):
        phase = 2.0 * math.pi * (index + 0.25) / num_views
        azimuth = math.radians(60.0) * math.sin(phase)
        radius = reach + 0.12 * math.cos(2.0 * phase + 0.6)
        eye = (
            1.05 * radius * math.sin(azimuth),
            0.2 - radius * math.cos(azimuth),
            1.3 - 0.42 * math.cos(phase) + 0.05 * math.sin(3.0 * phase),
        )
        target = (-0.25 * math.sin(azimuth), 0.45, 0.85 + 0.1 * math.cos(phase))
        cameras.append(looking_at(eye, target))
    return torch.stack(cameras)


def capture_intrinsics(width: int, height: int) -> Float[Tensor, "3 3"]:
    """A pinhole of 65 degrees across the longer side, principal point in the middle; float64."""
    focal = 0.5 * max(width, height) / math.tan(math.radians(32.5))
    return torch.tensor(
        [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]], dtype=torch.float64
    )


def looking_at(
    eye: tuple[float, float, float], target: tuple[float, float, float]
) -> Float[Tensor, "4 4"]:
    """world_from_camera of an upright OpenCV camera that looks at a place; z up, metres."""
    origin = torch.tensor(eye, dtype=torch.float64)
    forward = torch.nn.functional.normalize(origin.new_tensor(target) - origin, dim=0)
    right = torch.linalg.cross(forward, origin.new_tensor([0.0, 0.0, 1.0]))
    right = torch.nn.functional.normalize(right, dim=0)
    down = torch.linalg.cross(forward, right)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = torch.stack([right, down, forward, origin], dim=1)
    return pose


def write_sample(
    output_dir: str | Path,
    *,
    num_photos: int = 24,
    width: int = 480,
    height: int = 360,
    seed: int = 0,
    overwrite: bool = False,
    quality: RenderQuality | None = None,
    num_threads: int | None = None,
    track: Track = iter,
    started: Callable[[], object] = bool,
) -> SceneGeometry:
    """Write a capture of a synthetic room: photos, and the truth beside them.

    The folder gets images/frame_0001.jpg and so on, depth/frame_0001.png (z in whole millimetres,
    16 bits, nerfstudio's default unit), points.ply, transforms.json and README.txt. It appears
    when it is complete.

    Args:
        started: Called when nothing is left to refuse, before the work.

    Returns:
        The cameras and points that were written.

    Raises:
        FileExistsError: `output_dir` holds something and `overwrite` is False, or holds what
            this package did not write.
        ValueError: Fewer than 2 photos, photos too small to see anything in, or too large.
    """
    from fm3d_plugins.atomic import atomic_directory
    from fm3d_plugins.synthetic_rooms.rooms import random_room

    _require_possible(num_photos, width, height, seed)
    with atomic_directory(Path(output_dir), overwrite=overwrite) as folder:
        started()
        room = random_room(seed)
        cameras, intrinsics = capture_cameras(room, num_photos), capture_intrinsics(width, height)
        lit = light_room(room, quality, num_threads)
        views = render_views(
            lit, cameras, intrinsics, width, height, num_threads=num_threads, track=track
        )
        scene = _scene_of(views, seed)
        _write_files(folder, views, scene)
        (folder / "README.txt").write_text(_README.format(seed=seed), encoding="utf-8")
    return scene


def _require_possible(num_photos: int, width: int, height: int, seed: int) -> None:
    """Raise ValueError where photos are too few, too small or too large, or the seed is no seed."""
    asked = f"A sample of {num_photos} photos of {width} x {height} pixels was asked for. "
    if num_photos < 2 or min(width, height) < SMALLEST_SIDE:
        raise ValueError(
            f"{asked}Expected at least 2 photos of at least {SMALLEST_SIDE} x {SMALLEST_SIDE}. "
            "Ask for more."
        )
    needed = num_photos * width * height * _BYTES_PER_PIXEL
    free = available_memory(torch.device("cpu"))
    if max(width, height) > LARGEST_SIDE or needed > free:
        raise ValueError(
            f"{asked}Expected sides of at most {LARGEST_SIDE} pixels, and views that fit into the "
            f"{free / 1e9:.1f} GB of free memory; these need {needed / 1e9:.1f} GB. Ask for less."
        )
    if not -(1 << 63) <= seed < 1 << 63:
        raise ValueError(f"The seed is {seed}. Expected a number of 64 bits. Choose another.")


def _write_files(folder: Path, views: RoomViews, scene: SceneGeometry) -> None:
    """Photos, depth, points and cameras."""
    from PIL import Image

    from fm3d_plugins.io.ply import write_ply
    from fm3d_plugins.io.transforms import write_transforms

    for part in ("images", "depth"):
        (folder / part).mkdir()
    millimetres = (views.depth.double().numpy() * 1000.0).round().astype(np.uint16)
    for name, rgb, depth in zip(scene.names, views.rgb, millimetres, strict=True):
        photo = Image.fromarray(_bytes(rgb).numpy())
        photo.save(folder / "images" / name, quality=95, subsampling=0)
        Image.fromarray(depth).save(folder / "depth" / f"{Path(name).stem}.png")
    write_ply(folder / "points.ply", scene.points, scene.point_colors)
    write_transforms(
        scene,
        folder / "transforms.json",
        depth_file_paths={name: f"depth/{Path(name).stem}.png" for name in scene.names},
        ply_file_path="points.ply",
    )


def _scene_of(views: RoomViews, seed: int) -> SceneGeometry:
    """Cameras, and points of randomly chosen pixels of all views alike."""
    num_views, height, width = views.depth.shape
    generator = torch.Generator().manual_seed(seed)
    points, colors = [], []
    for view in range(num_views):
        chosen = torch.randperm(height * width, generator=generator)[: _NUM_POINTS // num_views]
        pixels = torch.stack([chosen % width, chosen // width], dim=-1) + 0.5
        depth = views.depth[view].flatten()[chosen].double()
        camera = views.intrinsics, views.world_from_camera[view]
        points.append(points_at(pixels.double(), depth, *camera))
        colors.append(_bytes(views.rgb[view].flatten(0, 1)[chosen]))
    total = sum(len(part) for part in points)
    return SceneGeometry(
        names=tuple(f"frame_{view + 1:04d}.jpg" for view in range(num_views)),
        image_sizes=torch.tensor([[width, height]] * num_views),
        world_from_camera=views.world_from_camera,
        intrinsics=views.intrinsics.expand(num_views, 3, 3),
        distortion=torch.zeros(num_views, 6, dtype=torch.float64),
        camera_index=torch.zeros(num_views, dtype=torch.long),
        points=torch.cat(points).float(),
        point_colors=torch.cat(colors),
        point_confidence=torch.ones(total),
        scale="metric",
        provenance={"source": "synthetic room", "options": {"seed": seed}},
    )


def _bytes(rgb: Float[Tensor, "*batch 3"]) -> UInt8[Tensor, "*batch 3"]:
    return (rgb * 255.0).round().to(torch.uint8)


def _available_threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _render_view(
    lit: LitRoom,
    intrinsics: Float[np.ndarray, "3 3"],
    width: int,
    height: int,
    world_from_camera: Float[np.ndarray, "4 4"],
) -> tuple[
    Float[np.ndarray, "height width 3"],
    Float[np.ndarray, "height width"],
    Int[np.ndarray, "height width"],
]:
    """Colours, depth and charts of one view."""
    from fm3d_plugins.synthetic_rooms import kernels, shading

    tables, grid = lit.tables, lit.quality.samples_per_side
    depth, sun = np.empty((height, width)), np.empty((height, width))
    charts = np.empty((height, width), np.int32)
    rgb = np.empty((height, width, 3), np.float32)
    kernels.find_rows(tables, world_from_camera, intrinsics, 0, depth, sun, charts)
    samples = np.empty((min(_ROWS_AT_ONCE, height) * width * (grid * grid + 1), shading.COLUMNS))
    for row in range(0, height, _ROWS_AT_ONCE):
        rows = slice(row, min(row + _ROWS_AT_ONCE, height))
        shares = np.empty_like(depth[rows])
        part = samples[: shares.size * (grid * grid + 1)]
        shading.sample_rows(
            tables, world_from_camera, intrinsics, row, grid, depth, sun, charts, part, shares
        )
        shading.paint_rows(
            tables.charts, tables.textures, part, shares, charts[rows], lit.room.exposure, rgb[rows]
        )
    return rgb, depth.astype(np.float32), charts


def _require_usable(
    room: Room, world_from_camera: Float[Tensor, "view 4 4"], intrinsics: Float[Tensor, "3 3"]
) -> None:
    """Raise ValueError where a ray could leave the room or the camera is no pinhole."""
    check_shapes(
        "Rendering a room",
        {"poses": (world_from_camera, "view 4 4"), "intrinsics": (intrinsics, "3 3")},
        one_type=False,
    )
    half_x, half_y, height = room.size[0] / 2, room.size[1] / 2, room.size[2]
    eyes = world_from_camera[:, :3, 3]
    low, high = eyes.new_tensor([-half_x, -half_y, 0.0]), eyes.new_tensor([half_x, half_y, height])
    is_outside = ((eyes <= low) | (eyes >= high)).any(dim=1)
    if bool(is_outside.any()):
        view = int(is_outside.nonzero()[0])
        raise ValueError(
            f"Camera {view} is at {eyes[view].tolist()}, outside the room |x| < {half_x:.2f}, "
            f"|y| < {half_y:.2f}, 0 < z < {height:.2f} (metres). Place it inside."
        )
    off_diagonal = intrinsics[[0, 1, 2, 2], [1, 0, 0, 1]]
    if bool((off_diagonal != 0).any()) or float(intrinsics[[0, 1], [0, 1]].min()) <= 0:
        raise ValueError(
            f"The intrinsics are {intrinsics.tolist()}. Expected [[fx, 0, cx], [0, fy, cy], "
            "[0, 0, 1]] with positive focal lengths. Correct them."
        )
