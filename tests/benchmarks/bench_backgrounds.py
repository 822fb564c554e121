"""`3dgs` or `nerf` on things before backgrounds: python tests/benchmarks/bench_backgrounds.py
    [--method 3dgs] [--kinds black white ...] [--things table plant vase] [--paths arc ring far]
    [--photos 8 12 24] [--seeds 0] [--width 480] [--steps N] [--option KEY VALUE] [--output FOLDER]

Ray-cast things of `fm3d sample` stand in a bare room, which is painted over where the photos see no
thing: black, white, grey, an uneven grey sweep with vignetting and noise, a picture that stands
still in all photos as behind a turntable (turntable: coarse; photo: of another room; wall: plain
with two posters, out of focus), or not at all (room). `alpha` are photos without a background,
`mask` such with the room and masks. Paths are an arc of 120 degrees, a ring, and a ring from twice
as far. Cameras are given, points are not. Photos from between the trained ones are held out, at
most four.

A row tells the held-out photos' PSNR inside the things, that of the worst photo, with the things'
outlines (where an error is as large as the contrast to what lies behind), and of whole photos. What
is finished lies in FOLDER as JSON and is not trained again, and beside it a picture of the worst
and the best photo. table.md has all that FOLDER holds.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bench_scenes import Cell, configured
from torch import Tensor

from fm3d_plugins.effort import Effort
from fm3d_plugins.gaussian_splatting.recipe import recipe_for
from fm3d_plugins.synthetic_rooms import furniture
from fm3d_plugins.synthetic_rooms.capture import (
    DRAFT,
    capture_intrinsics,
    light_room,
    looking_at,
    render_views,
)
from fm3d_plugins.synthetic_rooms.rooms import random_room
from fm3d_plugins.synthetic_rooms.scene import Room, Solid, Texture

KINDS = ("black", "white", "grey", "sweep", "turntable", "photo", "wall", "room", "alpha", "mask")
THINGS = ("table", "plant", "vase")
ASPECT = 0.75
OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
ROOM_SIZE = (11.0, 11.0, 3.6)
MOST_HELD_OUT = 4
COLUMNS = (
    "method",
    "things",
    "path",
    "photos",
    "background",
    "seed",
    "inside",
    "worst",
    "with outlines",
    "whole",
)


def room_with(things: str, seed: int) -> tuple[Room, float]:
    """A bare room with things in its middle, and how far from them they fill a photo, metres."""
    rng, middle = Random(f"{things} {seed}"), (0.0, 0.0, 0.0)
    if things == "table":
        solids = furniture.coffee_table(rng, middle, 0.55, 0.45)
        solids += furniture.still_life(rng, (0.0, 0.0, 0.45), 0.55) + furniture.toys(rng, middle)
        distance = 2.5
    elif things == "vase":
        pale = Texture("plaster", ((0.8, 0.77, 0.7),) * 4, 0.3)
        disc = Texture("plaster", ((0.35, 0.35, 0.37),) * 4, 0.3)
        solids = [
            Solid("frustum", (0.0, 0.0, 0.02), (0.75, 0.75, 0.02), (disc,)),
            Solid("frustum", (0.0, 0.0, 0.24), (0.12, 0.24, 0.2), (pale,)),
            Solid("frustum", (0.0, 0.0, 0.6), (0.24, 0.1, 0.16), (pale,)),
        ]
        solids += furniture.globe(rng, (0.5, 0.1, 0.04), 0.14)
        solids += furniture.plant(rng, (-0.45, 0.25, 0.04), 0.4)
        distance = 1.9
    else:
        solids = furniture.plant(rng, (0.12, 0.1, 0.0), 0.7)
        solids += furniture.globe(rng, (-0.25, -0.2, 0.0), 0.22)
        distance = 1.6
    room = random_room(seed)
    window = replace(room.window, center=(-ROOM_SIZE[0] / 2 + 0.02, 0.3, 1.5))
    return replace(room, size=ROOM_SIZE, solids=tuple(solids), window=window), distance


def cameras_of(path: str, count: int, distance: float) -> Tensor:
    """Trained cameras and those between them in turn, looking at the middle from two heights."""
    distance *= 2.0 if path == "far" else 1.0
    whole = math.radians(120.0 if path == "arc" else 360.0)
    poses = []
    for row in range(2 * count):
        turn, rise = whole * row / (2 * count), math.radians(24.0 + 10.0 * math.sin(2.4 * row))
        across = distance * math.cos(rise)
        eye = across * math.cos(turn), across * math.sin(turn), 0.35 + distance * math.sin(rise)
        poses.append(looking_at(eye, (0.0, 0.0, 0.35)))
    return torch.stack(poses)


def behind(kind: str, size: tuple[int, int], seed: int) -> Tensor:
    """What a photo shows where no thing is: [H, W, 3]."""
    height, width = size
    draw = torch.Generator().manual_seed(seed)
    if kind in ("black", "white", "grey"):
        return torch.full((height, width, 3), {"black": 0.0, "white": 1.0, "grey": 0.45}[kind])
    if kind in ("photo", "wall"):
        return _view_of_a_wall(kind, height, width)
    if kind == "turntable":
        coarse = torch.rand(1, 3, 12, 16, generator=draw.manual_seed(7))
        picture = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0]
        return 0.2 + 0.6 * picture.permute(1, 2, 0)
    down, across = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    light = (0.6 - 0.06 * down) * (1 - 0.15 * (down**2 + across**2))
    noise = 0.015 * torch.randn(height, width, 3, generator=draw)
    return light[..., None] * torch.tensor([1.0, 0.99, 0.97]) + noise


@cache
def _view_of_a_wall(kind: str, height: int, width: int) -> Tensor:
    """A furnished room, or a plain wall with two posters on it, out of focus: [H, W, 3]."""
    room = random_room(77)
    if kind == "wall":
        rng, y = Random(7), room.size[1] / 2
        hung = [
            *furniture.framed_picture(rng, (-1.1, y, 1.6), 0.6, 0.8, 3, 1),
            *furniture.framed_picture(rng, (1.2, y, 1.3), 0.8, 0.6, 3, 4),
        ]
        plain = Texture("plaster", ((0.62, 0.6, 0.55),) * 4, 0.3)
        room = replace(room, solids=tuple(hung), walls=(plain,) * 6)
    pose = looking_at((0.0, -2.0, 1.4), (0.0, 2.0, 1.1))
    lit, intrinsics = light_room(room, DRAFT), capture_intrinsics(width, height)
    view = render_views(lit, pose[None], intrinsics, width, height, num_threads=1).rgb[0]
    if kind == "photo":
        return view
    radius = width // 100
    planes = torch.nn.functional.pad(view.permute(2, 0, 1)[None], (radius,) * 4, mode="reflect")
    return torch.nn.functional.avg_pool2d(planes, 2 * radius + 1, 1)[0].permute(1, 2, 0)


def halved(images: Tensor) -> Tensor:
    """[..., H, W, C] at half the size."""
    planes = images.movedim(-1, -3)
    return torch.nn.functional.avg_pool2d(planes, 2).movedim(-3, -1)


def write_captures(folder: Path, things: str, path: str, count: int, seed: int, width: int) -> None:
    """All kinds of a capture as folders, with `alpha/` beside `images/`; renders it once."""
    room, distance = room_with(things, seed)
    held_out = [2 * row + 1 for row in evenly(count, MOST_HELD_OUT)]
    rows = sorted([*range(0, 2 * count, 2), *held_out])
    poses = cameras_of(path, count, distance)[rows]
    lit, height = light_room(room, DRAFT), round(ASPECT * width)
    # Twice as large, so that a photo's outlines are mixed of thing and background.
    views = render_views(
        lit, poses, capture_intrinsics(2 * width, 2 * height), 2 * width, 2 * height, num_threads=1
    )
    solids = torch.from_numpy(lit.tables.charts[:, 6])[views.charts.long()]
    shown = (solids > 0).float()[..., None]  # Solid 0 is the room's shell.
    focal = float(capture_intrinsics(width, height)[0, 0])
    for kind in KINDS:
        place = folder / kind
        for part in ("images", "alpha"):
            (place / part).mkdir(parents=True, exist_ok=True)
        frames = {}
        for row, pose, rgb, alpha in zip(rows, poses, views.rgb, shown, strict=True):
            frames[row] = {"transform_matrix": (pose @ OPENCV_FROM_OPENGL).tolist()}
            frames[row] |= write_photo(place, kind, row, rgb, alpha)
        names = {row: frame["file_path"] for row, frame in frames.items()}
        content = {
            **{"fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2},
            **{"w": width, "h": height, "frames": list(frames.values())},
            "train_filenames": [names[row] for row in rows if row % 2 == 0],
            "val_filenames": [names[row] for row in held_out],
            "test_filenames": [names[row] for row in held_out],
        }
        (place / "transforms.json").write_text(json.dumps(content, indent=1))


def write_photo(place: Path, kind: str, row: int, rgb: Tensor, alpha: Tensor) -> dict[str, str]:
    """Write a photo and its thing's opacity; their paths as in transforms.json."""
    from PIL import Image

    if kind == "alpha":
        rgb = alpha * rgb
    elif kind not in ("room", "mask"):
        rgb = alpha * rgb + (1 - alpha) * behind(kind, (rgb.shape[0], rgb.shape[1]), row)
    colors, opacity = halved(rgb), halved(alpha)
    if kind == "alpha":
        colors = torch.cat([colors / opacity.clamp_min(1e-3), opacity], -1)
    name = f"frame_{row + 1:04d}"
    file, beside = f"images/{name}.png", f"alpha/{name}.png"
    for path, picture in ((file, colors), (beside, opacity[..., 0])):
        as_bytes = (picture.clamp(0, 1) * 255).round().byte().numpy()
        Image.fromarray(as_bytes).save(place / path)
    return {"file_path": file} | ({"mask_path": beside} if kind == "mask" else {})


