"""How far a trajectory joined from chunks is off, on synthetic truth.

    python tests/benchmarks/bench_chunks.py [--photos N] [--seeds N]

A walk around a room whose depth is known in closed form is cut into chunks of 24 photos with 8
shared. Each chunk is given in a random frame and unit with 1 % noise on depth and 5 % wrong pixels;
then also with a drift of scale and direction within every chunk. Printed is the absolute trajectory
error over the extent, in percent, per seed.
"""

import argparse
import importlib.util
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

from fm3d_plugins.estimators.chunks.joining import join_chunks  # noqa: E402
from fm3d_plugins.estimators.chunks.plan import Chunks, plan_chunks  # noqa: E402
from fm3d_plugins.geometry.pose_metrics import evaluate_poses  # noqa: E402
from fm3d_plugins.photos.similarity import (  # noqa: E402
    photo_descriptors,
    similarity_matrix,
)

CHUNK, OVERLAP = 24, 8
HEIGHT, WIDTH = 196, 252
ERRORS = {
    "none": {},
    "cameras 3 mm, 3 mrad": {"jitter": 0.003},
    "drift 1 %": {"drift": 0.01},
    "drift 1 %, 0.3 deg": {"drift": 0.01, "tilt": 0.005},
    "drift 3 %, 1 deg": {"drift": 0.03, "tilt": 0.017},
}


def load_room():
    """The tests' room, which lies in a file that cannot be imported by name."""
    file = Path(__file__).resolve().parents[1] / "estimators/chunks/conftest.py"
    specification = importlib.util.spec_from_file_location("room", file)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def plans(room, poses) -> dict[str, Chunks]:
    colors = [room.room_colors(pose, 48, 64) for pose in poses]
    similarity = similarity_matrix(photo_descriptors(colors))
    sizes = {"chunk_size": CHUNK, "overlap": OVERLAP}
    count = len(poses)
    return {
        "loop closed": plan_chunks(count, order=range(count), similarity=similarity, **sizes),
        "no loop": plan_chunks(count, **sizes),
        "unordered": plan_chunks(count, similarity=similarity, **sizes),
    }


def error_percent(joined, poses) -> float:
    found, truth = (
        {str(row): pose for row, pose in enumerate(each)}
        for each in (joined.world_from_camera, poses)
    )
    share = evaluate_poses(found, truth).ate_over_extent
    assert share is not None
    return 100 * share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    room = load_room()
    poses = room.walk(arguments.photos)
    names = [str(photo) for photo in range(arguments.photos)]
    depths = torch.stack([room.room_depth(pose, HEIGHT, WIDTH) for pose in poses])
    for name, options in ERRORS.items():
        for label, plan in plans(room, poses).items():
            errors, start = [], time.process_time()
            for seed in range(1, arguments.seeds + 1):
                seen = (
                    room.predict(members, poses, depths, 1000 * seed + chunk, **options)
                    for chunk, members in enumerate(plan.members)
                )
                errors.append(error_percent(join_chunks(seen, plan, names), poses))
            spent = (time.process_time() - start) / arguments.seeds
            listed = " / ".join(f"{error:.3f}" for error in errors)
            print(f"{name:22s} {label:12s} {listed} %   {spent:.1f} CPU-s each", flush=True)


if __name__ == "__main__":
    main()
