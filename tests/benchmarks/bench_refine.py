"""How far refinement brings noisy cameras: python tests/benchmarks/bench_refine.py [SCENE ...]
    [--levels 1 2 4] [--seeds 0 1 2] [--bad flip swap random] [--json PATH] [--picture PATH]

A prior is the reference's cameras with noise: every rotation turned by 1.09 degrees on average,
every centre shifted by 1.8 % of the centres' extent (root mean square), all focal lengths 2 % off
with one sign, without lens distortion and with the principal point in the middle; level 2 doubles
the first two and has focal lengths 5 % off, level 4 doubles again (10 %). `six` is 6 degrees, 8 %
and 10 %. Bad priors are those of level 1 with one view turned round (flip), two views exchanged
(swap) or all rotations drawn anew (random). A scene is a folder with images/ and transforms.json;
`NAME:few` takes the photos of transforms_few.json only. Features and matches of all pairs are made
once per scene; each run takes those of the pairs that its prior finds covisible. CPU seconds are
those of a run without features and matches, on one thread.

Every run is judged without the reference, as refinement does. A run that is not rejected and whose
AUC@30 falls by more than 0.005 is worse than its prior. The picture shows the angle by which each
view's rotation is off, before and after.
"""

import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

SCENES = Path(__file__).resolve().parents[3] / "shared" / "scenes"
DEFAULT = ("fox", "sceaux", "banana", "fox:few", "sceaux:few", "banana:few")
ROTATION_DEGREES, CENTRE_SHARE = 1.09, 0.018
FOCAL_SHARE = {1: 0.02, 2: 0.05, 4: 0.10}
WORSE = 0.005


@dataclass(frozen=True)
class Run:
    """One prior, and what came of it."""

    scene: str
    prior: str
    seed: int
    state: str
    noise_degrees: float
    held_out_share: float
    auc5: tuple[float, float]
    """Before and after; a rejected run keeps its prior."""
    auc30: tuple[float, float]
    ate: tuple[float, float]
    """Over the extent."""
    pairs: int
    cpu_seconds: float
    errors: tuple[list[float], list[float]]
    """Degrees of each view, before and after."""

    @property
    def is_worse(self) -> bool:
        return self.auc30[1] < self.auc30[0] - WORSE


