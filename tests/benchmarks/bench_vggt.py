"""What a forward pass of VGGT costs on a CPU, at full size with random weights.

    python tests/benchmarks/bench_vggt.py [--only WORD ...] [--rounds 2] [--threads 2] [--json PATH]

Ours and the same network in plain torch (`plain_torch`; bfloat16 by autocast of the backbone) run
in turns, each run in a process of its own; of each the one of least CPU counts. CPU seconds are
those of the forward pass alone, all threads together, after a small one; the peak is the largest
resident size of the process (`ru_maxrss`), weights included. Random weights are drawn in place, in
their final type: nothing is held twice.
Threads that wait for others spin by default, which counts as CPU time, much of it where other
programs hold them up: with OMP_WAIT_POLICY=passive in the environment only work counts.
"""

import argparse
import json
import resource
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from machine import describe, draw_weights, in_turns

HEIGHT, WIDTH = 392, 518
PUBLISHED_DEPTH = 24
GIB = 2**30


@dataclass(frozen=True)
class Setting:
    frames: int
    dtype: str = "float32"
    heads: tuple[str, ...] = ("camera", "depth")
    depth: int = PUBLISHED_DEPTH
    """Pairs of blocks; fewer cost less time and the same memory per frame."""
    threads: int = 2
    plain: bool = False
    """Plain torch instead of ours."""


def settings_of(word: str) -> list[Setting]:
    """What to measure; 4 of 24 pairs of blocks where bfloat16 is slow in plain torch."""
    import torch

    if word.startswith("memory"):
        depth = PUBLISHED_DEPTH if word == "memory-full" else 4
        return [Setting(frames, "bfloat16", depth=depth) for frames in (2, 8, 16)]
    dtype, _, more = word.partition("-")
    is_fast = dtype == "float32" or torch.cpu._is_avx512_bf16_supported()
    return [
        Setting(frames, dtype, depth=PUBLISHED_DEPTH if is_fast else 4)
        for frames in ((2, 4) if more else (2,))
    ]


WORDS = ("float32", "bfloat16", "float32-more", "bfloat16-more", "memory", "memory-full")


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
    return draw_weights(network, getattr(torch, setting.dtype))


def peak() -> float:
    """Largest resident size so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure(setting: Setting) -> dict:
    """Build and run once, in this process."""
    import torch

    from fm3d_plugins.vggt.inference import prepared

    torch.set_num_threads(setting.threads)
    options = {"heads": setting.heads}
    if setting.plain:
        import plain_torch

        plain_torch.use_plain_torch()
        options["frames_per_pass"] = plain_torch.FRAMES_PER_PASS
        network = build(replace(setting, dtype="float32"))
        if setting.dtype == "bfloat16":
            plain_torch.autocast_backbone(network)
    else:
        network = prepared(build(setting), torch.device("cpu"))
    loaded = peak()
    images = torch.rand(setting.frames, 3, HEIGHT, WIDTH)
    with torch.inference_mode():
        network(images[:1, :, :28, :28], **options)
        cpu, wall = time.process_time(), time.perf_counter()
        outputs = network(images, **options)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert outputs.pose_encodings[-1].isfinite().all()
    return {"cpu_seconds": cpu, "wall_seconds": wall, "loaded_gib": loaded, "peak_gib": peak()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=WORDS, action="append")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(Setting(**json.loads(options.here)))))
        return
    print(describe(options.threads), flush=True)
    rows = []
    for word in options.only or WORDS[:2]:
        before = None
        for chosen in settings_of(word):
            setting = asdict(replace(chosen, threads=options.threads))
            variants = {"ours": setting}
            if not word.startswith("memory"):
                variants["plain"] = {**setting, "plain": True}
            found = in_turns(__file__, variants, options.rounds)
            row, plain = {**setting, **found["ours"]}, found.get("plain")
            line = (
                f"{row['frames']:>3} frames  {row['dtype']:<9} {'+'.join(row['heads']):<13} "
                f"depth {row['depth']:>2}  {row['cpu_seconds']:7.1f} CPU-s  "
                f"{row['wall_seconds']:6.1f} s  {row['loaded_gib']:.2f} GiB loaded  "
                f"{row['peak_gib']:.2f} GiB peak"
            )
            if plain is not None:
                row["plain"] = plain
                line += (
                    f"  plain torch {plain['cpu_seconds']:.1f} CPU-s  {plain['peak_gib']:.2f} GiB "
                    f"peak  ratio {row['cpu_seconds'] / plain['cpu_seconds']:.2f}"
                )
            elif before is not None:
                added = (row["peak_gib"] - before["peak_gib"]) * 1024
                line += f"  {added / (row['frames'] - before['frames']):.1f} MiB a frame more"
            print(line, flush=True)
            rows.append(row)
            before = row
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
