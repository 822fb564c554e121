"""What DUSt3R costs on a CPU for all pairs of some photos, at full size with random weights.

    python tests/benchmarks/bench_dust3r.py [--photos 5] [--precision float32] [--threads 1]

The network runs in a process of its own. CPU seconds are those of encoding and decoding alone,
all threads together; the peak is the largest resident size of the process (`ru_maxrss`), weights
included. Afterwards one pair is computed again from its two images alone, and compared.

The published code took 49.5 CPU-s (one thread, float32) for a pair of 512 x 384 in both orders, and
35.9 where it encodes both photos once (batches of two, two photos in all) on the same processor.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import fields

HEIGHT, WIDTH = 384, 512
PUBLISHED_SECONDS = {"each photo encoded anew": 49.5, "each photo of a pair encoded once": 35.9}
GIB = 2**30


def build(precision: str):
    """The published sizes with random weights, drawn in place."""
    import torch

    from fm3d_plugins.dust3r.inference import prepared
    from fm3d_plugins.dust3r.network import DUSt3R

    with torch.device("meta"):
        network = DUSt3R()
    network.store(getattr(torch, precision))
    torch.manual_seed(0)
    for name, parameter in list(network.named_parameters()):
        module, _, attribute = name.rpartition(".")
        value = torch.empty(parameter.shape, dtype=parameter.dtype)
        if parameter.ndim == 1 and attribute == "weight":
            value.fill_(1.0)
        else:
            value.uniform_(-1, 1).mul_(parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.02)
        setattr(network.get_submodule(module), attribute, torch.nn.Parameter(value))
    return prepared(network, torch.device("cpu"))


def peak() -> float:
    """Largest resident size so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure(photos: int, precision: str, threads: int) -> dict:
    """Build and run once, in this process."""
    import torch

    from fm3d_plugins.dust3r.inference import PhotoEncodings, decode_pairs

    torch.set_num_threads(threads)
    network = build(precision)
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
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.photos, options.precision, options.threads)))
        return
    command = [sys.executable, __file__, "--here", *sys.argv[1:]]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{options.photos} photos, {row['pairs']} ordered pairs, {options.precision}: "
        f"{row['cpu_seconds']:.1f} CPU-s, {row['wall_seconds']:.1f} s, "
        f"{row['loaded_gib']:.2f} GiB loaded, {row['peak_gib']:.2f} GiB peak, "
        f"differs from one pair alone by {row['difference']:.1e} of the largest value"
    )
    if options.precision == "float32":
        for how, seconds in PUBLISHED_SECONDS.items():
            share = row["cpu_seconds"] / (seconds * row["pairs"] / 2)
            print(f"  {share:.2f} of the published code, {how}")


if __name__ == "__main__":
    main()
