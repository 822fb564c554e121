"""Pose graphs over similarities: many relative measurements, some of them wrong, made to agree.

A node is a frame with its own unit; an edge measures one frame from another. Solved by
Levenberg-Marquardt on the tangents of Sim(3) (Strasdat et al. 2010, "Scale Drift-Aware Large
Scale Monocular SLAM", equation 15), with wrong edges faded out by graduated non-convexity (Yang et
al. 2020, "Graduated Non-Convexity for Robust Spatial Perception").
"""

import heapq
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.geometry.least_squares import Damping
from fm3d_plugins.geometry.poses import sim3_exp, sim3_log, skew
from fm3d_plugins.geometry.robust import geman_mcclure_cost, geman_mcclure_weight

CONVEXITY_FACTOR = 2.0
"""By how much the Geman-McClure loss gets less convex from one stage to the next."""

STEPS_PER_STAGE = 4
"""Most steps at a loss that is only a stage on the way: the next one moves its minimum anyway."""

STAGE_TOLERANCE = 1e-2
"""Relative fall of the cost below which such a stage is left."""

MAX_STEPS = 100
"""Most steps at the final loss; a consistent graph needs about ten."""

FINAL_TOLERANCE = 1e-12
"""Relative fall of the cost below which nothing more is gained."""


@dataclass(frozen=True)
class PoseGraphSolution:
    """Where the nodes of a graph are, and what each edge counts for."""

    world_from_node: Float[Tensor, "node 4 4"]
    """Similarities [[s R, t], [0, 1]]; the first is exactly the identity."""
    influence: Float[Tensor, " edge"]
    """Factor in [0, 1] that the robust loss leaves each edge: 1 fits, 0 is ignored."""


@dataclass(frozen=True)
class _Edges:
    """Double precision on the CPU, where the sparse solver is."""

    first: Int[Tensor, " edge"]
    second: Int[Tensor, " edge"]
    second_from_first: Float[Tensor, "edge 4 4"]
    information: Float[Tensor, "edge 7 7"]
    loss_scale: Float[Tensor, " edge"]


def solve_pose_graph(
    edges: Int[Tensor, "edge 2"],
    first_from_second: Float[Tensor, "edge 4 4"],
    information: Float[Tensor, "edge 7 7"],
    *,
    num_nodes: int,
    loss_scale: Float[Tensor, " edge"],
) -> PoseGraphSolution:
    """Similarities of all nodes that agree best with the measured ones; the first node is fixed.

    An edge's error is e = log(second_from_first · first_from_world · world_from_second), zero
    where it holds. It lives in the frame of the second node, so its translational part is in that
    node's unit.

    Args:
        edges: Rows (first node, second node), counted from 0.
        first_from_second: Measured similarities with a positive scale.
        information: Λ of the squared distance eᵀ Λ e, symmetric and positive definite; see
            `points_information`.
        loss_scale: Distance at which an edge begins to count as wrong. Where edges contradict each
            other, the smaller scale gives way first; those of the largest also make the first
            guess, a chain of the fewest steps.

    Raises:
        ValueError: A node is not connected to the first (the message names such nodes), or an
            edge names no node, joins a node to itself or is not finite.
    """
    _require_usable(edges, first_from_second, num_nodes)
    measured = first_from_second.detach().double().cpu()
    pairs = edges.detach().cpu().long()
    matrices, scale = (each.detach().double().cpu() for each in (information, loss_scale))
    inverse = torch.linalg.inv(measured)
    graph = _Edges(pairs[:, 0], pairs[:, 1], inverse, matrices, scale)
    nodes = _minimise_in_stages(graph, _chain(pairs, measured, scale, num_nodes))
    influence = geman_mcclure_weight(_squared_distances(graph, nodes), scale)
    return PoseGraphSolution(nodes.to(first_from_second), influence.to(first_from_second))


def points_information(
    points: Float[Tensor, "*batch point 3"], weights: Float[Tensor, "*batch point"]
) -> Float[Tensor, "*batch 7 7"]:
    """Λ for which eᵀ Λ e is the weighted sum of squared displacements of points, to first order.

    A tangent (τ, φ, λ) moves p by τ + φ × p + λ p, so points far apart hold rotation and scale
    and points far from the origin couple them with the translation.

    Args:
        points: In the frame of an edge's second node.
        weights: Not negative. The inverse variances of the points, divided by their number where
            the points' errors go together, so that more points do not give an edge more weight.
    """
    eye = torch.eye(3, dtype=points.dtype, device=points.device).expand(*points.shape, 3)
    jacobian = torch.cat([eye, -skew(points), points.unsqueeze(-1)], dim=-1)
    weighted = jacobian * weights[..., None, None]
    return (jacobian.transpose(-1, -2) @ weighted).sum(-3)


