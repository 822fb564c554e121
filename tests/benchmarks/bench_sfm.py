"""`sfm` on real scenes: python tests/benchmarks/bench_sfm.py [SCENE ...] [--json PATH].

Each scene runs in a process of its own, so that CPU seconds (of all threads) are those of the
scene alone; those of the work leave out what imports take. A scene is a folder with images/ and,
for errors, transforms.json; `NAME:few` takes the photos of transforms_few.json only. COLMAP's
figures come from colmap_baseline.json beside them. With --colmap, plain pycolmap is run as well, at
the same load.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCENES = Path(__file__).resolve().parents[3] / "shared" / "scenes"
DEFAULT = ("sceaux", "fox", "banana", "berlin3", "lund", "sacre_coeur")


def reference_file(scene: str) -> Path:
    name, _, subset = scene.partition(":")
    return SCENES / name / (f"transforms_{subset}.json" if subset else "transforms.json")


def run_sfm(scene: str) -> dict:
    """One scene, in this process."""
    from dataclasses import replace

    from fm3d_plugins.estimators.sfm.estimator import Sfm
    from fm3d_plugins.geometry.pose_metrics import evaluate_poses
    from fm3d_plugins.io.transforms import read_transforms
    from fm3d_plugins.photos.photo_set import find_photos

    photos = find_photos(SCENES / scene.partition(":")[0])
    truth = reference_file(scene)
    reference = read_transforms(truth) if truth.exists() else None
    if ":" in scene:
        kept = tuple(photo for photo in photos if photo.name in reference.names)
        photos = replace(photos, photos=kept)
    began, imported = time.perf_counter(), time.process_time()
    try:
        result = Sfm().estimate(photos)
    except ValueError as error:
        spent = time.process_time()
        return {"photos": len(photos), "registered": 0, "cpu": spent, "message": str(error)}
    row = {
        "cpu": time.process_time(),
        "work_cpu": time.process_time() - imported,
        "photos": len(photos),
        "points": len(result.points),
        "attempts": result.provenance["attempts"],
        "seconds": result.provenance["seconds"],
        "estimate_wall": time.perf_counter() - began,
    }
    if reference is not None:
        estimated = dict(zip(result.names, result.world_from_camera.double(), strict=True))
        expected = dict(zip(reference.names, reference.world_from_camera, strict=True))
        row |= evaluate_poses(estimated, expected).summary()
    return row | {"registered": len(result)}


def run_colmap(scene: str) -> dict:
    """Plain pycolmap with its defaults, one thread for mapping as well."""
    import pycolmap

    imported = time.process_time()
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    images = SCENES / scene.partition(":")[0] / "images"
    names = []
    if ":" in scene:
        frames = json.loads(reference_file(scene).read_text())["frames"]
        names = [Path(frame["file_path"]).name for frame in frames]
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "scene.db"
        pycolmap.extract_features(database, images, names)
        pycolmap.match_exhaustive(database)
        options = pycolmap.IncrementalPipelineOptions()
        options.random_seed = 0
        models = pycolmap.incremental_mapping(database, images, folder, options)
    largest = max((model.num_reg_images() for model in models.values()), default=0)
    spent = time.process_time()
    return {"registered": largest, "cpu": spent, "work_cpu": spent - imported}


def in_own_process(what: str, scene: str) -> dict:
    finished = subprocess.run(
        [sys.executable, __file__, f"--only-{what}", scene],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(finished.stdout.strip().splitlines()[-1])


def baseline_of(scene: str) -> dict:
    name, _, subset = scene.partition(":")
    path = SCENES / name / "colmap_baseline.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    told = (told.get("few_views") or {}) if subset else told
    metrics = told.get("pose_auc") or {}
    kept = {key: metrics[key] for key in ("AUC@5", "AUC@30", "ATE/extent") if key in metrics}
    return {"registered": told.get("registered"), "cpu": told.get("cpu_s"), **kept}


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def cells(row: dict) -> list[str]:
    return [
        "-" if row.get("registered") is None else str(row["registered"]),
        *(number(row.get(key), 3) for key in ("AUC@5", "AUC@30", "ATE/extent")),
        number(row.get("cpu"), 1),
        number(row.get("work_cpu"), 1),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="*", default=DEFAULT)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--colmap", action="store_true", help="run plain pycolmap as well")
    parser.add_argument("--only-sfm", help=argparse.SUPPRESS)
    parser.add_argument("--only-colmap", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_sfm:
        print(json.dumps(run_sfm(arguments.only_sfm)))
        return
    if arguments.only_colmap:
        print(json.dumps(run_colmap(arguments.only_colmap)))
        return
    header = ["scene", "who", "registered", "AUC@5", "AUC@30", "ATE/extent", "CPU s", "of the work"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    report = {}
    for scene in arguments.scenes:
        rows = {"sfm": in_own_process("sfm", scene), "COLMAP, told": baseline_of(scene)}
        if arguments.colmap:
            rows["pycolmap, now"] = in_own_process("colmap", scene)
        for who, row in rows.items():
            print("| " + " | ".join([scene, who, *cells(row)]) + " |", flush=True)
            if "message" in row:
                print(f"{scene}: {row['message']}")
        report[scene] = rows
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
