"""When depth maps help: held-out PSNR with and without depth supervision.

    python tests/benchmarks/bench_depth.py [--scene NAME] [--few NAME] [--methods nerf 3dgs]
        [--splits few full] [--variants off on unsure] [--steps N] [--work FOLDER] [--json PATH]

The depth maps are those of `nerf` trained on all photos, made as wrong as a network's: every photo
gets its own factor (log-normal, 30 %) and constant (20 % of the median depth, normal), and a smooth
factor of 5 % (root mean square), whose size itself varies smoothly; the confidence is one over that
size. Variants: `off` without depth, `on` with both maps, `unsure` with the confidence ignored.

`few` trains on the photos of the scene's transforms_few.json and is scored on every fourth of the
others; `full` trains on all but every eighth photo, and is scored on these. Besides PSNR: the
median relative difference of the held-out photos' depth to the unspoilt maps, after a common factor
and constant per photo.
"""

import argparse
import copy
import json
import os
import resource
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from jaxtyping import Float  # noqa: E402
from nerfstudio.data.dataparsers.nerfstudio_dataparser import (  # noqa: E402
    Nerfstudio,
    NerfstudioDataParserConfig,
)
from torch import Tensor  # noqa: E402

SHARED = Path(__file__).resolve().parents[3] / "shared"
FACTOR, CONSTANT, NOISE, NOISE_SPREAD = 0.3, 0.2, 0.05, 0.8
VARIANTS: dict[str, dict[str, bool] | None] = {
    "off": None,
    "on": {"use_confidence": True},
    "unsure": {"use_confidence": False},
}


@dataclass(frozen=True)
class Row:
    """One trained run and its scores."""

    split: str
    method: str
    variant: str
    weight: float
    psnr: float
    depth_percent: float
    cpu_seconds: float


class DepthParser(Nerfstudio):
    """nerfstudio's parser, with confidence maps beside the depth maps, and points in points.npy."""

    def _generate_dataparser_outputs(self, split="train"):
        outputs = super()._generate_dataparser_outputs(split)
        files = outputs.metadata.get("depth_filenames")
        if files:
            beside = [file.with_name(f"{file.stem}_confidence.npy") for file in files]
            outputs.metadata["depth_confidence_filenames"] = beside
        file = self.config.data / "points.npy"
        if file.is_file():
            points = torch.from_numpy(np.load(file)).float()
            transform, scale = outputs.dataparser_transform, outputs.dataparser_scale
            moved = scale * (points[:, :3] @ transform[:, :3].T + transform[:, 3])
            outputs.metadata["points3D_xyz"] = moved
            outputs.metadata["points3D_rgb"] = points[:, 3:].to(torch.uint8)
        return outputs


def train(method: str, data: Path, steps: int | None, folder: Path, **depth: Any):
    """The trained pipeline and the CPU seconds of its training."""
    from nerfstudio.configs.method_configs import all_methods

    from fm3d_plugins.running.step_log import end_earlier_logs

    config: Any = copy.deepcopy(all_methods[method])
    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(
        _target=DepthParser, eval_mode="all", depth_unit_scale_factor=1.0, load_3D_points=False
    )
    config.pipeline.datamanager.data = data
    config.pipeline.model.lpips_networks = ()
    for name, value in depth.items():
        setattr(config.pipeline.model.depth, name, value)
    config.output_dir, config.max_num_iterations = folder, steps
    config.vis, config.logging.local_writer.enable = "tensorboard", False
    config.steps_per_eval_image = config.steps_per_eval_batch = 0
    torch.manual_seed(0)
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    before = resource.getrusage(resource.RUSAGE_SELF)
    trainer.train()
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    end_earlier_logs()  # They write from a thread, into a folder that will be gone.
    return trainer.pipeline.eval(), seconds


