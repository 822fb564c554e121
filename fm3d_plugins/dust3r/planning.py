"""What a run of DUSt3R over pairs of photos will need, and how it is cut so that it fits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fm3d_plugins.dust3r.heads import DenseHead
from fm3d_plugins.dust3r.inference import default_pairs_at_once
from fm3d_plugins.dust3r.network import DUSt3R, head_images_per_pass
from fm3d_plugins.nn.planning import (
    FIXED_BYTES,
    RESERVE,
    Plan,
    Speed,
    duration,
    expect_fitting,
    gib,
    measured_speed,
    stored_bytes,
)

DENSE_HEAD_FLOPS_PER_PIXEL = 0.917e6
"""Of its convolutions, which lie in float32 whatever the precision."""

HEAD_BYTES_PER_PIXEL = 2200
"""Of a dense head for one image of its pass: maps of 128 channels at full size, and copies."""

RESULT_BYTES_PER_PIXEL = 40
"""Points and confidence on the device and on the CPU."""

REST = 1.05
"""All of the time over that of products and attention (one core: 0.96 in float32, 1.1 in bfloat16;
the probe's small products are a little slower than the network's)."""


@dataclass(frozen=True)
class Workload:
    """What the photos, their pairs and the network ask for."""

    num_photos: int
    num_pairs: int
    """Ordered ones."""
    fixed_bytes: int
    """Weights, and one pass through a head."""
    bytes_per_pair: int
    """Of each pair at once, at the largest size."""
    bytes_per_photo: int
    """Of each photo whose tokens are kept, at the largest size."""
    encoding: tuple[float, float]
    """Operations of all photos, encoded once: in products with weights, and in attention."""
    decoding: tuple[float, float]
    """Those of all pairs."""
    head_flops: float
    """Of the heads for all pairs, always in float32."""

    def bytes(self, pairs: int, kept: int) -> int:
        """Peak memory with so many pairs at once and so many photos' tokens kept."""
        return self.fixed_bytes + pairs * self.bytes_per_pair + kept * self.bytes_per_photo

    def rounds(self, kept: int) -> int:
        """How often each photo is encoded."""
        if kept >= self.num_photos:
            return 1
        return -(-self.num_photos // max(1, kept // 2))

    def seconds(self, kept: int, speed: Speed, head_speed: Speed) -> float:
        """Time with so many photos' tokens kept."""
        rounds = self.rounds(kept)
        products = rounds * self.encoding[0] + self.decoding[0]
        attention = rounds * self.encoding[1] + self.decoding[1]
        heads = self.head_flops / head_speed.products
        return REST * (products / speed.products + attention / speed.attention + heads)


def workload(
    network: DUSt3R,
    sizes: Sequence[tuple[int, int]],
    pairs: Sequence[tuple[int, int]],
    precision: torch.dtype,
    device: torch.device,
) -> Workload:
    """Memory and operations of a network; it may be on the meta device.

    Args:
        sizes: Height and width of each photo as the network sees it, pixels.
        pairs: Ordered pairs of photos, by their numbers in `sizes`.
        precision: Of the matrices of the encoder and the decoders.
    """
    config = network.config
    tokens = [height * width // config.patch_size**2 for height, width in sizes]
    most = max(tokens)
    pixels = most * config.patch_size**2
    is_dense = isinstance(network.downstream_head1, DenseHead)
    head_bytes = HEAD_BYTES_PER_PIXEL * head_images_per_pass(device) * pixels if is_dense else 0
    # Streams and layers for the heads of both sides in float32, and the widest layer of a block.
    layers = len(network.downstream_head1.layers) + 4 + config.mlp_ratio
    of_pair = 2 * most * (4 * config.encoder_width + 4 * layers * config.decoder_width)
    encoder = _numbers(network.patch_embed) + _numbers(network.enc_blocks)
    decoder = _numbers(network.dec_blocks) + _numbers(network.decoder_embed)
    of_head = DENSE_HEAD_FLOPS_PER_PIXEL * config.patch_size**2
    if not is_dense:
        of_head = 2 * _numbers(network.downstream_head1)
    seen = sum(tokens[i] + tokens[j] for i, j in pairs)
    within = sum(tokens[i] ** 2 + tokens[j] ** 2 + 2 * tokens[i] * tokens[j] for i, j in pairs)
    return Workload(
        num_photos=len(sizes),
        num_pairs=len(pairs),
        fixed_bytes=stored_bytes(network.named_parameters(), network.matrix_names(), precision)
        + head_bytes
        + FIXED_BYTES,
        bytes_per_pair=int(of_pair + 2 * RESULT_BYTES_PER_PIXEL * pixels),
        bytes_per_photo=precision.itemsize * most * network.token_width,
        encoding=(
            2.0 * encoder * sum(tokens),
            4.0 * config.encoder_width * config.encoder_depth * sum(n**2 for n in tokens),
        ),
        decoding=(
            2.0 * decoder * seen,
            4.0 * config.decoder_width * config.decoder_depth * within,
        ),
        head_flops=float(of_head * seen),
    )


def make_plan(
    work: Workload,
    *,
    precision: str,
    device: torch.device,
    available: int,
) -> Plan:
    """As many pairs at once as are of use, and all photos' tokens in memory, where that fits.

    Args:
        available: Bytes that may be used.

    Raises:
        ValueError: Not even one pair fits.
    """
    usable = int(RESERVE * available)
    expect_fitting(
        work.bytes(1, 2),
        usable,
        name="dust3r",
        work="one pair of photos",
        precision=precision,
        ideas=["smaller photos"],
    )
    fitting = (usable - work.bytes(0, 2)) // work.bytes_per_pair
    at_once = min(default_pairs_at_once(device), work.num_pairs, max(1, fitting))
    left = (usable - work.bytes(at_once, 0)) // work.bytes_per_photo
    kept = min(work.num_photos, left)
    speed = measured_speed(precision, device)
    head_speed = speed if precision == "float32" else measured_speed("float32", device)
    seconds = work.seconds(kept, speed, head_speed)
    again = "" if work.rounds(kept) == 1 else f", each photo encoded {work.rounds(kept)} times"
    expected = work.bytes(at_once, kept)
    sentence = (
        f"dust3r on {device.type} in {precision}: {work.num_photos} photos in {work.num_pairs} "
        f"pairs{again}; about {gib(expected)} of memory and {duration(seconds)}."
    )
    return Plan(precision, at_once, expected, seconds, sentence, kept)


def _numbers(module: nn.Module) -> int:
    """How many numbers the matrices of a module hold."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)
