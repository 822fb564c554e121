"""Which photos a view is made from."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.cameras import camera_distances


def spread_out(world_from_camera: Float[Tensor, "view 4 4"], count: int) -> list[int]:
    """Views that see a scene from all sides: each is the farthest from those before it.

    The first is the one that is farthest from all; fewer than `count` where there are fewer.
    """
    distances = camera_distances(world_from_camera, world_from_camera)
    chosen = [int(distances.sum(1).argmax())]
    while len(chosen) < min(count, len(distances)):
        to_chosen = distances[:, chosen].amin(dim=1)
        to_chosen[chosen] = -1.0
        chosen.append(int(to_chosen.argmax()))
    return chosen


def nearest(
    target: Float[Tensor, "4 4"],
    world_from_camera: Float[Tensor, "view 4 4"],
    count: int,
    without: Sequence[int] = (),
) -> list[int]:
    """Views that see about what a camera sees, the nearest first.

    Args:
        without: Views that are not to be among them.
    """
    distances = camera_distances(target[None], world_from_camera)[0]
    distances[list(without)] = torch.inf
    available = len(distances) - len(set(without))
    return distances.topk(min(count, available), largest=False).indices.tolist()
