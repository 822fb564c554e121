"""What DUSt3R costs on a CPU for all pairs of some photos, at full size with random weights.

    python tests/benchmarks/bench_dust3r.py [--photos 5] [--precision float32] [--threads 1]
        [--rounds 2]

Ours and plain torch (`plain_torch`: every pair by itself, so every photo is encoded anew for each)
run in turns, each run in a process of its own; of each the one of least CPU counts. Plain torch
computes one of the pairs, which all cost the same. CPU seconds are those of encoding and decoding
alone, all threads together; the peak is the largest resident size of the process (`ru_maxrss`),
weights included. Ours computes one pair again from its two images alone, and compares.
"""

import argparse
import json
import resource
import time
from dataclasses import fields

from machine import describe, draw_weights, in_turns

HEIGHT, WIDTH = 384, 512
PLAIN_PAIRS = 1
GIB = 2**30


def build(precision: str):
    """The published sizes with random weights, drawn in place."""
    import torch

    from fm3d_plugins.dust3r.network import DUSt3R

    with torch.device("meta"):
        network = DUSt3R()
    draw_weights(network, getattr(torch, precision))
    return network.eval().requires_grad_(False)


def peak() -> float:
    """Largest resident size so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure_plain(photos: int, threads: int) -> dict:
    """Build and run a few pairs, one after the other, in this process."""
    import plain_torch
    import torch

    torch.set_num_threads(threads)
    plain_torch.use_plain_torch()
    network = build("float32")
    images = torch.rand(2, 1, 3, HEIGHT, WIDTH) * 2 - 1
    cpu = time.process_time()
    for _ in range(PLAIN_PAIRS):
        with torch.inference_mode():
            network(*images)
    cpu = time.process_time() - cpu
    return {"cpu_seconds": cpu * photos * (photos - 1) / PLAIN_PAIRS, "peak_gib": peak()}


def measure(photos: int, precision: str, threads: int) -> dict:
    """Build and run once, in this process."""
    import torch

    from fm3d_plugins.dust3r.inference import PhotoEncodings, decode_pairs, prepared

    torch.set_num_threads(threads)
    network = prepared(build(precision), torch.device("cpu"))
    loaded = peak()
    images = torch.rand(photos, 3, HEIGHT, WIDTH) * 2 - 1
    pairs = [(i, j) for i in range(photos) for j in range(i)]
    pairs += [(j, i) for i, j in pairs]
    cpu, wall, kept = time.process_time(), time.perf_counter(), {}
    for first, second, predicted in decode_pairs(
        PhotoEncodings(network, images.__getitem__), pairs
    ):
        if {first, second} == {0, photos - 1}:
            kept[first, second] = predicted
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    highest = peak()
    differences = [0.0]
    for (first, second), predicted in kept.items():
        with torch.inference_mode():
            alone = network(images[first : first + 1], images[second : second + 1])
        for field in fields(alone):
            expected = getattr(alone, field.name)[0]
            assert expected.isfinite().all()
            error = (getattr(predicted, field.name) - expected).abs().max() / expected.abs().max()
            differences.append(float(error))
    return {
        "pairs": len(pairs),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "loaded_gib": loaded,
        "peak_gib": highest,
        "difference": max(differences),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--photos", type=int, default=5)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        setting = json.loads(options.here)
        is_plain = setting.pop("plain")
        print(json.dumps(measure_plain(**setting) if is_plain else measure(**setting)))
        return
    common = {"photos": options.photos, "threads": options.threads}
    settings = {
        "ours": {**common, "precision": options.precision, "plain": False},
        "plain": {**common, "plain": True},
    }
    print(describe(options.threads), flush=True)
    row, plain = in_turns(__file__, settings, options.rounds).values()
    print(
        f"{options.photos} photos, {row['pairs']} ordered pairs, {options.precision}: "
        f"{row['cpu_seconds']:.1f} CPU-s, {row['wall_seconds']:.1f} s, "
        f"{row['loaded_gib']:.2f} GiB loaded, {row['peak_gib']:.2f} GiB peak, "
        f"differs from one pair alone by {row['difference']:.1e} of the largest value\n"
        f"plain torch in float32, every pair alone: {plain['cpu_seconds']:.1f} CPU-s, "
        f"{plain['peak_gib']:.2f} GiB peak; ratio {row['cpu_seconds'] / plain['cpu_seconds']:.2f}"
    )


if __name__ == "__main__":
    main()
