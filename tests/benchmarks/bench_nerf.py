"""`nerf` against nerfstudio's nerfacto on a CPU: python tests/benchmarks/bench_nerf.py [options].

Three parts (--only grid | rays | quality):
grid     one forward and backward pass of the hash grid, per position, against nerfstudio's torch
         HashEncoding; one thread, interleaved, minimum of several runs;
rays     rays per CPU second of whole training steps, against nerfacto with its torch
         implementation, both at 1024 rays a step;
quality  held-out PSNR after equal CPU seconds of training (--seconds), on the same held-out pixels
         for both (a grid of every 8th row and column: nerfacto needs hours for all of them).
CPU seconds are those of this process.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fm3d_plugins.kernels.hash_grid import HashGridLayout, encode

SHARED = Path(__file__).resolve().parents[3] / "shared"
MIN_RUNS = 5
POSITIONS = 65_536
RAYS = 1024
PIXEL_STEP = 8


class _NoLpips(torch.nn.Module):
    """Stands where nerfacto constructs LPIPS, which would download a network."""

    def __init__(self, **_: Any) -> None:
        super().__init__()


def cpu_seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def interleaved(runs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """CPU seconds of each, the minimum of several rounds."""
    for run in runs.values():
        run()
    best = dict.fromkeys(runs, math.inf)
    for _ in range(MIN_RUNS):
        for name, run in runs.items():
            best[name] = min(best[name], cpu_seconds(run))
    return best


def bench_grid() -> dict[str, float]:
    from nerfstudio.field_components.encodings import HashEncoding

    positions = torch.rand(POSITIONS, 3)

    def ours(layout: HashGridLayout) -> Callable[[], None]:
        table = torch.zeros(layout.num_entries, 4).uniform_(-1e-4, 1e-4).requires_grad_()
        upstream = torch.ones(POSITIONS, layout.num_features)
        return lambda: encode(positions, table, layout).backward(upstream)

    def theirs(**options: int) -> Callable[[], None]:
        grid = HashEncoding(implementation="torch", **options)
        upstream = torch.ones(POSITIONS, grid.get_out_dim())
        return lambda: grid(positions).backward(upstream)

    best = interleaved(
        {
            "ours_8x4": ours(HashGridLayout(log2_table_size=17)),
            "theirs_8x4": theirs(
                num_levels=8, features_per_level=4, log2_hashmap_size=17, max_res=2048
            ),
            "theirs_16x2": theirs(num_levels=16, features_per_level=2, log2_hashmap_size=19),
        }
    )
    figures = {name: 1e6 * seconds / POSITIONS for name, seconds in best.items()}
    print("hash grid, forward + backward, CPU microseconds per position (32 features):")
    print(f"  ours, 8 levels of 4, 2^17 entries          {figures['ours_8x4']:.2f}")
    for name, title in (
        ("theirs_8x4", "nerfstudio torch, the same grid"),
        ("theirs_16x2", "nerfstudio torch, its 16 levels of 2, 2^19"),
    ):
        ratio = figures[name] / figures["ours_8x4"]
        print(f"  {title:<42} {figures[name]:.2f}  = {ratio:.1f}x")
    return figures


def make_pipeline(method: str, scene: Path, seconds: float, rays_per_second: float) -> Any:
    """The method's pipeline, its optimizers and number of steps, as ns-train would make them."""
    from nerfstudio.configs.method_configs import all_methods
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.engine.optimizers import Optimizers
    from torchmetrics.image import lpip

    lpip.LearnedPerceptualImagePatchSimilarity = _NoLpips
    config = all_methods[method]
    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(
        data=scene, eval_mode="interval", load_3D_points=False
    )
    config.pipeline.datamanager.data = scene
    config.pipeline.datamanager.train_num_rays_per_batch = RAYS
    config.machine.device_type = "cpu"
    if method == "nerfacto":
        from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig

        old = config.pipeline.datamanager
        config.pipeline.datamanager = VanillaDataManagerConfig(
            dataparser=old.dataparser, data=scene, train_num_rays_per_batch=RAYS
        )
        config.pipeline.model.implementation = "torch"
    else:
        config.max_num_iterations = max(100, int(seconds * rays_per_second / RAYS))
        config.resolve()
    torch.manual_seed(0)
    pipeline = config.pipeline.setup(device="cpu", test_mode="val")
    optimizers = Optimizers(config.optimizers, pipeline.get_param_groups())
    return pipeline, optimizers


