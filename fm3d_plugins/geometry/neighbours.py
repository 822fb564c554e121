"""Neighbours: how far away they are in a cloud, and what hangs together in a graph."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def mean_neighbour_distance(points: Float[Tensor, "point 3"]) -> Float[Tensor, " point"]:
    """Mean distance of each of at least two points to its three nearest neighbours; never 0."""
    from scipy.spatial import KDTree

    count = min(3, len(points) - 1)
    tree = KDTree(points.detach().cpu().numpy())
    distances, _ = tree.query(tree.data, k=count + 1, workers=-1)
    mean = torch.from_numpy(distances[:, 1:].mean(axis=1)).to(points)
    return mean.clamp_min(1e-7 * float(mean.max().clamp_min(1e-30)) + 1e-12)


def spanning_tree(distances: Float[Tensor, "node node"]) -> list[tuple[int, int]]:
    """Pairs of nodes, the first number lower, that join all by the least total distance.

    Args:
        distances: Symmetric. Nodes at distance 0 of each other are no pair.
    """
    from scipy.sparse.csgraph import minimum_spanning_tree

    tree = minimum_spanning_tree(distances.detach().double().cpu().triu(1).numpy())
    return sorted(zip(*(nodes.tolist() for nodes in tree.nonzero()), strict=True))


def connected_parts(
    edges: Int[np.ndarray, "edge 2"], num_nodes: int
) -> Int[np.ndarray, " {num_nodes}"]:
    """Number of the connected part, from 0, that each node of a graph is in."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    weights = np.ones(len(edges), dtype=np.int8)
    graph = coo_matrix((weights, (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def mean_steps(edges: Int[np.ndarray, "edge 2"]) -> float:
    """Fewest edges between two nodes of a graph, in the mean over all pairs that hang together.

    Nodes count as pairs with themselves. 0 without an edge.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import shortest_path

    if not len(edges):
        return 0.0
    shape = (int(edges.max()) + 1,) * 2
    graph = csr_matrix((np.ones(len(edges), dtype=np.int8), tuple(edges.T)), shape)
    steps = shortest_path(graph, directed=False, unweighted=True)
    return float(steps[np.isfinite(steps)].mean())
