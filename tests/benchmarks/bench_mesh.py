"""How near an exported mesh of `fm3d sample` is to the room: bench_mesh.py MESH.ply [--seed ROOM]

    fm3d sample --output-dir sample
    ns-train 3dgs --data sample --vis tensorboard nerfstudio-data     # or nerf
    fm3d export --load-config outputs/sample/3dgs --what mesh --output mesh.ply
    python tests/benchmarks/bench_mesh.py mesh.ply

The room is known by rays: depth at 400 x 300 pixels from 48 places along the walk of the photos, so
that a vertex's distance is that to the nearest of 5.8 million points (about 1 cm apart). The extent
is the longest side of the box around them.
"""

import argparse
from pathlib import Path

VIEWS, WIDTH, HEIGHT = 48, 400, 300
MOST_VERTICES = 100_000
"""That are looked at, evenly chosen."""


def true_points(seed: int):
    """Points all over what the walk through a room sees, metres."""
    from fm3d_plugins.geometry.pointmaps import pointmap_from_depth
    from fm3d_plugins.synthetic_rooms.capture import (
        DRAFT,
        capture_cameras,
        capture_intrinsics,
        light_room,
        render_views,
    )
    from fm3d_plugins.synthetic_rooms.rooms import random_room

    lit = light_room(random_room(seed), DRAFT)
    cameras, intrinsics = capture_cameras(lit.room, VIEWS), capture_intrinsics(WIDTH, HEIGHT)
    views = render_views(lit, cameras, intrinsics, WIDTH, HEIGHT)
    lenses = intrinsics.expand(VIEWS, 3, 3)
    return pointmap_from_depth(views.depth.double(), lenses, cameras).reshape(-1, 3).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mesh", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="room of the sample")
    options = parser.parse_args()

    import numpy as np
    from scipy.spatial import cKDTree

    from fm3d_plugins.io.ply import read_ply

    vertices = read_ply(options.mesh).points.float().numpy()
    truth = true_points(options.seed).numpy()
    extent = float((truth.max(0) - truth.min(0)).max())
    some = vertices[:: max(1, len(vertices) // MOST_VERTICES)]
    distances, _ = cKDTree(truth).query(some)
    back, _ = cKDTree(vertices).query(truth[::50])
    print(f"{len(vertices):,} vertices; extent {extent:.2f} m")
    for share in (0.005, 0.01, 0.02):
        near = np.mean(distances < share * extent)
        print(f"within {share:.1%} of the extent: {near:.1%} of the vertices")
    print(f"median distance {100 * np.median(distances):.1f} cm")
    print(f"of what is seen, {np.mean(back < 0.02 * extent):.1%} has a vertex within 2 %")


if __name__ == "__main__":
    main()