class Run:
    """A method in training, step by step, with the CPU seconds it has used."""

    def __init__(self, method: str, scene: Path, seconds: float, rays_per_second: float) -> None:
        from nerfstudio.engine.callbacks import TrainingCallbackAttributes

        self.pipeline, self.optimizers = make_pipeline(method, scene, seconds, rays_per_second)
        attributes = TrainingCallbackAttributes(
            optimizers=self.optimizers, grad_scaler=None, pipeline=self.pipeline, trainer=None
        )
        self.callbacks = self.pipeline.get_training_callbacks(attributes)
        self.pipeline.train()
        self.step, self.seconds = 0, 0.0

    def train_step(self) -> None:
        start = time.process_time()
        for callback in self.callbacks:
            callback.run_callback_at_location(self.step, _location("BEFORE_TRAIN_ITERATION"))
        self.optimizers.zero_grad_all()
        _, losses, _ = self.pipeline.get_train_loss_dict(self.step)
        sum(losses.values()).backward()
        self.optimizers.optimizer_step_all()
        self.optimizers.scheduler_step_all(self.step)
        for callback in self.callbacks:
            callback.run_callback_at_location(self.step, _location("AFTER_TRAIN_ITERATION"))
        self.step += 1
        self.seconds += time.process_time() - start

    @torch.no_grad()
    def held_out_psnr(self) -> float:
        """Mean over held-out photos, of a grid of their pixels."""
        self.pipeline.eval()
        dataset, model = self.pipeline.datamanager.eval_dataset, self.pipeline.model
        values = []
        for i in range(len(dataset)):
            image = dataset.get_image_float32(i)[..., :3]
            height, width = image.shape[:2]
            rows, columns = torch.meshgrid(
                torch.arange(PIXEL_STEP // 2, height, PIXEL_STEP),
                torch.arange(PIXEL_STEP // 2, width, PIXEL_STEP),
                indexing="ij",
            )
            coords = torch.stack([rows, columns], dim=-1).reshape(-1, 2)
            indices = torch.full((len(coords), 1), i)
            rays = dataset.cameras.generate_rays(indices, coords=coords + 0.5)
            colors = torch.cat(
                [model(rays[k : k + 4096])["rgb"] for k in range(0, len(coords), 4096)]
            )
            error = (colors.clamp(0, 1) - image[coords[:, 0], coords[:, 1]]).square().mean()
            values.append(float(-10 * error.log10()))
        self.pipeline.train()
        return sum(values) / len(values)


def _location(name: str) -> Any:
    from nerfstudio.engine.callbacks import TrainingCallbackLocation

    return TrainingCallbackLocation[name]


def bench_rays(scene: Path) -> dict[str, float]:
    runs = {name: Run(name, scene, 60, 20_000) for name in ("nerf", "nerfacto")}
    figures = {}
    for name, warm_up, count in (("nerf", 100, 50), ("nerfacto", 2, 4)):
        for _ in range(warm_up):
            runs[name].train_step()
        best = min(cpu_seconds(runs[name].train_step) for _ in range(count))
        figures[name] = RAYS / best
    print(
        f"training, {RAYS} rays a step: nerf {figures['nerf']:.0f} rays per CPU second, nerfacto "
        f"(torch) {figures['nerfacto']:.0f}: {figures['nerf'] / figures['nerfacto']:.1f}x"
    )
    return figures


def bench_quality(scene: Path, seconds: float, rays_per_second: float) -> dict[str, float]:
    figures = {}
    for name in ("nerf", "nerfacto"):
        run = Run(name, scene, seconds, rays_per_second)
        while run.seconds < seconds:
            run.train_step()
        figures[name] = run.held_out_psnr()
        print(
            f"{name:<9} {run.step:>5} steps in {run.seconds:.0f} CPU-s: "
            f"{figures[name]:.2f} dB held out",
            flush=True,
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scene", type=Path, default=SHARED / "scenes" / "fox_270x480")
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument(
        "--rays-per-second",
        type=float,
        default=20_000,
        help="expected of nerf: sets the length of its schedule",
    )
    parser.add_argument("--only", choices=("grid", "rays", "quality"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = {
        "grid": bench_grid,
        "rays": lambda: bench_rays(options.scene),
        "quality": lambda: bench_quality(options.scene, options.seconds, options.rays_per_second),
    }
    figures = {name: parts[name]() for name in ([options.only] if options.only else parts)}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
