"""Distances between neighbouring points of a cloud."""

import torch
from jaxtyping import Float
from torch import Tensor


def mean_neighbour_distance(
    points: Float[Tensor, "point 3"], neighbours: int = 3
) -> Float[Tensor, " point"]:
    """Mean distance of each point to its nearest neighbours; never 0.

    Args:
        points: At least two.
        neighbours: How many; fewer where there are fewer points.
    """
    from scipy.spatial import KDTree

    count = min(neighbours, len(points) - 1)
    tree = KDTree(points.detach().cpu().numpy())
    distances, _ = tree.query(tree.data, k=count + 1, workers=-1)
    mean = torch.from_numpy(distances[:, 1:].mean(axis=1)).to(points)
    return mean.clamp_min(1e-7 * float(mean.max().clamp_min(1e-30)) + 1e-12)
