"""`3dgs` and `nerf` on scenes with cameras: python tests/benchmarks/bench_scenes.py [SCENE ...]
    [--methods 3dgs nerf] [--cameras given sfm] [--seeds 0 1] [--steps N] [--size PIXELS]
    [--option KEY VALUE] [--output FOLDER]

A scene is a folder of the shared scenes with images/ and transforms.json, or `sample:N`, N photos
of `fm3d sample` (`sample:N:R`: of room R). Every 8th photo is held out. Cameras are those of the
file (given), or found in the photos alone (sfm). Everything else is as `ns-train METHOD` does it,
unless steps or the photos' size are given, or options of the config, such as
`--option pipeline.model.exposure none`.

Each cell of the table is trained in a process of its own, so that CPU seconds (of all threads, from
the first look at the photos to the scores, the search for cameras included) are those of the cell
alone. A finished cell
lies in FOLDER as JSON and is not trained again; what failed is. The folder also gets a picture of
each cell (photo | render | depth | error of its best and its worst held-out view), one of each
scene that has all its cells, and table.md: means over the seeds, and the worst view of all.
"""

import argparse
import copy
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[3] / "shared" / "scenes"
SAMPLES = ("sample:8", "sample:12", "sample:24")
HELD_OUT_EVERY = 8
TITLE_HEIGHT = 22


@dataclass(frozen=True)
class Cell:
    """One run. None: what the method does by itself."""

    scene: str
    method: str
    cameras: str
    seed: int
    steps: int | None
    size: int | None
    options: tuple[tuple[str, str], ...] = ()
    """Fields of the config, by dotted names, and their values."""

    @property
    def name(self) -> str:
        """Of its files: no two cells share one."""
        said = [self.scene.replace(":", "-"), self.method, self.cameras, f"seed{self.seed}"]
        said += [f"{self.steps}steps"] if self.steps else []
        said += [f"{self.size}px"] if self.size else []
        if self.options:
            said.append(hashlib.sha256(json.dumps(self.options).encode()).hexdigest()[:8])
        return "_".join(said)

    @property
    def title(self) -> str:
        options = "".join(f", {key} {value}" for key, value in self.options)
        return f"{self.scene}, {self.method}, cameras: {self.cameras}, seed {self.seed}{options}"


def scenes_with_cameras() -> list[str]:
    """Shared scenes with cameras, the same photos once; and samples."""
    found = [path.parent.name for path in sorted(SHARED.glob("*/transforms.json"))]
    return [name for name in found if name != "fox_270x480"] + list(SAMPLES)


def folder_of(scene: str, output: Path) -> Path:
    """The scene's folder; a sample is written on first use."""
    kind, *numbers = scene.split(":")
    if kind != "sample":
        return SHARED / scene
    from fm3d_plugins.synthetic_rooms.capture import write_sample

    count, room = int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0
    folder = output / "samples" / f"{count}_photos_of_room_{room}"
    if not folder.exists():
        write_sample(folder, num_photos=count, seed=room)
    return folder


def configured(cell: Cell, data: Path, folder: Path) -> Any:
    """The run's config."""
    from nerfstudio.configs.dataparser_configs import all_dataparsers
    from nerfstudio.configs.method_configs import all_methods

    config: Any = copy.deepcopy(all_methods[cell.method])
    manager = config.pipeline.datamanager
    word = "nerfstudio-data" if cell.cameras == "given" else cell.cameras
    manager.dataparser = copy.deepcopy(all_dataparsers[word])
    manager.dataparser.eval_mode, manager.dataparser.eval_interval = "interval", HELD_OUT_EVERY
    manager.data = manager.dataparser.data = data if cell.cameras == "given" else data / "images"
    for name in ("train_cameras_sampling_seed", "pixel_seed"):
        if hasattr(manager, name):
            setattr(manager, name, cell.seed)
    manager.max_image_size = cell.size
    config.machine.seed, config.max_num_iterations = cell.seed, cell.steps
    for key, value in cell.options:
        *path, last = key.replace("-", "_").split(".")
        part = config
        for name in path:
            part = getattr(part, name)
        if not hasattr(part, last):
            raise SystemExit(f"Error: {cell.method} has no option {key}.")
        is_text = isinstance(getattr(part, last), str)
        setattr(part, last, value if is_text else json.loads(value.lower()))
    config.vis, config.viewer.quit_on_train_completion = "tensorboard", True
    config.output_dir, config.experiment_name, config.timestamp = folder, "run", "run"
    return config


