"""Do an estimate's own matches help where SIFT has none? python
    tests/benchmarks/bench_own_matches.py [SCENE:few ...] [--levels 1 2] [--seeds 11]

Priors are those of `bench_refine.py`. Pairs of photos that SIFT does not connect get matches that
are made up: points of the reference that both photos see, in the one photo where they lie, in the
other with noise of as many pixels as stated, either where they lie (`true`: a network whose matches
know nothing of its cameras), or where the prior's cameras and the true depth put them (`prior`:
depth of the estimate, reprojected).
"""

import argparse
import math
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import bench_refine  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

DEFAULT = ("banana:few",)
KINDS = (("none", 0.0), ("true", 1.25), ("true", 3.0), ("prior", 1.25))
"""And the noise, pixels of photos with 640."""
NEAR_DEGREES, MOST, LEAST = 25.0, 150, 30
"""A photo sees a point if it is in its frame and another photo nearby has it in its track."""


class Points:
    """Points of the reference, and where photos see them."""

    def __init__(self, scene: bench_refine.Scene) -> None:
        from fm3d_plugins.geometry.alignment import align_cameras
        from fm3d_plugins.geometry.cameras import denormalize, distort
        from fm3d_plugins.geometry.poses import invert, transform_points
        from fm3d_plugins.io.colmap import read_colmap

        reference = scene.reference
        name = scene.name.partition(":")[0]
        model = read_colmap(bench_refine.SCENES / name / "colmap" / "sparse" / "0")
        rows = [model.names.index(each) for each in reference.names]
        truth = reference.world_from_camera.double()
        aligned = align_cameras(model.world_from_camera[rows].double(), truth)
        self.points = aligned.apply(model.points.double())
        centers = aligned.apply_to_pose(model.world_from_camera.double())[:, :3, 3]
        has = torch.zeros(len(model), len(self.points), dtype=torch.bool)
        has[model.tracks.view_index, model.tracks.point_index] = True
        self.seen, self.pixels = [], []
        for view, pose in enumerate(truth):
            here = transform_points(invert(pose), self.points)
            bent = distort(here[:, :2] / here[:, 2:], reference.distortion[view].double())
            pixels = denormalize(bent, reference.intrinsics[view].double())
            inside = (here[:, 2] > 0) & (pixels > 0).all(1)
            inside &= (pixels < reference.image_sizes[view]).all(1)
            own = torch.nn.functional.normalize(self.points - pose[:3, 3], dim=-1)
            other = torch.nn.functional.normalize(self.points - centers[:, None], dim=-1)
            near = (own * other).sum(-1) > math.cos(math.radians(NEAR_DEGREES))
            self.seen.append((inside & (near & has).any(0)).numpy())
            self.pixels.append(pixels.numpy())


def made_up(scene, points: Points, prior, kind: str, noise: float, seed: int):
    """Keypoints of each view, and matches of them, of pairs that SIFT does not connect."""
    from fm3d_plugins.estimators.refinement.covisibility import covisible_pairs
    from fm3d_plugins.geometry.cameras import project, unproject
    from fm3d_plugins.geometry.poses import invert, transform_points

    random = np.random.default_rng(seed)
    keypoints = [np.zeros((0, 2)) for _ in prior.names]
    matches = {}
    for first, second in covisible_pairs(prior):
        both = np.flatnonzero(points.seen[first] & points.seen[second])
        if kind == "none" or (first, second) in scene.matches or len(both) < LEAST:
            continue
        both = random.choice(both, min(MOST, len(both)), replace=False)
        here, there = points.pixels[first][both], points.pixels[second][both]
        if kind == "prior":
            pose = scene.reference.world_from_camera[first].double()
            depth = transform_points(invert(pose), points.points[both])[:, 2]
            rays = unproject(torch.from_numpy(here), depth, prior.intrinsics[first].double())
            world = transform_points(prior.world_from_camera[first].double(), rays)
            back = transform_points(invert(prior.world_from_camera[second].double()), world)
            there = project(back, prior.intrinsics[second].double()).numpy()
        there = there + noise * random.normal(size=there.shape)
        rows = np.arange(len(both))
        matches[first, second] = np.stack(
            [rows + len(keypoints[first]), rows + len(keypoints[second])], axis=1
        )
        keypoints[first] = np.concatenate([keypoints[first], here])
        keypoints[second] = np.concatenate([keypoints[second], there])
    return keypoints, matches


def run(scene, points: Points, level: str, seed: int, kind: str, noise: float) -> str:
    """One prior refined, as cells of the table."""
    from fm3d_plugins.estimators.refinement.belief import cameras_of
    from fm3d_plugins.estimators.refinement.gate import LEAST_OBSERVATIONS
    from fm3d_plugins.estimators.refinement.judged_cameras import refine_cameras
    from fm3d_plugins.estimators.refinement.rounds import Evidence, world_from_camera

    prior = scene.disturbed(level, seed)
    keypoints, matches = made_up(scene, points, prior, kind, noise, seed)
    sift = [one.features.keypoints[:, :2].astype(np.float64) for one in scene.working]
    counts = [len(each) for each in sift]
    moved = {
        pair: rows + np.array([counts[view] for view in pair]) for pair, rows in matches.items()
    }
    evidence = Evidence(
        [(one.width, one.height) for one in scene.working],
        [np.concatenate(each) for each in zip(sift, keypoints, strict=True)],
        dict(sorted({**scene.matches, **moved}.items())),
        counts,
    )
    believed = cameras_of(prior, [one.scale for one in scene.working])
    found = refine_cameras(prior.names, believed, evidence)
    poses = prior.world_from_camera.clone()
    if found.report.is_accepted:
        good = torch.from_numpy(found.solution.observations >= LEAST_OBSERVATIONS)
        poses[good] = torch.from_numpy(world_from_camera(found.solution.cameras))[good]
    before, after = (scene.errors(each) for each in (prior.world_from_camera, poses))
    cells = [scene.name, level, f"{kind} {noise:g}", str(len(moved)), found.report.headline]
    for key in ("AUC@5", "AUC@30"):
        cells += [f"{before[key]:.3f}", f"{after[key]:.3f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="*", default=DEFAULT)
    parser.add_argument("--levels", nargs="+", default=("1", "2"))
    parser.add_argument("--seeds", nargs="+", type=int, default=(11,))
    arguments = parser.parse_args()
    head = ("scene", "prior", "matches, px", "pairs", "state", "AUC@5 before", "after")
    print("| " + " | ".join([*head, "AUC@30 before", "after"]) + " |\n" + "|---" * 9 + "|")
    for name in arguments.scenes:
        scene = bench_refine.Scene(name)
        points = Points(scene)
        for level in arguments.levels:
            for seed in arguments.seeds:
                for kind, noise in KINDS:
                    print(run(scene, points, level, seed, kind, noise), flush=True)


if __name__ == "__main__":
    main()
