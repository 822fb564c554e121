"""Ratios of the CPU kernels against torch: python tests/benchmarks/bench_kernels.py [--json PATH].

CPU seconds of this process with one thread, interleaved, minimum of several runs; only the scaling
from one to two threads is by wall clock, since CPU time cannot show it.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fm3d_plugins.dense_points import PosedPhotos, sweep_depth
from fm3d_plugins.kernels.image_loss import l1_ssim_loss
from fm3d_plugins.kernels.plane_sweep import plane_sweep_costs
from fm3d_plugins.kernels.plane_sweep.torch_reference import plane_sweep_costs_torch
from fm3d_plugins.kernels.rasterizer import rasterize
from fm3d_plugins.kernels.threads import set_num_threads

WIDTH, HEIGHT = 480, 270
MIN_RUNS = 5


def scene(num_gaussians: int) -> dict[str, torch.Tensor]:
    """Gaussians that cover the image about as often as those of a trained scene do."""
    generator = torch.Generator().manual_seed(0)
    focal = 0.8 * WIDTH
    depth = 1.5 + 4.0 * torch.rand(num_gaussians, generator=generator)
    place = 1.2 * torch.rand(num_gaussians, 2, generator=generator) - 0.6
    xy = place * torch.tensor([WIDTH, HEIGHT]) / focal * depth[:, None]
    pixels = 4.0 * (30_000 / num_gaussians) ** 0.5
    shape = torch.exp(0.6 * torch.randn(num_gaussians, 3, generator=generator))
    return {
        "means": torch.cat([xy, depth[:, None]], dim=-1),
        "quaternions_wxyz": torch.randn(num_gaussians, 4, generator=generator),
        "scales": shape * pixels / focal * depth[:, None],
        "opacities": torch.sigmoid(1.5 * torch.randn(num_gaussians, generator=generator)),
        "sh_coefficients": 0.3 * torch.randn(num_gaussians, 16, 3, generator=generator),
        "camera_from_world": torch.eye(4),
        "intrinsics": torch.tensor(
            [[focal, 0.0, WIDTH / 2], [0.0, focal, HEIGHT / 2], [0.0, 0.0, 1.0]]
        ),
        "background": torch.tensor([0.2, 0.5, 0.7]),
    }


def training_pass(arguments: dict[str, torch.Tensor], backend: str) -> Callable[[], None]:
    """Forward and backward of one view, with all gradients."""
    upstream = torch.ones(HEIGHT, WIDTH, 3)
    leaves = {name: value.clone().requires_grad_() for name, value in arguments.items()}

    def run() -> None:
        for leaf in leaves.values():
            leaf.grad = None
        view = rasterize(**leaves, width=WIDTH, height=HEIGHT, sh_degree=3, backend=backend)
        view.rgb.backward(upstream)

    return run


def loss_pass(backend: str) -> Callable[[], None]:
    """L1 + SSIM of one image and its gradient; "msssim" is what splatfacto computes."""
    generator = torch.Generator().manual_seed(0)
    rendered, target = torch.rand(2, HEIGHT, WIDTH, 3, generator=generator)

    def run() -> None:
        leaf = rendered.clone().requires_grad_()
        if backend != "msssim":
            l1_ssim_loss(leaf, target, 0.2, backend).backward()
            return
        import pytorch_msssim

        images = (image.permute(2, 0, 1)[None] for image in (leaf, target))
        similarity = pytorch_msssim.ssim(*images, data_range=1.0)
        (0.8 * (leaf - target).abs().mean() + 0.2 * (1.0 - similarity)).backward()

    return run


def plane_sweep(backend: str) -> Callable[[], None]:
    """Costs of 96 planes for a photo of 200 x 150 and three neighbours, shifted sideways."""
    photos = torch.rand(4, 150, 200, generator=torch.Generator().manual_seed(0))
    warps = torch.eye(3, dtype=torch.float64).repeat(3, 96, 1, 1)
    warps[..., 0, 2] = torch.linspace(0, 20, 96, dtype=torch.float64)

    def run() -> None:
        if backend == "torch":
            plane_sweep_costs_torch(photos[0], photos[1:], warps, 2, 1e-4)
        else:
            plane_sweep_costs(photos[0].numpy(), photos[1:].numpy(), warps.numpy())

    return run


def swept_photos() -> Callable[[], None]:
    """Depth of 24 photos side by side, by a sweep of planes."""
    poses = torch.eye(4).repeat(24, 1, 1)
    poses[:, 0, 3] = torch.linspace(-2, 2, 24)
    images = list(torch.rand(24, 150, 200, 3, generator=torch.Generator().manual_seed(0)))
    intrinsics = torch.tensor([[160.0, 0, 100], [0, 160, 75], [0, 0, 1]]).expand(24, 3, 3)
    photos = PosedPhotos(images, intrinsics, poses, [None] * 24)
    return lambda: sweep_depth(photos, torch.zeros(0, 3)) and None


def fastest(
    runs: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """The smallest number of seconds of each, run in turns after one unmeasured turn."""
    seconds = {name: float("inf") for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if repeat > 0:
                seconds[name] = min(seconds[name], clock() - start)
    return seconds


def row(what: str, fast: float, slow: float, bar: float) -> dict[str, object]:
    """One line of the table; times in milliseconds."""
    return {
        "what": what,
        "milliseconds": round(1e3 * fast, 2),
        "against": round(1e3 * slow, 2),
        "ratio": round(slow / fast, 2),
        "bar": bar,
    }


def measure(repeats: int) -> list[dict[str, object]]:
    """All rows of the table."""
    rows = []
    torch.set_num_threads(1)
    for num_gaussians in (10_000, 50_000):
        arguments = scene(num_gaussians)
        runs = {backend: training_pass(arguments, backend) for backend in ("numba", "torch")}
        seconds = fastest(runs, repeats, time.process_time)
        what = f"rasterise {num_gaussians} gaussians, numba / torch"
        rows.append(row(what, seconds["numba"], seconds["torch"], 15.0))
    seconds = fastest(
        {name: loss_pass(name) for name in ("numba", "torch", "msssim")},
        2 * repeats,
        time.process_time,
    )
    rows.append(row("L1 + SSIM, numba / torch", seconds["numba"], seconds["torch"], 3.0))
    what = "L1 + SSIM, numba / pytorch_msssim"
    rows.append(row(what, seconds["numba"], seconds["msssim"], 3.0))

    seconds = fastest(
        {name: plane_sweep(name) for name in ("numba", "torch")}, repeats, time.process_time
    )
    what = "sweep 96 planes, 3 neighbours, numba / torch"
    rows.append(row(what, seconds["numba"], seconds["torch"], 10.0))

    # torch keeps one thread: its second would spin on the core that the kernels' second needs.
    def with_threads(num_threads: int, run: Callable[[], None]) -> Callable[[], None]:
        def with_them() -> None:
            set_num_threads(num_threads)
            run()

        return with_them

    for what, run, turns in (
        ("rasterise 50000 gaussians", training_pass(scene(50_000), "numba"), 4 * repeats),
        ("depth of 24 photos by a sweep", swept_photos(), repeats),
    ):
        runs = {"two": with_threads(2, run), "one": with_threads(1, run)}
        seconds = fastest(runs, turns, time.perf_counter)
        rows.append(row(f"{what}, 2 / 1 threads (wall)", seconds["two"], seconds["one"], 1.7))
    set_num_threads(None)
    return rows


def main() -> None:
    """Print the table and, if asked, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--repeats", type=int, default=MIN_RUNS, help="runs of each, at least 5")
    options = parser.parse_args()
    rows = measure(max(MIN_RUNS, options.repeats))
    print(f"{'':48} {'ms':>9} {'against':>9} {'ratio':>7} {'bar':>6}")
    for line in rows:
        numbers = "{milliseconds:9.2f} {against:9.2f} {ratio:7.2f} {bar:6.1f}".format(**line)
        print(f"{line['what']:48} {numbers}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
