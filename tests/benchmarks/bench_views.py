"""What a view by LVSM costs on a CPU, at full size with random weights.

    python tests/benchmarks/bench_views.py [--only decoder-only] [--rounds 1] [--threads 2]

Two photos and one target of 256 x 256 pixels, then a second target of the same scene. Ours and the
same network in plain torch (all tokens through the last block, torch's own products; bfloat16 by
autocast) run in turns, each run in a process of its own; of each the one of least CPU counts. CPU
seconds are those of the passes alone, all threads together.
"""

import argparse
import json
import resource
import time
from dataclasses import asdict, dataclass

from machine import describe, draw_weights, in_turns

SIZE = 256


@dataclass(frozen=True)
class Setting:
    architecture: str
    dtype: str = "float32"
    threads: int = 2
    plain: bool = False


def measure(setting: Setting) -> dict:
    """Build and run once, in this process."""
    import contextlib

    import torch

    from fm3d_plugins.lvsm.network import DECODER_ONLY, ENCODER_DECODER, LVSM

    torch.set_num_threads(setting.threads)
    config = DECODER_ONLY if setting.architecture == "decoder-only" else ENCODER_DECODER
    with torch.device("meta"):
        network = LVSM(config)
    autocast = contextlib.nullcontext()
    precision = getattr(torch, setting.dtype)
    if setting.plain:
        import plain_torch

        plain_torch.use_plain_torch()
        if setting.dtype == "bfloat16":
            autocast = torch.autocast("cpu", precision)
        precision = torch.float32
    network = draw_weights(network, precision).eval().requires_grad_(False)
    images, rays = torch.rand(1, 2, 3, SIZE, SIZE), torch.randn(1, 3, 6, SIZE, SIZE)
    seconds = {}
    with torch.inference_mode(), autocast:
        network(images[..., :64, :64], rays[:, :2, :, :64, :64], rays[:, 2:, :, :64, :64])
        start = time.process_time()
        scene = network.encode(images, rays[:, :2])
        network.render(scene, rays[:, 2:])
        seconds["first_view"] = time.process_time() - start
        start = time.process_time()
        rendered = network.render(scene, rays[:, 2:])
        seconds["next_view"] = time.process_time() - start
    assert rendered.isfinite().all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {**seconds, "cpu_seconds": sum(seconds.values()), "peak_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    architectures = ("decoder-only", "encoder-decoder")
    parser.add_argument("--only", choices=architectures, action="append")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), action="append")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(Setting(**json.loads(options.here)))))
        return
    print(describe(options.threads), flush=True)
    for architecture in options.only or architectures:
        for dtype in options.dtype or ("float32", "bfloat16"):
            setting = asdict(Setting(architecture, dtype, options.threads))
            variants = {"ours": setting, "plain": {**setting, "plain": True}}
            found = in_turns(__file__, variants, options.rounds)
            for name, row in found.items():
                print(
                    f"{architecture:<16} {dtype:<9} {name:<6} first view {row['first_view']:6.1f} "
                    f"CPU-s  next {row['next_view']:6.1f} CPU-s  {row['peak_gib']:.2f} GiB peak",
                    flush=True,
                )


if __name__ == "__main__":
    main()
