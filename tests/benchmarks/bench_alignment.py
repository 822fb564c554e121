"""What the alignment of many pairs costs and how exact it is, on synthetic truth.

    python tests/benchmarks/bench_alignment.py [--photos 5] [--window 0] [--noise 0.003]

Photos of 512 x 384 look at a smooth surface. Pairs are all of them, or with --window k those of
every photo with the next k. They are written to a PairStore beforehand; CPU seconds of
one thread and memory are those of the alignment alone, in a process that has nothing else to do.
Published code on the same machine: 5 photos 244 s and 1.7 GiB, 10 photos 1080 s and 4.2 GiB.
"""

import argparse
import importlib.util
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil  # noqa: E402
import torch  # noqa: E402

from fm3d_plugins.dust3r.alignment.global_alignment import align_globally  # noqa: E402
from fm3d_plugins.dust3r.alignment.views import AlignedViews  # noqa: E402
from fm3d_plugins.dust3r.pair_pointmaps import PairStore  # noqa: E402
from fm3d_plugins.geometry.alignment import umeyama  # noqa: E402
from fm3d_plugins.geometry.pointmaps import pointmap_from_depth  # noqa: E402
from fm3d_plugins.geometry.poses import rotation_angle_degrees  # noqa: E402

SIZE = (384, 512)
FOCALS = (464.0, 496.0, 528.0, 480.0, 512.0)


def load_scene_module():
    """The tests' scene, which lies in a file that cannot be imported by name."""
    file = Path(__file__).resolve().parents[1] / "dust3r/alignment_scene.py"
    specification = importlib.util.spec_from_file_location("alignment_scene", file)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def make_scene(photos: int, window: int):
    spread = 0.15 * photos if window else 1.0
    focals = [FOCALS[photo % len(FOCALS)] for photo in range(photos)]
    return load_scene_module().Scene.make([SIZE] * photos, focals, spread=spread)


def graph(photos: int, window: int) -> list[tuple[int, int]]:
    reach = window or photos
    return [(i, j) for i in range(photos) for j in range(i) if i - j <= reach]


class PeakMemory:
    """Largest resident memory of the process while it runs, in bytes, above that at the start."""

    def __enter__(self) -> "PeakMemory":
        self._process, self._is_over = psutil.Process(), False
        self.base = self.peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._is_over = True
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over:
            self.peak = max(self.peak, self._process.memory_info().rss)
            time.sleep(0.01)


def report(views: AlignedViews, scene, seconds: float, memory: PeakMemory) -> None:
    clouds = []
    for poses, intrinsics, depth in (
        (views.world_from_camera, views.intrinsics, views.depth),
        (scene.poses, scene.intrinsics, scene.depth),
    ):
        each = zip(depth, intrinsics, poses, strict=True)
        maps = [pointmap_from_depth(d.double(), k, p)[::8, ::8] for d, k, p in each]
        clouds.append(torch.cat([points.flatten(0, 1) for points in maps]))
    similarity = umeyama(*clouds)
    placed = similarity.apply_to_pose(views.world_from_camera)
    turn = rotation_angle_degrees(placed[:, :3, :3], scene.poses[:, :3, :3]).max()
    center = (placed[:, :3, 3] - scene.poses[:, :3, 3]).norm(dim=-1).max()
    focal = (views.intrinsics[:, 0, 0] / scene.intrinsics[:, 0, 0] - 1).abs().max()
    points = (similarity.apply(clouds[0]) - clouds[1]).norm(dim=-1).mean()
    assert views.report is not None
    print(
        f"{len(scene.poses)} photos, {len(views.pairs)} pairs: {seconds:.1f} CPU-s, "
        f"{(memory.peak - memory.base) / 2**30:.2f} GiB above {memory.base / 2**30:.2f} GiB "
        f"(ru_maxrss {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB); "
        f"{views.report.steps} steps, rotation {turn:.4f} deg, centre {center:.5f}, "
        f"focal {100 * focal:.3f} %, points {points:.5f}",
        flush=True,
    )


def align(arguments: argparse.Namespace, store: PairStore) -> None:
    torch.set_num_threads(1)
    sizes = [SIZE] * arguments.photos
    with PeakMemory() as memory:
        start = time.process_time()
        views = align_globally(store, sizes)
        seconds = time.process_time() - start
    report(views, make_scene(arguments.photos, arguments.window), seconds, memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=5)
    parser.add_argument("--window", type=int, default=0, help="0: all pairs")
    parser.add_argument("--noise", type=float, default=0.003, help="share of the depth")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scene = make_scene(arguments.photos, arguments.window)
        store = PairStore(Path(name))
        edges = graph(arguments.photos, arguments.window)
        for first, second in [*edges, *((j, i) for i, j in edges)]:
            store.put(scene.pair(first, second, arguments.noise))
        # A fresh process: the peak is the alignment's own.
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=align, args=(arguments, store))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
