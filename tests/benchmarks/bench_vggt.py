"""What a forward pass of VGGT costs on a CPU, at full size with random weights.

    python tests/benchmarks/bench_vggt.py [--only WORD] [--json PATH]

Each setting runs in a process of its own. CPU seconds are those of the forward pass alone, all
threads together; the peak is the largest resident size of the process (`ru_maxrss`), weights
included. Random weights are drawn in place, in their final type: nothing is held twice.
Threads that wait for others spin by default, which counts as CPU time, much of it where other
programs hold them up: with OMP_WAIT_POLICY=passive in the environment only work counts.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

HEIGHT, WIDTH = 392, 518
PUBLISHED_DEPTH = 24
GIB = 2**30


@dataclass(frozen=True)
class Setting:
    frames: int
    dtype: str = "float32"
    heads: tuple[str, ...] = ("camera", "depth", "points")
    depth: int = PUBLISHED_DEPTH
    """Pairs of blocks; fewer cost less time and the same memory per frame."""
    threads: int = 2


def frames_of(dtype: str, *numbers: int, **options) -> list[Setting]:
    return [Setting(frames, dtype, **options) for frames in numbers]


SETTINGS = {
    "float32": frames_of("float32", 2, 4),
    "bfloat16": frames_of("bfloat16", 2, 4),
    "memory": frames_of("bfloat16", 2, 8, 16, heads=("camera", "depth"), depth=4),
    "memory-full": frames_of("bfloat16", 2, 8, 16, heads=("camera", "depth")),
}


def build(setting: Setting):
    """The network with random weights, on the meta device first."""
    import torch

    from fm3d_plugins.vggt.aggregator import AggregatorConfig
    from fm3d_plugins.vggt.dense_head import DenseHeadConfig
    from fm3d_plugins.vggt.network import VGGT
    from fm3d_plugins.vggt.track_head import TrackHeadConfig

    last = setting.depth - 1
    full = setting.depth == PUBLISHED_DEPTH
    dense = DenseHeadConfig() if full else DenseHeadConfig(layers=tuple(range(last - 3, last + 1)))
    with torch.device("meta"):
        network = VGGT(
            aggregator=AggregatorConfig(depth=setting.depth),
            depth=dense,
            points=dense,
            tracks=TrackHeadConfig(maps=replace(dense, features=128)),
        ).eval()
    network.store(getattr(torch, setting.dtype))
    torch.manual_seed(0)
    for name, parameter in list(network.named_parameters()):
        module, _, attribute = name.rpartition(".")
        value = torch.empty(parameter.shape, dtype=parameter.dtype)
        if parameter.ndim == 1 and attribute in ("weight", "gamma"):
            value.fill_(1.0 if attribute == "weight" else 0.1)
        else:
            value.uniform_(-1, 1).mul_(parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.02)
        setattr(network.get_submodule(module), attribute, torch.nn.Parameter(value))
    return network


def peak() -> float:
    """Largest resident size so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure(setting: Setting) -> dict:
    """Build and run once, in this process."""
    import torch

    torch.set_num_threads(setting.threads)
    network = build(setting)
    loaded = peak()
    images = torch.rand(setting.frames, 3, HEIGHT, WIDTH)
    with torch.inference_mode():
        cpu, wall = time.process_time(), time.perf_counter()
        outputs = network(images, heads=setting.heads)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert outputs.pose_encodings[-1].isfinite().all()
    return {"cpu_seconds": cpu, "wall_seconds": wall, "loaded_gib": loaded, "peak_gib": peak()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=SETTINGS, action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.setting:
        print(json.dumps(measure(Setting(**json.loads(options.setting)))))
        return
    rows = []
    for word in options.only or SETTINGS:
        before = None
        for setting in SETTINGS[word]:
            command = [sys.executable, __file__, "--setting", json.dumps(asdict(setting))]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = {**asdict(setting), **json.loads(done.stdout.splitlines()[-1])}
            line = (
                f"{setting.frames:>3} frames  {setting.dtype:<9} {'+'.join(setting.heads):<20} "
                f"depth {setting.depth:>2}  {row['cpu_seconds']:7.1f} CPU-s  "
                f"{row['wall_seconds']:6.1f} s  {row['loaded_gib']:.2f} GiB loaded  "
                f"{row['peak_gib']:.2f} GiB peak"
            )
            if before is not None:
                added = (row["peak_gib"] - before["peak_gib"]) * 1024
                line += f"  {added / (setting.frames - before['frames']):.1f} MiB a frame more"
            print(line, flush=True)
            rows.append(row)
            before = row
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
