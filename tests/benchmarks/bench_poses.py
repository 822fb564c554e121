"""What noise of the cameras costs, and how much of it optimising the cameras brings back.

    python tests/benchmarks/bench_poses.py [--scenes NAME ...] [--levels 0 1 2] [--methods 3dgs]
        [--modes off SO3xR3 SE3] [--steps N] [--repeats N] [--seed N] [--photometric N]
        [--track-weights W ...] [--no-rough-scene] [--compared-points] [--max-image-size N]
        [--json PATH]

Cameras of a posed scene are perturbed: every rotation by an isotropic random turn of 1.09 degrees
on average, every centre by 1.8 % of the centres' extent (root mean square), all focal lengths by
2 % with one sign; level 2 doubles all three, and level 0 leaves the reference's cameras. A method
is then trained with the cameras frozen and with the cameras optimised, each time from random
points, because points of the reference would leak its geometry; or, with `--compared-points`, from
those that photos agree on under the perturbed cameras, as the recipe does it. One run's PSNR is a
draw: a row is the mean of `--repeats` runs with other random numbers and the same noise of the
cameras.

Every row is scored alike, as by Lin et al. 2021 (BARF): the reference's held-out cameras are moved
by the similarity from the reference's training cameras to the run's (column sim3), and then by K
photometric steps on the held-out pose (column photometric). Pose errors are those of the training
cameras after the best similarity of their centres.
"""

import argparse
import copy
import itertools
import json
import math
import os
import resource
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

SHARED = Path(__file__).resolve().parents[3] / "shared"
ROTATION_DEGREES, CENTRE_SHARE, FOCAL_SHARE = 1.09, 0.018, 0.02


@dataclass(frozen=True)
class Reference:
    """Cameras of a posed scene: world_from_camera (OpenCV) and focal length by photo."""

    poses: dict[str, Tensor]
    focals: dict[str, float]


@dataclass(frozen=True)
class Row:
    """One trained run and its scores."""

    scene: str
    method: str
    level: float
    optimised: bool
    track_weight: float | None
    sim3: float
    photometric: float
    rotation_degrees: float
    centre_percent: float
    focal_percent: float
    cpu_seconds: float


def perturb(scene: Path, level: float, seed: int, folder: Path) -> Reference:
    """Write a scene with perturbed cameras; its own cameras are returned."""
    from fm3d_plugins.geometry.cameras import opencv_from_opengl
    from fm3d_plugins.geometry.poses import so3_exp

    meta = json.loads((scene / "transforms.json").read_text())
    frames = sorted(meta["frames"], key=lambda frame: frame["file_path"])
    opengl = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)
    files = [str((scene / frame["file_path"]).resolve()) for frame in frames]
    focals = [float(frame.get("fl_x", meta.get("fl_x"))) for frame in frames]
    reference = Reference(
        dict(zip(files, opencv_from_opengl(opengl), strict=True)),
        dict(zip(files, focals, strict=True)),
    )
    generator = torch.Generator().manual_seed(seed)
    turns, shifts = torch.randn(2, len(frames), 3, generator=generator, dtype=torch.float64)
    turns *= math.radians(ROTATION_DEGREES) * level / turns.norm(dim=-1).mean()
    centres = opengl[:, :3, 3]
    extent = (centres - centres.mean(0)).square().sum(-1).mean().sqrt()
    shifts *= CENTRE_SHARE * level * extent / shifts.square().sum(-1).mean().sqrt()
    sign = 1 if torch.rand((), generator=generator) < 0.5 else -1
    noisy = opengl.clone()
    noisy[:, :3, :3] = so3_exp(turns) @ opengl[:, :3, :3]
    noisy[:, :3, 3] += shifts
    for fields in (meta, *frames):
        for key in {"fl_x", "fl_y"} & set(fields):
            fields[key] *= 1 + sign * FOCAL_SHARE * level
    for frame, pose, file in zip(frames, noisy.tolist(), files, strict=True):
        frame["transform_matrix"], frame["file_path"] = pose, file
    dropped = ("ply_file_path", "camera_angle_x", "camera_angle_y")
    content = {key: value for key, value in meta.items() if key not in dropped}
    folder.mkdir(parents=True)
    (folder / "transforms.json").write_text(json.dumps(content | {"frames": frames}))
    return reference


