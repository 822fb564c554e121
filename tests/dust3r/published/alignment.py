"""The published global alignment, an oracle: Adam on the published parameters.

Its cost and memory grow with every pair's pixels, and it moves cameras away even from a perfect
start.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.dust3r.alignment.views import AlignedViews
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.cameras import intrinsics_matrix
from tests.dust3r.published.parameters import Objective, OfficialParameters, batch_pairs
from tests.dust3r.published.start import (
    photo_confidence,
    start_from_known_poses,
    start_from_tree,
)

BETAS = (0.9, 0.9)
"""Of Adam."""


@dataclass(frozen=True)
class OfficialOptions:
    """The published settings.

    Attributes:
        steps: Of Adam.
        learning_rate: At the first step.
        least_learning_rate: Behind the last one.
        schedule: How the learning rate falls between them.
        objective: What is minimised.
        has_stale_focals: Keep the published start's fault (see `start_from_tree`).
    """

    steps: int = 300
    learning_rate: float = 1e-2
    least_learning_rate: float = 1e-6
    schedule: Literal["cosine", "linear"] = "cosine"
    objective: Objective = Objective()
    has_stale_focals: bool = True


def align_officially(
    pairs: Sequence[PairPointmaps],
    sizes: Sequence[tuple[int, int]],
    world_from_camera: Float[Tensor, "photo 4 4"] | None = None,
    focals: Float[Tensor, " photo"] | None = None,
    options: OfficialOptions | None = None,
) -> AlignedViews:
    """Cameras and depth of all photos as the published code finds them.

    Args:
        sizes: (height, width) of every photo as the network saw it.
        world_from_camera: Known poses of **all** photos (OpenCV axes), with `focals`; none starts
            from a spanning tree.
        focals: In pixels.

    Returns:
        Principal points are those of this package's pixels: half a pixel beyond the middle.

    Raises:
        ValueError: Only one of poses and focals is given, or the pairs give no start.
    """
    if (world_from_camera is None) != (focals is None):
        raise ValueError(
            "Found known poses without focal lengths or the reverse; the published alignment "
            "takes both of all photos, or none. Use the default alignment, which takes any subset."
        )
    options = options or OfficialOptions()
    parameters = OfficialParameters(batch_pairs(pairs, sizes))
    if world_from_camera is not None and focals is not None:
        start_from_known_poses(parameters, world_from_camera, focals)
    else:
        start_from_tree(parameters, has_stale_focals=options.has_stale_focals)
    optimize(parameters, options)
    return _views(parameters)


def optimize(
    parameters: OfficialParameters,
    options: OfficialOptions,
    callback: Callable[[int, float], None] | None = None,
) -> float:
    """Take all steps of Adam in place; the loss before the last one.

    Args:
        callback: Told every step's number and the loss before it.
    """
    free = [each for each in parameters.parameters() if each.requires_grad]
    adam = torch.optim.Adam(free, lr=options.learning_rate, betas=BETAS)
    value = math.nan
    for step in range(options.steps):
        for group in adam.param_groups:
            group["lr"] = learning_rate(step, options)
        adam.zero_grad()
        loss = parameters.loss(options.objective)
        loss.backward()
        adam.step()
        value = float(loss.detach())
        if callback is not None:
            callback(step, value)
    return value


def learning_rate(step: int, options: OfficialOptions) -> float:
    """Learning rate of a step, counted from 0."""
    share = step / options.steps
    left = 1 - share if options.schedule == "linear" else (1 + math.cos(math.pi * share)) / 2
    least = options.least_learning_rate
    return least + (options.learning_rate - least) * left


@torch.no_grad()
def _views(parameters: OfficialParameters) -> AlignedViews:
    focals = parameters.focal_lengths()
    # The centre of a pixel at an integer is half a pixel from its corner.
    cx, cy = (parameters.principal_points() + 0.5).unbind(-1)
    batch = parameters.batch
    confidence = [
        row[: height * width].view(height, width)
        for row, (height, width) in zip(photo_confidence(batch), batch.sizes, strict=True)
    ]
    return AlignedViews(
        world_from_camera=parameters.world_from_camera(),
        intrinsics=intrinsics_matrix(focals, focals, cx, cy),
        depth=parameters.depth_maps(),
        confidence=confidence,
        pairs=batch.edges,
        pair_scales=parameters.pair_scales(),
        report=None,
    )