def make_teacher(scene: Path, steps: int, folder: Path) -> None:
    """Write z-depth [H, W] in the units of the scene's cameras, one .npy per photo."""
    with tempfile.TemporaryDirectory() as runs:
        pipeline, _ = train("nerf", write_scene(scene, Path(runs) / "scene"), steps, Path(runs))
    dataset = pipeline.datamanager.train_dataset
    scale = pipeline.datamanager.train_dataparser_outputs.dataparser_scale
    folder.mkdir(parents=True)
    for row, file in enumerate(dataset.image_filenames):
        np.save(folder / f"{file.stem}.npy", rendered_z(pipeline, dataset.cameras, row) / scale)


@torch.no_grad()
def rendered_z(pipeline, cameras, row: int) -> np.ndarray:
    """z-depth [H, W] of a camera at half its resolution, scene units."""
    camera = copy.deepcopy(cameras[row : row + 1])
    camera.rescale_output_resolution(0.5)
    depth = pipeline.model.get_outputs_for_camera(camera)["depth"]
    if pipeline.config.model.__class__.__name__ == "NerfModelConfig":
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)
        axis = -camera.camera_to_worlds.reshape(3, 4)[:, 2]
        depth = depth * (rays.directions @ axis)[..., None]
    return depth.squeeze(-1).numpy()


def smooth_field(shape: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "h w"]:
    """Random numbers of unit variance that change over a sixth of the picture."""
    coarse = torch.randn(1, 1, 8, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=shape, mode="bicubic")[0, 0]
    return (fine - fine.mean()) / fine.std()


def spoil(teacher: Path, names: list[str], seed: int, folder: Path) -> None:
    """Write depth and confidence maps with the errors of a network."""
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        depth = torch.from_numpy(np.load(teacher / f"{name}.npy"))
        size = (NOISE_SPREAD * smooth_field(tuple(depth.shape), generator)).exp()
        size *= NOISE / size.square().mean().sqrt()
        wrong = depth * (1 + size * smooth_field(tuple(depth.shape), generator))
        factor = (FACTOR * torch.randn((), generator=generator)).exp()
        constant = CONSTANT * depth.median() * torch.randn((), generator=generator)
        smallest = wrong.min()
        constant = constant.clamp_min(0.01 * depth.median() - smallest)  # Depth is positive.
        np.save(folder / f"{name}.npy", (factor * (wrong + constant)).numpy())
        np.save(folder / f"{name}_confidence.npy", (1 / size).numpy())


def write_scene(
    scene: Path,
    folder: Path,
    split: tuple[list[str], list[str]] | None = None,
    maps: Path | None = None,
    points: np.ndarray | None = None,
) -> Path:
    """A transforms.json with absolute paths, the split's photos and depth maps, and points."""
    meta = json.loads((scene / "transforms.json").read_text())
    for frame in meta["frames"]:
        frame["file_path"] = str((scene / frame["file_path"]).resolve())
        if maps is not None:
            frame["depth_file_path"] = str(maps / f"{Path(frame['file_path']).stem}.npy")
    if split is not None:
        files = {Path(frame["file_path"]).stem: frame["file_path"] for frame in meta["frames"]}
        meta["train_filenames"] = [files[name] for name in split[0]]
        meta["val_filenames"] = meta["test_filenames"] = [files[name] for name in split[1]]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if points is not None:
        np.save(folder / "points.npy", points)
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def points_of(model: Path, names: list[str]) -> np.ndarray:
    """Position and colour [N, 6] of the points that at least two of the photos have found."""
    from fm3d_plugins.io.colmap import read_colmap

    scene = read_colmap(model / "colmap" / "sparse" / "0", model / "images")
    assert scene.tracks is not None
    rows = torch.tensor([i for i, name in enumerate(scene.names) if Path(name).stem in names])
    by_these = scene.tracks.point_index[torch.isin(scene.tracks.view_index, rows)]
    kept = torch.bincount(by_these, minlength=len(scene.points)) >= 2
    return torch.cat([scene.points, scene.point_colors], dim=-1)[kept].numpy()