def evenly(count: int, most: int) -> list[int]:
    """At most so many rows, evenly chosen."""
    return list(range(count)) if count <= most else [i * count // most for i in range(most)]


def inside(alpha: Tensor) -> Tensor:
    """1 for pixels that touch no outline, else 0: [H, W, 1]."""
    outside = (alpha < 1).float().permute(2, 0, 1)
    return 1 - torch.nn.functional.max_pool2d(outside, 3, stride=1, padding=1).permute(1, 2, 0)


def psnr_where(render: Tensor, photo: Tensor, weight: Tensor) -> float:
    """Decibels, over the pixels that a weight counts."""
    error = ((render - photo).square() * weight).sum() / (3 * weight.sum())
    return float(-10 * error.log10())


def train_and_score(
    data: Path, count: int, seed: int, options: argparse.Namespace, folder: Path
) -> tuple[dict, Tensor]:
    """Figures of one capture, and a picture of its worst photo."""
    from PIL import Image

    from fm3d_plugins.camera_optimization.evaluation import held_out_views
    from fm3d_plugins.panels import panels, photo_colors, stacked

    chosen = tuple((key, value) for key, value in options.option)
    steps = options.steps
    if steps is None and options.method == "3dgs":
        steps = recipe_for("cpu", None, Effort(photos=count)).steps
    cell = Cell(str(data), options.method, "given", seed, steps, None, chosen)
    torch.manual_seed(seed)
    began = time.process_time()
    config = configured(cell, data, folder)
    config.pipeline.datamanager.dataparser.eval_mode = "filename"
    config.set_timestamp()
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    pipeline: Any = trainer.pipeline
    spent, files = time.process_time() - began, pipeline.datamanager.eval_dataset.image_filenames
    pipeline.eval()
    views, pictures = [], []
    for file, (camera, batch) in zip(
        files, held_out_views(pipeline, pipeline.test_poses), strict=True
    ):
        outputs = pipeline.model.get_outputs_for_camera(camera)
        photo = photo_colors(batch["image"], outputs["rgb"], outputs["background"])
        alpha = Image.open(data / "alpha" / f"{Path(file).stem}.png")
        weight = torch.frombuffer(bytearray(alpha.tobytes()), dtype=torch.uint8) / 255
        weight = weight.reshape(alpha.height, alpha.width, 1)
        thing = psnr_where(outputs["rgb"], photo, inside(weight))
        whole = psnr_where(outputs["rgb"], photo, torch.ones_like(weight))
        outlined = psnr_where(outputs["rgb"], photo, weight)
        views.append({"thing": thing, "outlined": outlined, "whole": whole})
        pictures.append(panels(photo, outputs, thing))
    order = sorted(range(len(views)), key=lambda row: views[row]["thing"])
    figures = {
        "thing": sum(v["thing"] for v in views) / len(views),
        "worst": views[order[0]]["thing"],
        "outlined": sum(v["outlined"] for v in views) / len(views),
        "whole": sum(v["whole"] for v in views) / len(views),
        "cpu_seconds": spent,
    }
    return figures, stacked([pictures[order[0]], pictures[order[-1]]])


def table(folder: Path) -> str:
    """Markdown of all that is finished."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for file in sorted(folder.glob("*.json")):
        row = json.loads(file.read_text())
        figures = [f"{row[name]:.2f}" for name in ("thing", "worst", "outlined", "whole")]
        lines.append("| " + " | ".join([*map(str, row["capture"]), *figures]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="3dgs", choices=["3dgs", "nerf"])
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument(
        "--things", nargs="+", default=["table"], choices=["table", "plant", "vase"]
    )
    parser.add_argument("--paths", nargs="+", default=["arc"], choices=["arc", "ring", "far"])
    parser.add_argument("--photos", nargs="+", type=int, default=[12])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--width", type=int, default=480, help="pixels of the photos")
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    parser.add_argument("--captures", type=Path, help="folder of the captures; default: in FOLDER")
    parser.add_argument("--output", type=Path, default=Path("bench_backgrounds"))
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for things, path, count, seed in product(
        options.things, options.paths, options.photos, options.seeds
    ):
        data = options.captures or options.output / "captures"
        data = (data / f"{things}_{path}_{count}_{seed}").resolve()
        if not data.exists():
            write_captures(data, things, path, count, seed, options.width)
        for kind in options.kinds:
            name = f"{things}_{path}_{count:02d}_{seed}_{kind}"
            name += "" if options.method == "3dgs" else f"_{options.method}"
            file = options.output / f"{name}.json"
            if not file.exists():
                with tempfile.TemporaryDirectory() as run:
                    figures, picture = train_and_score(data / kind, count, seed, options, Path(run))
                capture = {"capture": [options.method, things, path, count, kind, seed]}
                from fm3d_plugins.panels import write_picture

                write_picture(options.output / f"{name}.png", picture)
                file.write_text(json.dumps(capture | figures) + "\n")
            (options.output / "table.md").write_text(table(options.output) + "\n")
    print(table(options.output))


if __name__ == "__main__":
    main()