def _require_usable(
    edges: Int[Tensor, "edge 2"], first_from_second: Float[Tensor, "edge 4 4"], num_nodes: int
) -> None:
    """Raise ValueError for edges that cannot be solved; connection is checked elsewhere."""
    is_wrong = (edges < 0).any(-1) | (edges >= num_nodes).any(-1) | (edges[:, 0] == edges[:, 1])
    determinant = torch.linalg.det(first_from_second[:, :3, :3].double())
    is_wrong = is_wrong | ~first_from_second.isfinite().all(-1).all(-1) | ~(determinant > 0)
    if bool(is_wrong.any()):
        row = int(is_wrong.nonzero()[0])
        raise ValueError(
            f"Edge {row} joins the nodes {edges[row].tolist()} by {first_from_second[row].tolist()}"
            f". Expected two different nodes from 0 to {num_nodes - 1} and a finite similarity "
            "with a positive scale. Correct or drop that edge."
        )


def _chain(
    edges: Int[Tensor, "edge 2"],
    first_from_second: Float[Tensor, "edge 4 4"],
    trust: Float[Tensor, " edge"],
    num_nodes: int,
) -> Float[Tensor, "node 4 4"]:
    """Nodes placed along the most trusted edges from the first, which is the identity."""
    steps: list[list[tuple[int, float, Tensor]]] = [[] for _ in range(num_nodes)]
    inverse = torch.linalg.inv(first_from_second)
    for edge, ((a, b), trusted) in enumerate(zip(edges.tolist(), trust.tolist(), strict=True)):
        steps[a].append((b, trusted, first_from_second[edge]))
        steps[b].append((a, trusted, inverse[edge]))
    placed: dict[int, Tensor] = {}
    # The counter keeps the heap from comparing matrices, and the order that of the edges.
    waiting = [(0.0, 0, 0, 0, torch.eye(4, dtype=first_from_second.dtype))]
    counter = 0
    while waiting:
        _, length, _, node, world_from_node = heapq.heappop(waiting)
        if node in placed:
            continue
        placed[node] = world_from_node
        for neighbour, trusted, node_from_neighbour in steps[node]:
            if neighbour not in placed:
                counter += 1
                place = world_from_node @ node_from_neighbour
                heapq.heappush(waiting, (-trusted, length + 1, counter, neighbour, place))
    missing = [node for node in range(num_nodes) if node not in placed]
    if missing:
        raise ValueError(
            f"The nodes {missing} have no path of edges to node 0. Expected one connected graph: "
            "nothing says where they are. Add a measurement that joins them, or drop them."
        )
    return torch.stack([placed[node] for node in range(num_nodes)])


def _stages(graph: _Edges, nodes: Float[Tensor, "node 4 4"]) -> list[float]:
    """Factors on the squared scale, falling to 1; the first makes every edge's cost convex."""
    squared = _squared_distances(graph, nodes) / graph.loss_scale.square()
    factor, factors = 2 * float(squared.max()) if len(squared) else 0.0, []
    while factor > 1:
        factors.append(factor)
        factor /= CONVEXITY_FACTOR
    return [*factors, 1.0]


def _minimise_in_stages(
    graph: _Edges, nodes: Float[Tensor, "node 4 4"]
) -> Float[Tensor, "node 4 4"]:
    """Follow the minimum from the convex stage to the loss itself."""
    for convexity in _stages(graph, nodes):
        stage = replace(graph, loss_scale=graph.loss_scale * convexity**0.5)
        is_last = convexity == 1
        nodes = _minimise(
            stage,
            nodes,
            MAX_STEPS if is_last else STEPS_PER_STAGE,
            FINAL_TOLERANCE if is_last else STAGE_TOLERANCE,
        )
    return nodes


def _minimise(
    graph: _Edges, nodes: Float[Tensor, "node 4 4"], max_steps: int, tolerance: float
) -> Float[Tensor, "node 4 4"]:
    """Levenberg-Marquardt with the edges' influence refreshed at every step."""
    if len(nodes) == 1:
        return nodes
    squared = _squared_distances(graph, nodes)
    cost, damping = _cost(graph, squared), Damping(least=1e-12, most=1e12)
    for _ in range(max_steps):
        influence = geman_mcclure_weight(squared, graph.loss_scale)
        matrix, right = _normal_equations(graph, nodes, influence)

        def attempt(factor: float, matrix=matrix, right=right, nodes=nodes) -> tuple[Tensor, float]:
            moved = nodes @ sim3_exp(_solve(matrix, right, factor))
            return moved, _cost(graph, _squared_distances(graph, moved))

        found = damping.descend(cost, attempt)
        if found is None:
            break
        previous, (nodes, cost) = cost, found
        squared = _squared_distances(graph, nodes)
        if previous - cost <= tolerance * previous:
            break
    return nodes


def _errors(graph: _Edges, nodes: Float[Tensor, "node 4 4"]) -> Float[Tensor, "edge 7"]:
    """Tangent of each edge's error, in the frame of its second node."""
    first_from_second = torch.linalg.solve(nodes[graph.first], nodes[graph.second])
    return sim3_log(graph.second_from_first @ first_from_second)


