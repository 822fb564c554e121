"""Distances between neighbouring points of a cloud."""

import torch
from jaxtyping import Float
from torch import Tensor


def mean_neighbour_distance(points: Float[Tensor, "point 3"]) -> Float[Tensor, " point"]:
    """Mean distance of each of at least two points to its three nearest neighbours; never 0."""
    from scipy.spatial import KDTree

    count = min(3, len(points) - 1)
    tree = KDTree(points.detach().cpu().numpy())
    distances, _ = tree.query(tree.data, k=count + 1, workers=-1)
    mean = torch.from_numpy(distances[:, 1:].mean(axis=1)).to(points)
    return mean.clamp_min(1e-7 * float(mean.max().clamp_min(1e-30)) + 1e-12)