def splits(scene: Path, few: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Names of photos to train on and to be scored on."""
    names = sorted(
        Path(frame["file_path"]).stem
        for frame in json.loads((scene / "transforms.json").read_text())["frames"]
    )
    chosen = sorted(
        Path(frame["file_path"]).stem for frame in json.loads(few.read_text())["frames"]
    )
    others = [name for name in names if name not in chosen]
    held_out = names[::8]
    full = [name for name in names if name not in held_out]
    return {"few": (chosen, others[::4]), "full": (full, held_out)}


@torch.no_grad()
def scores(pipeline, teacher: Path) -> tuple[float, float]:
    """Mean PSNR, and mean over photos of the median relative error of depth, in per cent."""
    from fm3d_plugins.depth_supervision.alignment import solve, weighted_moments

    metrics = pipeline.get_average_eval_image_metrics()
    dataset, errors = pipeline.datamanager.eval_dataset, []
    scale = pipeline.datamanager.train_dataparser_outputs.dataparser_scale
    for row, file in enumerate(dataset.image_filenames):
        truth = torch.from_numpy(np.load(teacher / f"{file.stem}.npy")) * scale
        found = torch.from_numpy(rendered_z(pipeline, dataset.cameras, row))
        if found.shape != truth.shape:  # The photo's distortion was undone, and it was cropped.
            found = torch.nn.functional.interpolate(found[None, None], size=truth.shape)[0, 0]
        weights = (1 / truth.square()).flatten()
        one = torch.zeros(truth.numel(), dtype=torch.long)
        aligned = solve(
            weighted_moments(found.flatten(), truth.flatten(), weights, one, 1), "scale-shift"
        )
        errors.append(((aligned.scale * found + aligned.shift) / truth - 1).abs().median())
    return float(metrics["psnr"]), 100 * float(torch.stack(errors).mean())


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| photos | method | depth | weight | PSNR | depth error | training |",
        "|" + " --- |" * 7,
    ]
    for row in rows:
        lines.append(
            f"| {row.split} | {row.method} | {row.variant} | {row.weight:g} | {row.psnr:.2f} dB "
            f"| {row.depth_percent:.1f} % | {row.cpu_seconds:.0f} CPU-s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scene", default="fox_270x480")
    parser.add_argument("--few", default="fox")
    parser.add_argument("--methods", nargs="+", default=["nerf", "3dgs"])
    parser.add_argument("--splits", nargs="+", default=["few", "full"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--weights", nargs="+", type=float, default=[0.1])
    parser.add_argument("--steps", type=int, help="default: the method's own recipe")
    parser.add_argument("--teacher-steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", nargs="*", default=[], help="NAME=VALUE of the depth options")
    parser.add_argument("--without-points", action="store_true", help="align to renders alone")
    parser.add_argument("--work", type=Path, help="keeps the teacher's depth for the next call")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scene = SHARED / "scenes" / options.scene
    few = SHARED / "scenes" / options.few / "transforms_few.json"
    if not few.is_file() or not scene.is_dir():
        raise SystemExit(f"There is no {scene} or no {few}. Name others with --scene and --few.")
    chosen = {name: json.loads(value) for name, value in (o.split("=") for o in options.option)}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        work, own = options.work or Path(temporary), Path(temporary)
        teacher = work / f"teacher_{options.scene}_{options.teacher_steps}"
        if not teacher.is_dir():
            make_teacher(scene, options.teacher_steps, teacher)
        spoil(
            teacher,
            [file.stem for file in sorted(teacher.glob("*.npy"))],
            options.seed,
            own / "maps",
        )
        for split, names in splits(scene, few).items():
            if split not in options.splits:
                continue
            points = None if options.without_points else points_of(few.parent, names[0])
            for method in options.methods:
                for variant in options.variants:
                    for weight in options.weights if VARIANTS[variant] else [0.0]:
                        data = write_scene(scene, own / "scene", names, own / "maps", points)
                        depth = VARIANTS[variant]
                        depth = {} if depth is None else {"weight": weight, **depth, **chosen}
                        pipeline, seconds = train(method, data, options.steps, own / "out", **depth)
                        row = Row(
                            split, method, variant, weight, *scores(pipeline, teacher), seconds
                        )
                        rows.append(row)
                        print(table(rows).splitlines()[-1], flush=True)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