def with_tracks(config: Any, weight: float | None, scene: Path, level: float, data: Path) -> None:
    """Let a run find perturbed cameras, and tracks, through an estimator's dataparser.

    Args:
        weight: Of the tracks in the loss; none: the run finds the cameras in `data`, as it is.
    """
    if weight is None:
        return
    from noisy_tracks import NoisyTracks

    from fm3d_plugins.dataparsers.estimated import EstimatedDataParserConfig

    photos = scene / "images"
    config.pipeline.datamanager.data = photos
    config.pipeline.datamanager.dataparser = EstimatedDataParserConfig(
        data=photos,
        estimator=NoisyTracks(scene=data, photos=photos, level=level),
        cache_dir=data.parent / "cache",
    )
    config.pipeline.model.camera_optimizer.track_weight = weight


def train(
    method: str,
    data: Path,
    mode: str,
    steps: int | None,
    seed: int,
    folder: Path,
    max_image_size: int | None,
    has_rough_scene: bool,
    has_random_points: bool,
    change: Callable[[Any], None],
):
    """The trained pipeline and the CPU seconds of its set-up and training."""
    from nerfstudio.configs.method_configs import all_methods

    config: Any = copy.deepcopy(all_methods[method])
    config.pipeline.datamanager.data = data
    if hasattr(config.pipeline.datamanager, "random_points"):
        config.pipeline.datamanager.random_points = has_random_points
    config.pipeline.datamanager.max_image_size = max_image_size
    cameras = config.pipeline.model.camera_optimizer
    cameras.mode = mode
    cameras.rough_scene = None if has_rough_scene else False
    config.pipeline.model.lpips_networks = ()
    config.output_dir, config.max_num_iterations = folder, steps
    config.vis, config.logging.local_writer.enable = "tensorboard", False
    config.steps_per_eval_image = config.steps_per_eval_batch = 0
    torch.manual_seed(seed)
    change(config)
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    before = resource.getrusage(resource.RUSAGE_SELF)
    trainer.setup()
    trainer.train()
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return trainer.pipeline, seconds


def score(pipeline, reference: Reference, photometric: int) -> dict[str, float]:
    """Scores of a row, from the reference's cameras."""
    from fm3d_plugins.camera_optimization.evaluation import held_out_focal_factors
    from fm3d_plugins.camera_optimization.held_out_poses import (
        TestPoseProtocol,
        place_held_out,
        training_cameras,
    )
    from fm3d_plugins.geometry.alignment import align_cameras
    from fm3d_plugins.geometry.cameras import opengl_from_opencv
    from fm3d_plugins.geometry.pose_metrics import evaluate_poses
    from fm3d_plugins.geometry.poses import rotation_angle_degrees

    manager, model = pipeline.datamanager, pipeline.model
    names = [str(Path(file).resolve()) for file in manager.train_dataset.image_filenames]
    truth = torch.stack([reference.poses[name] for name in names])
    trained = training_cameras(manager.train_dataset.cameras, model.camera_optimizer)
    trained, found = replace(trained, initial=truth), trained.optimised
    aligned = align_cameras(found, truth).apply_to_pose(found)
    ate = evaluate_poses(
        dict(zip(names, found, strict=True)), dict(zip(names, truth, strict=True))
    ).ate_over_extent
    factors = model.camera_optimizer.focal_factors().detach().cpu()
    given = manager.train_dataparser_outputs.cameras
    true_focals = torch.tensor([reference.focals[name] for name in names])
    focal_error = (given.fx.flatten().cpu() * factors / true_focals - 1).abs().mean()
    views = []
    held_out = [str(Path(file).resolve()) for file in manager.eval_dataset.image_filenames]
    pipeline.eval()
    for name, (camera, batch) in zip(
        held_out, list(manager.fixed_indices_eval_dataloader), strict=True
    ):
        moved = copy.deepcopy(camera)
        pose = opengl_from_opencv(reference.poses[name])[None, :3]
        moved.camera_to_worlds = pose.to(moved.camera_to_worlds)
        views.append((moved, batch))
    scores = {}
    for protocol in (TestPoseProtocol("sim3"), TestPoseProtocol("photometric", photometric)):
        factors = held_out_focal_factors(pipeline)
        placed = place_held_out(model, views, protocol, trained, factors)
        metrics = pipeline.get_average_image_metrics(placed, "eval", 0)
        scores[protocol.kind] = metrics["psnr"]
    turned = rotation_angle_degrees(aligned[:, :3, :3], truth[:, :3, :3]).mean()
    return scores | {
        "rotation_degrees": float(turned),
        "centre_percent": 100 * float(ate or 0.0),
        "focal_percent": 100 * float(focal_error),
    }