class Scene:
    """Photos with their reference, features and all verified matches."""

    def __init__(self, name: str) -> None:
        from fm3d_plugins.estimators.matching.image_pairs import exhaustive_pairs
        from fm3d_plugins.estimators.matching.photo_matches import match_photos, rows_of
        from fm3d_plugins.estimators.matching.working_photos import find_features
        from fm3d_plugins.io.transforms import read_transforms
        from fm3d_plugins.photos.photo_set import find_photos

        self.name = name
        folder, _, subset = name.partition(":")
        file = f"transforms_{subset}.json" if subset else "transforms.json"
        self.reference = read_transforms(SCENES / folder / file)
        photos = {photo.name: photo for photo in find_photos(SCENES / folder)}
        chosen = [photos[name] for name in self.reference.names]
        began = time.process_time()
        self.working = find_features(
            chosen, max_features=8192, max_image_size=1600, num_threads=1, report=lambda _: None
        )
        pairs = exhaustive_pairs(len(chosen))
        self.matches = rows_of(match_photos(self.working, pairs, seed=0, num_threads=1))
        self.cpu_seconds = time.process_time() - began

    def disturbed(self, level: str, seed: int):
        """The reference with noise, without points."""
        from fm3d_plugins.geometry.poses import so3_exp

        random = np.random.default_rng(seed)
        turn, shift, focal = {
            "six": (6 / ROTATION_DEGREES, 0.08 / CENTRE_SHARE, 0.10),
        }.get(level) or (*[float(level if level[0].isdigit() else 1)] * 2, None)
        focal = FOCAL_SHARE.get(int(turn), 0.02 * turn) if focal is None else focal
        poses = self.reference.world_from_camera.double().clone()
        centers, views = poses[:, :3, 3].numpy(), len(poses)
        extent = np.sqrt(((centers - centers.mean(0)) ** 2).sum(1).mean())
        turns, shifts = random.normal(size=(2, views, 3))
        turns *= math.radians(ROTATION_DEGREES) * turn / np.linalg.norm(turns, axis=1).mean()
        shifts *= CENTRE_SHARE * shift * extent / np.sqrt((shifts**2).sum(1).mean())
        poses[:, :3, :3] = so3_exp(torch.from_numpy(turns)) @ poses[:, :3, :3]
        poses[:, :3, 3] += torch.from_numpy(shifts)
        if level == "flip":
            view = int(random.integers(views))
            poses[view, :3, :3] = (
                poses[view, :3, :3] @ torch.diag(torch.tensor([-1.0, 1, -1])).double()
            )
        elif level == "swap":
            one, other = random.choice(views, 2, replace=False).tolist()
            poses[[one, other]] = poses[[other, one]]
        elif level == "random":
            poses[:, :3, :3] = so3_exp(torch.from_numpy(2 * random.normal(size=(views, 3))))
        intrinsics = self.reference.intrinsics.double().clone()
        intrinsics[:, (0, 1), (0, 1)] *= 1 + focal * random.choice([-1, 1])
        intrinsics[:, :2, 2] = self.reference.image_sizes / 2
        return replace(
            self.reference,
            world_from_camera=poses,
            intrinsics=intrinsics,
            distortion=torch.zeros(views, 6),
            points=torch.zeros(0, 3),
            point_colors=torch.zeros(0, 3, dtype=torch.uint8),
            point_confidence=torch.zeros(0),
        )

    def run(self, level: str, seed: int) -> Run:
        """Refine one prior."""
        from fm3d_plugins.estimators.refinement.belief import cameras_of
        from fm3d_plugins.estimators.refinement.covisibility import covisible_pairs
        from fm3d_plugins.estimators.refinement.gate import LEAST_OBSERVATIONS
        from fm3d_plugins.estimators.refinement.judged_cameras import Searchable, refine_cameras
        from fm3d_plugins.estimators.refinement.rounds import Evidence, world_from_camera

        prior = self.disturbed(level, seed)
        pairs = covisible_pairs(prior)
        evidence = Evidence(
            [(one.width, one.height) for one in self.working],
            [one.features.keypoints[:, :2].astype(np.float64) for one in self.working],
            {pair: self.matches[pair] for pair in pairs if pair in self.matches},
        )
        began = time.process_time()
        found = refine_cameras(
            prior.names,
            cameras_of(prior, [one.scale for one in self.working]),
            evidence,
            more=Searchable([one.features.descriptors for one in self.working], pairs),
        )
        seconds = time.process_time() - began
        poses = prior.world_from_camera.clone()
        if found.report.is_accepted:
            good = torch.from_numpy(found.solution.observations >= LEAST_OBSERVATIONS)
            poses[good] = torch.from_numpy(world_from_camera(found.solution.cameras))[good]
        before, after = (self.errors(each) for each in (prior.world_from_camera, poses))
        return Run(
            scene=self.name,
            prior=level,
            seed=seed,
            state=found.report.headline,
            noise_degrees=found.report.noise_degrees,
            held_out_share=found.report.held_out_share,
            auc5=(before["AUC@5"], after["AUC@5"]),
            auc30=(before["AUC@30"], after["AUC@30"]),
            ate=(before["ATE/extent"], after["ATE/extent"]),
            pairs=len(pairs),
            cpu_seconds=seconds,
            errors=(before["degrees"], after["degrees"]),
        )

    def errors(self, poses) -> dict:
        from fm3d_plugins.geometry.alignment import align_cameras
        from fm3d_plugins.geometry.pose_metrics import evaluate_poses
        from fm3d_plugins.geometry.poses import rotation_angle_degrees

        truth = self.reference.world_from_camera.double()
        named = [dict(zip(self.reference.names, each, strict=True)) for each in (poses, truth)]
        aligned = align_cameras(poses, truth).apply_to_pose(poses)
        turned = rotation_angle_degrees(aligned[:, :3, :3], truth[:, :3, :3])
        return evaluate_poses(*named).summary() | {"degrees": turned.tolist()}


