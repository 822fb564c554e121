"""How much of the training loop of `3dgs` is spent in kernels.

    python tests/benchmarks/bench_loop.py [--scene FOLDER] [--steps N] [--threads N] [--seed N]

CPU seconds of the whole process from the second step to the last (the first loads the kernels, or
compiles them), without evaluation, and of the kernels among them. The default recipe, unless fewer
steps are asked for.
"""

import argparse
import copy
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import Trainer

from fm3d_plugins.kernels import threads

SHARED = Path(__file__).resolve().parents[3] / "shared"


def timed(seconds: Counter[str], name: Callable[..., str], call: Callable) -> Callable:
    """A function that adds the CPU seconds of every call to `seconds`, under `name(arguments)`."""

    def run(*arguments: object) -> object:
        start = time.process_time()
        try:
            return call(*arguments)
        finally:
            seconds[name(*arguments)] += time.process_time() - start

    return run


def watch_kernels(seconds: Counter[str]) -> None:
    """Time every call of a kernel from now on; all their modules are loaded."""
    from fm3d_plugins.kernels.rasterizer import numba_backend

    run_kernel = threads.run_kernel
    timed_run = timed(seconds, lambda kernel, *_: kernel.py_func.__name__, run_kernel)
    for module in list(sys.modules.values()):
        if getattr(module, "run_kernel", None) is run_kernel:
            module.run_kernel = timed_run
    # The only one that is called without `run_kernel`.
    sort = numba_backend.sort_by_depth
    numba_backend.sort_by_depth = timed(seconds, lambda *_: "sort_by_depth", sort)


def trainer_for(scene: Path, steps: int | None, seed: int, folder: Path) -> Trainer:
    """nerfstudio's trainer of the default recipe, which logs but does not evaluate."""
    config = copy.deepcopy(all_methods["3dgs"])
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir, config.max_num_iterations, config.vis = folder, steps, "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.steps_per_eval_image, config.logging.local_writer.enable = 0, False
    config.pipeline.model.lpips_networks = ()
    config.set_timestamp()
    torch.manual_seed(seed)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scene", type=Path, default=SHARED / "scenes" / "fox_270x480")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    if not options.scene.is_dir():
        raise SystemExit(f"There is no scene {options.scene}. Name one with --scene.")
    torch.set_num_threads(options.threads)
    seconds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(options.scene, options.steps, options.seed, Path(folder))
        iteration, start = trainer.train_iteration, 0.0

        def first_iteration(step: int) -> object:
            nonlocal start
            result = iteration(step)
            watch_kernels(seconds)
            trainer.train_iteration, start = iteration, time.process_time()
            return result

        trainer.train_iteration = first_iteration
        trainer.train()
        loop, kernels = time.process_time() - start, Counter(seconds)
        psnr = trainer.pipeline.get_average_eval_image_metrics()["psnr"]
    steps, inside = trainer.step, sum(kernels.values())
    print(
        f"{describe(options.threads)}: "
        f"{steps} steps of {1e3 * loop / steps:.1f} CPU-ms, of them "
        f"{1e3 * (loop - inside) / steps:.1f} outside kernels ({inside / loop:.1%} inside); "
        f"{len(trainer.pipeline.model.means)} gaussians, {psnr:.2f} dB"
    )
    for name, value in kernels.most_common():
        print(f"{name:>20} {1e3 * value / steps:6.2f} ms per step")


if __name__ == "__main__":
    main()
