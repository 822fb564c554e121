"""Depth of every pixel from all pairs, once cameras and pairs are placed."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.dust3r.alignment.state import State, depth_unit
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.poses import invert
from fm3d_plugins.geometry.rays import pixel_centers
from fm3d_plugins.geometry.robust import geman_mcclure_weight

ROUNDS = 2
"""A plain mean finds where most pairs agree; the second leaves out what lies far from there."""

LEAST_WEIGHT = 1e-4
"""Weight of a point with confidence 1, so that every pixel has a depth."""


def fuse_depth(
    pairs: Iterable[PairPointmaps],
    state: State,
    sizes: list[tuple[int, int]],
    pair_influence: Float[Tensor, " pair"],
    reach: float,
) -> tuple[list[Float[Tensor, "_ _"]], list[Float[Tensor, "_ _"]]]:
    """Depth and largest confidence of every photo, each pair read once per round.

    A pixel's depth minimises Σ w |point - depth · ray|² over the pairs: each says how far along
    the ray its point is. Weights are log confidence, what the alignment leaves the pair, and in
    the second round the loss of the distance from the first round's depth.

    Args:
        pairs: The same as those of the state, in the same order.
        reach: Of the loss, as a share of depth.

    Returns:
        Single precision. The depth is 0 where the pairs put a pixel behind its camera or a value is
        not finite.
    """
    rays = [
        state.rays(photo, pixel_centers(*size, dtype=torch.float64).flatten(0, 1)).float()
        for photo, size in enumerate(sizes)
    ]
    squares = [each.square().sum(-1) for each in rays]
    confidence = [torch.zeros(height * width) for height, width in sizes]
    camera_from_world = invert(state.world_from_camera)
    world_from_pair = state.world_from_pair()
    depth: list[Tensor] = []
    for _ in range(ROUNDS):
        units = [depth_unit(each) for each in depth]
        along = [torch.zeros(height * width) for height, width in sizes]
        total = [torch.zeros(height * width) for height, width in sizes]
        for number, pair in enumerate(pairs):
            camera_from_pair = camera_from_world @ world_from_pair[number]
            for photo, points, own in pair.sides:
                matrix = camera_from_pair[photo].float()
                flat_points = points.flatten(0, 1).float().cpu()
                local = torch.addmm(matrix[:3, 3], flat_points, matrix[:3, :3].T)
                flat = own.flatten().float().cpu()
                weights = flat.clamp(min=1).log() * float(pair_influence[number]) + LEAST_WEIGHT
                if depth:
                    off = (local - depth[photo].unsqueeze(-1) * rays[photo]).norm(dim=-1)
                    weights = weights * geman_mcclure_weight((off / units[photo]).square(), reach)
                along[photo] += weights * (local * rays[photo]).sum(-1)
                total[photo] += weights * squares[photo]
                torch.maximum(confidence[photo], flat, out=confidence[photo])
        depth = [(a / b).nan_to_num(0.0, 0.0, 0.0) for a, b in zip(along, total, strict=True)]
    return (
        [each.clamp(min=0).view(size) for each, size in zip(depth, sizes, strict=True)],
        [each.view(size) for each, size in zip(confidence, sizes, strict=True)],
    )
