"""How good and how fast `3dgs` trains on real photos, through ns-train and ns-eval.

    python tests/benchmarks/bench_training.py [--scene FOLDER] [--json PATH] [--only WORD]

Three runs: 1000 steps from random points without density control; the default recipe with the
scene's own cameras; the default recipe from the photos alone (`sfm`). CPU seconds are those of the
whole process, start-up included, and of its training steps alone.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
BIN = Path(sys.executable).parent
RANDOM_POINTS = (
    "--pipeline.datamanager.random-points", "True",
    "--pipeline.datamanager.num-random-points", "30000",
)  # fmt: skip
RUNS = {
    "random": (
        "30k random points, no density control, 1000 steps",
        ("--max-num-iterations", "1000", "--pipeline.model.density-control", "off", *RANDOM_POINTS),
        "nerfstudio-data",
    ),
    "default": ("default recipe, the scene's cameras", (), "nerfstudio-data"),
    "sfm": ("default recipe, photos alone", (), "sfm"),
}


def measured(command: list[str], folder: Path, log: Path) -> tuple[float, float]:
    """Run a command; its CPU and wall seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("w") as output:
        done = subprocess.run(command, cwd=folder, stdout=output, stderr=output, check=False)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def bench(word: str, scene: Path, folder: Path) -> dict:
    title, flags, dataparser = RUNS[word]
    data = scene / "images" if dataparser == "sfm" else scene
    train = [
        str(BIN / "ns-train"), "3dgs", "--data", str(data), "--output-dir", str(folder / "out"),
        "--experiment-name", word, "--timestamp", "run", "--vis", "tensorboard",
        "--viewer.quit-on-train-completion", "True", "--steps-per-eval-image", "0", *flags,
        dataparser,
    ]  # fmt: skip
    cpu, wall = measured(train, folder, folder / f"{word}.log")
    config = folder / "out" / word / "3dgs" / "run" / "config.yml"
    results = folder / f"{word}.json"
    measured(
        [str(BIN / "ns-eval"), "--load-config", str(config), "--output-path", str(results)],
        folder,
        folder / f"{word}.eval.log",
    )
    metrics = json.loads(results.read_text())["results"]
    steps = re.search(r"max_num_iterations: (\d+)", config.read_text())
    return {
        "run": title,
        "steps": int(steps[1]),
        "psnr": metrics["psnr"],
        "ssim": metrics["ssim"],
        "cpu_seconds": cpu,
        "wall_seconds": wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scene", type=Path, default=SHARED / "scenes" / "fox_270x480")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=RUNS)
    options = parser.parse_args()
    if not options.scene.is_dir():
        raise SystemExit(f"There is no scene {options.scene}. Name one with --scene.")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FM3D_CACHE_DIR"] = str(Path(folder) / "cache")
        for word in [options.only] if options.only else RUNS:
            rows.append(bench(word, options.scene.resolve(), Path(folder)))
            row = rows[-1]
            print(
                f"{row['run']:<52} {row['steps']:>5} steps  {row['psnr']:.2f} dB  "
                f"SSIM {row['ssim']:.3f}  {row['cpu_seconds']:.0f} CPU-s  "
                f"{row['wall_seconds']:.0f} s",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