def table(rows: list[Row], photometric: int) -> str:
    """Markdown; an optimised row says which share of the loss by noise it brings back."""
    lines = [
        f"| scene | method | cameras | PSNR sim3 | PSNR photometric:{photometric} | regained "
        "| rotation error | centre error | focal error | training |",
        "|" + " --- |" * 10,
    ]
    for row in rows:
        what = "reference" if row.level == 0 else f"noise x {row.level:g}"
        what += ", optimised" if row.optimised else ", frozen"
        what += "" if row.track_weight is None else f", track weight {row.track_weight:g}"
        lines.append(
            f"| {row.scene} | {row.method} | {what} | {row.sim3:.2f} dB | {row.photometric:.2f} dB "
            f"| {_regained(row, rows)} | {row.rotation_degrees:.2f} deg "
            f"| {row.centre_percent:.2f} % | {row.focal_percent:.2f} % "
            f"| {row.cpu_seconds:.0f} CPU-s |"
        )
    return "\n".join(lines)


def _regained(row: Row, rows: list[Row]) -> str:
    """(optimised - frozen) / (frozen on the reference - frozen), by both columns."""
    same = [other for other in rows if (other.scene, other.method) == (row.scene, row.method)]
    frozen = [other for other in same if not other.optimised and other.level == row.level]
    clean = [other for other in same if not other.optimised and other.level == 0]
    if not row.optimised or row.level == 0 or not frozen or not clean:
        return "-"
    shares = []
    for column in ("sim3", "photometric"):
        low, high = getattr(frozen[0], column), getattr(clean[0], column)
        shares.append(f"{100 * (getattr(row, column) - low) / (high - low):.0f} %")
    return " / ".join(shares)


def bench(
    name: str,
    method: str,
    level: float,
    mode: str,
    weight: float | None,
    options: argparse.Namespace,
    folder: Path,
) -> Row:
    """The mean of a row's runs.

    Args:
        folder: Must outlive the process's runs: tensorboard goes on writing after a run.
    """
    scene = SHARED / "scenes" / name
    if not scene.is_dir():
        raise SystemExit(f"There is no scene {scene}. Name others with --scenes.")
    runs = []
    for repeat in range(options.repeats):
        output = Path(tempfile.mkdtemp(dir=folder))
        data = output / name
        reference = perturb(scene, level, options.seed, data)
        pipeline, seconds = train(
            method, data, mode, options.steps, repeat, output / "out", options.max_image_size,
            not options.no_rough_scene, not options.compared_points,
            partial(with_tracks, weight=weight, scene=scene, level=level, data=data),
        )  # fmt: skip
        scores = score(pipeline, reference, options.photometric)
        runs.append(scores | {"cpu_seconds": seconds})
    means = {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}
    return Row(name, method, level, mode != "off", weight, **means)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", nargs="+", default=["fox_270x480", "sceaux"])
    parser.add_argument("--levels", nargs="+", type=float, default=[0.0, 1.0, 2.0])
    parser.add_argument("--methods", nargs="+", default=["3dgs"])
    parser.add_argument("--modes", nargs="+", default=["off", "SO3xR3"], help="of the cameras")
    parser.add_argument(
        "--track-weights", nargs="+", type=float, default=[None],
        help="of tracks triangulated under the perturbed cameras; not given: no tracks",
    )  # fmt: skip
    parser.add_argument(
        "--no-rough-scene", action="store_true", help="leave cameras as they are before training"
    )
    parser.add_argument(
        "--compared-points", action="store_true",
        help="start from points that photos agree on under the perturbed cameras, not random ones",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, help="default: the method's own recipe")
    parser.add_argument("--max-image-size", type=int, help="long side in pixels")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the cameras' noise")
    parser.add_argument("--photometric", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, method, level, mode, weight in itertools.product(
            options.scenes, options.methods, options.levels, options.modes, options.track_weights
        ):
            rows.append(bench(name, method, level, mode, weight, options, Path(folder)))
            print(table(rows, options.photometric).splitlines()[-1], flush=True)
            if options.json:
                content = json.dumps([asdict(row) for row in rows], indent=1)
                options.json.write_text(content + "\n")
    print(table(rows, options.photometric))


if __name__ == "__main__":
    main()
