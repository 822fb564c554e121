"""What benchmarks of networks compare with: the same networks, plainly in torch.

Every step as the papers' code has it: torch's own products, nothing in place, each tensor as a
whole, and sine and cosine tables of full width. Numbers are the same up to rounding.
"""

import torch
from torch import nn
from torch.nn import functional

from fm3d_plugins.dust3r import network as dust3r_network
from fm3d_plugins.lvsm import network as lvsm_network
from fm3d_plugins.nn import attention, dense_prediction, dinov2, linear
from fm3d_plugins.vggt import aggregator

FRAMES_PER_PASS = 8
"""That the published dense heads of VGGT take at once."""


def use_plain_torch() -> None:
    """Replace this package's ways of computing by torch's plain ones, in this process."""
    linear.Linear.forward = nn.Linear.forward
    attention.rotate = rotate
    attention.Mlp.forward = lambda mlp, features: mlp.fc2(functional.gelu(mlp.fc1(features)))
    dense_prediction.FusionBlock.forward = fuse
    for module in (aggregator, dinov2, dust3r_network):
        module.step = lambda block, tokens, positions=None, group=1, *_: block(
            tokens, positions, group
        )
    lvsm_network.run = run


def autocast_backbone(network) -> None:
    """Let VGGT's backbone run in bfloat16 by autocast, and the heads in float32."""
    forward = network.aggregator.forward

    def automatic(*arguments, **options):
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*arguments, **options)

    network.aggregator.forward = automatic


def run(blocks, tokens, part):
    """All tokens through all blocks."""
    for block in blocks:
        tokens = block(tokens)
    return tokens[:, part]


def rotate(features, tables):
    """t cos + rot(t) sin, where rot exchanges the halves of each half of a head."""
    first, second = features.unflatten(-1, (2, 2, -1)).unbind(-2)
    exchanged = torch.stack([-second, first], dim=-2).flatten(-3)
    sine = torch.stack([tables.sine, tables.sine], dim=-2)
    return features * tables.cosine.flatten(-3) + exchanged * sine.flatten(-3)


def fuse(block, features, size, level=None):
    """A fusion block that resizes before its last convolution, as in the paper."""
    if level is not None:
        features = features + block.resConfUnit1(level)
    return block.out_conv(dense_prediction.resize(block.resConfUnit2(features), size))
