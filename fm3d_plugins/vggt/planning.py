"""What a run of VGGT will need, and how it is cut so that the memory suffices."""

from dataclasses import dataclass

import torch

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
from fm3d_plugins.vggt.network import VGGT

HEAD_BYTES_PER_PIXEL = 2000
"""Of the depth head for one photo of its pass: the fused maps at two resolutions, and copies."""

FEWEST_AT_ONCE = 2
"""Photos: with fewer a network of views has nothing to compare."""

REST = 1.3
"""All of the time over that of matrix products and attention (two cores, 2 and 4 photos)."""


@dataclass(frozen=True)
class Workload:
    """What the photos and the network ask for."""

    num_photos: int
    height: int
    """Network pixels."""
    width: int
    fixed_bytes: int
    """Weights and what is needed whatever the number of photos."""
    bytes_per_photo: int
    """Of each photo seen at once."""
    product_flops: float
    """Of each photo in products with weights."""
    attention_flops: float
    """Of each photo in attention within it."""
    pair_flops: float
    """Of each pair of photos seen at once, counted both ways, in attention among them."""

    def bytes(self, photos: int) -> int:
        """Peak memory with so many photos at once."""
        return self.fixed_bytes + photos * self.bytes_per_photo

    def seconds(self, photos: int, speed: Speed) -> float:
        """Time for so many photos at once."""
        attention = photos * self.attention_flops + photos**2 * self.pair_flops
        return REST * (photos * self.product_flops / speed.products + attention / speed.attention)


def workload(
    network: VGGT,
    num_photos: int,
    height: int,
    width: int,
    precision: torch.dtype,
    in_pass: int,
) -> Workload:
    """Memory and operations of a network; it may be on the meta device.

    The stream of tokens and the layers that the depth head reads are float32; queries, keys,
    values and what is attended exist for all photos at once, in the matrices' precision.

    Args:
        in_pass: Photos that the heads work on at once, see `default_frames_per_pass`.
    """
    config = network.aggregator.config
    rows, columns = height // config.patch_size, width // config.patch_size
    tokens = rows * columns + 1 + config.num_registers
    size = precision.itemsize
    kept = len({layer for head in ("camera", "depth") for layer in network.layers.get(head, ())})
    stream = 4 * tokens * config.width
    of_photo = stream * (1 + 2 * kept) + 5 * size * tokens * config.width + 24 * height * width
    used = ("aggregator.", "camera_head.", "depth_head.", "matching.")
    weights = [(name, p) for name, p in network.named_parameters() if name.startswith(used)]
    of_pass = in_pass * (HEAD_BYTES_PER_PIXEL * height * width + 12 * stream)
    layers = 2 * sum(p.numel() for p in network.aggregator.parameters() if p.ndim >= 2)
    within = 4 * tokens**2 * config.width * (2 * config.depth)  # Of DINOv2 too.
    return Workload(
        num_photos=num_photos,
        height=height,
        width=width,
        fixed_bytes=stored_bytes(weights, network.matrix_names(), precision)
        + of_pass
        + FIXED_BYTES,
        bytes_per_photo=int(of_photo),
        product_flops=float(tokens * layers),
        attention_flops=float(within),
        pair_flops=float(4 * tokens**2 * config.width * config.depth),
    )


def make_plan(
    work: Workload,
    *,
    precision: str,
    device: torch.device,
    available: int,
    chunk_size: int | None,
) -> Plan:
    """As many photos at once as memory holds, or as asked for, in equal chunks.

    Args:
        available: Bytes that may be used.
        chunk_size: Most photos at once; None: what fits.

    Raises:
        ValueError: Not even two photos fit, or not as many as asked for.
    """
    usable = int(RESERVE * available)
    fitting = (usable - work.fixed_bytes) // work.bytes_per_photo
    least = min(FEWEST_AT_ONCE, work.num_photos)
    wanted = least if chunk_size is None else min(chunk_size, work.num_photos)
    expect_fitting(
        work.bytes(wanted),
        usable,
        name="vggt",
        work=f"{wanted} photos of {work.width} x {work.height} pixels",
        precision=precision,
        ideas=["a lower --resolution", *([] if chunk_size is None else ["a smaller --chunk-size"])],
    )
    at_once = min(work.num_photos, fitting if chunk_size is None else wanted)
    seconds = work.seconds(at_once, measured_speed(precision, device)) * work.num_photos / at_once
    parts = "all at once" if at_once == work.num_photos else f"at most {at_once} at once"
    sentence = (
        f"vggt on {device.type} in {precision}: {work.num_photos} photos of {work.width} x "
        f"{work.height}, {parts}; about {gib(work.bytes(at_once))} of memory and "
        f"{duration(seconds)}."
    )
    return Plan(precision, at_once, work.bytes(at_once), seconds, sentence)