def _squared_distances(graph: _Edges, nodes: Float[Tensor, "node 4 4"]) -> Float[Tensor, " edge"]:
    error = _errors(graph, nodes).unsqueeze(-1)
    return (error.transpose(-1, -2) @ graph.information @ error).flatten().clamp(min=0)


def _cost(graph: _Edges, squared: Float[Tensor, " edge"]) -> float:
    """Sum of the losses; each is the squared distance where that is small."""
    total = geman_mcclure_cost(squared, graph.loss_scale).sum()
    # A step out of the range of numbers must lose against any other.
    return float(total.nan_to_num(nan=torch.inf))


def _normal_equations(
    graph: _Edges, nodes: Float[Tensor, "node 4 4"], influence: Float[Tensor, " edge"]
):
    """Sparse matrix and right side of the step of all nodes but the first.

    A node moves by world_from_node exp(step), so the error moves by J⁻¹(e) times the second
    node's step minus the first node's step seen from the second node.
    """
    from scipy.sparse import coo_matrix

    error = _errors(graph, nodes)
    by_second = torch.linalg.inv(_right_jacobian(error))
    second_from_first = torch.linalg.solve(nodes[graph.second], nodes[graph.first])
    by_first = -by_second @ _adjoint(second_from_first)
    information = graph.information * influence[:, None, None]
    parts = ((graph.first, by_first), (graph.second, by_second))
    right = torch.zeros(len(nodes), 7, dtype=torch.float64)
    rows, columns, values = [], [], []
    offsets = torch.arange(7)
    for row_node, row_jacobian in parts:
        weighted = row_jacobian.transpose(-1, -2) @ information
        right.index_add_(0, row_node, -(weighted @ error.unsqueeze(-1)).squeeze(-1))
        for column_node, column_jacobian in parts:
            block = weighted @ column_jacobian
            rows.append((7 * row_node[:, None, None] + offsets[:, None]).expand_as(block))
            columns.append((7 * column_node[:, None, None] + offsets).expand_as(block))
            values.append(block)
    row, column, value = (torch.stack(part).flatten().numpy() for part in (rows, columns, values))
    size = 7 * len(nodes)
    matrix = coo_matrix((value, (row, column)), shape=(size, size)).tocsc()
    return matrix[7:, 7:], right[1:].flatten()


def _solve(matrix, right: Float[Tensor, " unknown"], damping: float) -> Float[Tensor, "node 7"]:
    """Damped step of every node; the first does not move."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import splu

    diagonal = matrix.diagonal()
    # An edge of no influence may be the only one that holds a node: it then stays where it is.
    floor = 1e-12 * diagonal.max()
    damped = (matrix + diags(damping * diagonal + floor)).tocsc()
    step = torch.from_numpy(splu(damped).solve(right.numpy())).unflatten(0, (-1, 7))
    return torch.cat([step.new_zeros(1, 7), step])


def _adjoint(b_from_a: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 7 7"]:
    """Ad with b_from_a exp(x) a_from_b = exp(Ad x)."""
    scaled, translation = b_from_a[..., :3, :3], b_from_a[..., :3, 3]
    rotation = scaled / torch.linalg.det(scaled).pow(1 / 3)[..., None, None]
    zero, column = torch.zeros_like(rotation), torch.zeros_like(translation).unsqueeze(-1)
    top = torch.cat([scaled, skew(translation) @ rotation, -translation.unsqueeze(-1)], dim=-1)
    middle = torch.cat([zero, rotation, column], dim=-1)
    bottom = torch.zeros_like(middle[..., :1, :])
    bottom[..., 6] = 1
    return torch.cat([top, middle, bottom], dim=-2)


def _right_jacobian(tangent: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 7 7"]:
    """J = ∫₀¹ exp(-u ad x) du with exp(x + dx) = exp(x) exp(J dx), by one matrix exponential.

    As in `poses`, the integral is the upper right block of exp [[-ad x, I], [0, 0]].
    """
    turn, zero = skew(tangent[..., 3:6]), tangent.new_zeros(*tangent.shape[:-1], 3, 3)
    eye, column = torch.eye(3, dtype=tangent.dtype), zero[..., :1]
    shift = tangent[..., :3]
    scaled = turn + tangent[..., 6, None, None] * eye
    top = torch.cat([scaled, skew(shift), -shift.unsqueeze(-1)], dim=-1)
    middle = torch.cat([zero, turn, column], dim=-1)
    generator = torch.cat([top, middle, torch.zeros_like(middle[..., :1, :])], dim=-2)
    identity = torch.eye(7, dtype=tangent.dtype).expand_as(generator)
    block = torch.cat([-generator, identity], dim=-1)
    block = torch.cat([block, torch.zeros_like(block)], dim=-2)
    return torch.linalg.matrix_exp(block)[..., :7, 7:]