def run_cell(cell: Cell, output: Path) -> dict[str, Any]:
    """Train and score one cell, in this process; writes its picture."""
    import numpy as np
    import torch

    from fm3d_plugins.camera_optimization.evaluation import held_out_views
    from fm3d_plugins.panels import panels, photo_colors, stacked, write_picture

    data = folder_of(cell.scene, output)
    random.seed(cell.seed)
    np.random.seed(cell.seed)
    torch.manual_seed(cell.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FM3D_CACHE_DIR"] = str(Path(folder) / "cache")  # Cameras are found anew.
        began, cpu = time.monotonic(), time.process_time()
        config = configured(cell, data, Path(folder))
        config.set_timestamp()
        config.save_config()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        trainer.train()
        pipeline = trainer.pipeline
        spent = {"cpu_seconds": time.process_time() - cpu, "seconds": time.monotonic() - began}
        scored, pictures = [], []
        files = pipeline.datamanager.eval_dataset.image_filenames
        pipeline.eval()
        for file, (camera, batch) in zip(
            files, held_out_views(pipeline, pipeline.test_poses), strict=True
        ):
            outputs = pipeline.model.get_outputs_for_camera(camera)
            metrics, _ = pipeline.model.get_image_metrics_and_images(outputs, batch)
            scored.append({"photo": Path(file).name, **metrics})
            photo = photo_colors(batch["image"], outputs["rgb"], outputs["background"])
            pictures.append(panels(photo, outputs, metrics["psnr"]))
    order = sorted(range(len(scored)), key=lambda row: -scored[row]["psnr"])
    write_picture(output / f"{cell.name}.png", stacked([pictures[order[0]], pictures[order[-1]]]))
    trained = len(pipeline.datamanager.train_dataset)
    return {**spent, "trained_photos": trained, "steps": config.max_num_iterations, "views": scored}


def run_apart(cell: Cell, output: Path) -> None:
    """Train a cell in a process of its own; keep what came of it, or why nothing did."""
    log = output / f"{cell.name}.log"
    command = [sys.executable, __file__, "--only", json.dumps(asdict(cell)), "--output", output]
    with log.open("w") as file:
        done = subprocess.run(
            list(map(str, command)), check=False, stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode:
        last = [line for line in log.read_text().splitlines() if line.strip()][-1:]
        (output / f"{cell.name}.failed").write_text("".join(last) + "\n")
    else:
        (output / f"{cell.name}.failed").unlink(missing_ok=True)


def kept(cell: Cell, output: Path) -> dict[str, Any] | None:
    """What came of a finished cell."""
    path = output / f"{cell.name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(cells: Sequence[Cell], output: Path) -> str:
    """Markdown: a row for each scene, method and kind of cameras, and means over the scenes."""
    header = ["scene", "method", "cameras", "photos", "PSNR", "SSIM", "PSNR, colours fitted",
              "worst view", "CPU-s"]  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    means: dict[tuple[str, str], list[dict]] = {}
    for key in dict.fromkeys((cell.scene, cell.method, cell.cameras) for cell in cells):
        some = [cell for cell in cells if (cell.scene, cell.method, cell.cameras) == key]
        found = [result for cell in some if (result := kept(cell, output)) is not None]
        if not found:
            failed = [output / f"{cell.name}.failed" for cell in some]
            said = next((path.read_text().strip() for path in failed if path.exists()), "not run")
            lines.append("| " + " | ".join([*key, said[:60].replace("|", "/"), *["-"] * 5]) + " |")
            continue
        row = summary(found)
        means.setdefault(key[1:], []).append(row)
        lines.append("| " + " | ".join([*key, *cells_of(row)]) + " |")
    for key, rows in means.items():
        if len(rows) > 1:
            mean = {k: average([r[k] for r in rows if r[k] is not None]) for k in rows[0]}
            worst = min(row["worst"] for row in rows)
            lines.append(
                "| "
                + " | ".join(["mean of scenes", *key, *cells_of(mean | {"worst": worst})])
                + " |"
            )
    return "\n".join(lines)


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and the worst view of all of them."""
    views = [view for result in found for view in result["views"]]
    names = ("psnr", "ssim", "cc_psnr")
    means = {k: average([v[k] for v in views if k in v]) for k in names}
    return means | {
        "worst": min(view["psnr"] for view in views),
        "cpu": average([result["cpu_seconds"] for result in found]),
        "trained": average([result["trained_photos"] for result in found]),
        "held_out": average([len(result["views"]) for result in found]),
    }


def average(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return sum(values) / len(values) if values else None


def cells_of(row: dict[str, Any]) -> list[str]:
    """A row's numbers as texts."""
    corrected = row["cc_psnr"]
    return [
        f"{row['trained']:.0f} + {row['held_out']:.0f}",
        f"{row['psnr']:.2f}",
        f"{row['ssim']:.3f}",
        "-" if corrected is None else f"{corrected:.2f}",
        f"{row['worst']:.2f}",
        f"{row['cpu']:.0f}",
    ]


def draw_scene(scene: str, cells: Sequence[Cell], output: Path) -> None:
    """All pictures of a scene below each other, each with its title."""
    from PIL import Image, ImageDraw

    pictures = [(cell.title, Image.open(output / f"{cell.name}.png")) for cell in cells]
    width = max(picture.width for _, picture in pictures)
    height = sum(picture.height + TITLE_HEIGHT for _, picture in pictures)
    sheet, top = Image.new("RGB", (width, height), "white"), 0
    for title, picture in pictures:
        ImageDraw.Draw(sheet).text((4, top + 5), title, fill="black")
        sheet.paste(picture, (0, top + TITLE_HEIGHT))
        top += picture.height + TITLE_HEIGHT
    sheet.save(output / f"{scene.replace(':', '-')}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="*", help="default: all with cameras, and samples")
    parser.add_argument("--methods", nargs="+", default=["3dgs", "nerf"])
    parser.add_argument("--cameras", nargs="+", default=["given", "sfm"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="default: the method's recipe")
    parser.add_argument("--size", type=int, help="long side of the photos in pixels")
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    parser.add_argument("--output", type=Path, default=Path("bench_scenes"))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.only:
        given = json.loads(options.only)
        cell = Cell(**given | {"options": tuple(map(tuple, given["options"]))})
        result = run_cell(cell, options.output.resolve())
        staged = options.output / f".{cell.name}.json"
        staged.write_text(json.dumps(result, indent=1) + "\n")
        staged.rename(options.output / f"{cell.name}.json")
        return
    chosen = tuple((key, value) for key, value in options.option)
    cells = [
        Cell(scene, method, cameras, seed, options.steps, options.size, chosen)
        for scene in options.scenes or scenes_with_cameras()
        for cameras in options.cameras
        for method in options.methods
        for seed in options.seeds
    ]
    for number, cell in enumerate(cells, 1):
        is_new = kept(cell, options.output) is None
        if is_new:
            run_apart(cell, options.output.resolve())
        result = kept(cell, options.output)
        said = "failed, see its log" if result is None else " | ".join(cells_of(summary([result])))
        print(
            f"{number}/{len(cells)} {cell.title}{'' if is_new else ' (kept)'}: {said}", flush=True
        )
        (options.output / "table.md").write_text(table(cells, options.output) + "\n")
        of_scene = [each for each in cells if each.scene == cell.scene]
        if all(kept(each, options.output) for each in of_scene):
            draw_scene(cell.scene, of_scene, options.output)
    print(table(cells, options.output))


if __name__ == "__main__":
    main()