def table(runs: list[Run]) -> str:
    """Markdown: means over the seeds, and the worst."""
    header = [
        "scene", "prior", "AUC@5 before", "after", "AUC@30 before", "after", "worst change",
        "ATE / extent before", "after", "states", "CPU-s",
    ]  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for scene, prior in dict.fromkeys((run.scene, run.prior) for run in runs):
        some = [run for run in runs if (run.scene, run.prior) == (scene, prior)]
        lines.append("| " + " | ".join([scene, prior, *_cells(some)]) + " |")
    return "\n".join(lines)


def _cells(runs: list[Run]) -> list[str]:
    auc5, auc30, ate = (
        np.mean([getattr(run, name) for run in runs], axis=0) for name in ("auc5", "auc30", "ate")
    )
    states = [run.state for run in runs]
    return [
        *(f"{value:.3f}" for value in (*auc5, *auc30)),
        f"{min(run.auc30[1] - run.auc30[0] for run in runs):+.3f}",
        *(f"{value:.4f}" for value in ate),
        ", ".join(f"{state}: {states.count(state)}" for state in sorted(set(states))),
        f"{np.mean([run.cpu_seconds for run in runs]):.1f}",
    ]


def draw(runs: list[Run], path: Path) -> None:
    """One panel per scene: each view of each run, before (grey) and after."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scenes = list(dict.fromkeys(run.scene for run in runs))
    figure, panels = plt.subplots(1, len(scenes), figsize=(3 * len(scenes), 3.4), squeeze=False)
    for panel, scene in zip(panels[0], scenes, strict=True):
        priors = list(dict.fromkeys(run.prior for run in runs if run.scene == scene))
        for place, prior in enumerate(priors):
            some = [run for run in runs if (run.scene, run.prior) == (scene, prior)]
            for side, color in ((0, "#999999"), (1, "#1f77b4")):
                values = [max(value, 1e-3) for run in some for value in run.errors[side]]
                x = place + 0.3 * side - 0.15 + np.linspace(-0.1, 0.1, len(values))
                panel.plot(x, values, ".", color=color, markersize=3)
        panel.set_yscale("log")
        panel.set_xticks(range(len(priors)), priors)
        panel.set_title(scene, fontsize=9)
        panel.set_xlabel("noise of the prior")
    panels[0][0].set_ylabel("rotation error of a view, degrees")
    figure.suptitle("Before (grey) and after refinement (blue)", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="*", default=DEFAULT)
    parser.add_argument("--levels", nargs="+", default=["1", "2", "4"])
    parser.add_argument("--bad", nargs="*", default=["flip", "swap", "random"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--picture", type=Path, default=Path("refinement.png"))
    options = parser.parse_args()
    runs: list[Run] = []
    for name in options.scenes:
        scene = Scene(name)
        print(f"{name}: features and all matches {scene.cpu_seconds:.1f} CPU-s", flush=True)
        for level in [*options.levels, *options.bad]:
            for seed in options.seeds:
                run = scene.run(level, seed)
                runs.append(run)
                print(
                    f"{name} {level} seed {seed}: {run.state}, AUC@30 {run.auc30[0]:.3f} -> "
                    f"{run.auc30[1]:.3f}, {run.cpu_seconds:.1f} CPU-s", flush=True,
                )  # fmt: skip
        if options.json:
            options.json.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
        draw(runs, options.picture)
    print(table(runs))
    worse = [run for run in runs if run.is_worse]
    accepted = [run for run in runs if run.state != "rejected"]
    print(f"{len(runs)} runs, {len(accepted)} accepted, {len(worse)} worse than their prior.")


if __name__ == "__main__":
    main()
