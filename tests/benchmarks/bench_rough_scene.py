"""How near a rough scene brings noisy cameras, before any method begins.

    python tests/benchmarks/bench_rough_scene.py SCENE ... [--levels 0 1 2] [--seeds 0 1]
        [--steps N] [--max-image-size N]

Cameras of posed scenes (folders with transforms.json) are perturbed as in bench_poses.py. Errors
are the mean length of the six numbers of a training camera in units of about one pixel, after the
similarity of all that brings them nearest.
"""

import argparse
import copy
import itertools
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from bench_poses import Reference, perturb  # noqa: E402
from torch import Tensor  # noqa: E402


def errors(dataset: Any, given: Any, reference: Reference, optimizer: Any) -> tuple[float, float]:
    """Of the poses in pixels, and of the focal lengths in percent."""
    from fm3d_plugins.camera_optimization.held_out_poses import training_cameras
    from fm3d_plugins.camera_optimization.pixel_units import align_in_pixels, unit_motions
    from fm3d_plugins.geometry.looked_at import distance_looked_at
    from fm3d_plugins.geometry.poses import so3_log
    from fm3d_plugins.nerfstudio_cameras import image_sizes

    names = [str(Path(file).resolve()) for file in dataset.image_filenames]
    truth: Tensor = torch.stack([reference.poses[name] for name in names])
    found = training_cameras(dataset.cameras, optimizer).optimised
    cameras = dataset.cameras.to("cpu")
    motions = unit_motions(
        truth, cameras.get_intrinsics_matrices(), image_sizes(cameras), distance_looked_at(truth)
    ).double()
    placed = align_in_pixels(found, truth, motions).apply_to_pose(found)
    turns = so3_log(truth[:, :3, :3] @ placed[:, :3, :3].mT)
    error = torch.cat([truth[:, :3, 3] - placed[:, :3, 3], turns], dim=-1)[..., None]
    pixels = (torch.linalg.inv(motions) @ error).norm(dim=(1, 2)).mean()
    right = torch.tensor([reference.focals[name] for name in names])
    ratios = optimizer.focal_factors().detach() * given.fx.flatten() / right
    return float(pixels), float(100 * (ratios - 1).abs().mean())


def bench(scene: Path, level: float, seed: int, options: argparse.Namespace, folder: Path) -> str:
    """A row of the table."""
    from nerfstudio.configs.method_configs import all_methods

    from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizerConfig
    from fm3d_plugins.camera_optimization.rough_scene import settle_cameras, small_photos
    from fm3d_plugins.camera_photos import GIVEN_CAMERAS

    data = Path(tempfile.mkdtemp(dir=folder)) / scene.name
    reference = perturb(scene, level, seed, data)
    config: Any = copy.deepcopy(all_methods["3dgs"]).pipeline.datamanager
    config.data = config.dataparser.data = data
    config.random_points, config.num_random_points = True, 10
    config.max_image_size = options.max_image_size
    manager = config.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)
    dataset = manager.train_dataset
    given = manager.train_dataparser_outputs.cameras
    optimizer = CameraOptimizerConfig(mode="SO3xR3").setup(
        num_cameras=len(dataset), device="cpu", cameras=dataset.metadata[GIVEN_CAMERAS]
    )
    before = errors(dataset, given, reference, optimizer)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    photos = small_photos(manager.train_pinholes())
    moved = settle_cameras(optimizer, photos, options.steps, torch.Generator().manual_seed(0))
    seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - start
    after = errors(dataset, given, reference, optimizer)
    return (
        f"| {scene.name}, {len(dataset)} | x {level:g}, {seed} | {before[0]:.1f} -> {after[0]:.1f} "
        f"| {before[1]:.1f} -> {after[1]:.1f} % | {moved:.1f} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("scenes", nargs="+", type=Path, help="folders with transforms.json")
    parser.add_argument("--levels", nargs="+", type=float, default=[0.0, 1.0, 2.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the cameras' noise")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--max-image-size", type=int, default=480, help="long side in pixels")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| scene, photos | noise, seed | pixels | focal lengths | moved, pixels | CPU-s |")
    print("|" + " --- |" * 6)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for scene, level, seed in itertools.product(options.scenes, options.levels, options.seeds):
            print(bench(scene, level, seed, options, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
