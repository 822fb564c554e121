"""Pose graphs over Sim(3): exact where consistent, deaf to wrong edges."""

import pytest
import torch

from fm3d_plugins.geometry import pose_graph
from fm3d_plugins.geometry.pose_graph import points_information, solve_pose_graph
from fm3d_plugins.geometry.poses import sim3_exp, sim3_log, transform_points
from fm3d_plugins.geometry.robust import geman_mcclure_weight

NEVER_WRONG = 1e6
"""A scale of the loss that all distances here are far below: it is then the square."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def randn(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def ring(num_nodes, generator, chords=()):
    """Similarities whose first is the identity, and exact edges around and across them."""
    nodes = sim3_exp(randn(num_nodes, 7, generator=generator) * 0.7)
    nodes = torch.linalg.inv(nodes[0]) @ nodes
    around = [(node, (node + 1) % num_nodes) for node in range(num_nodes)]
    edges = torch.tensor([*around, *chords])
    return nodes, edges, torch.linalg.solve(nodes[edges[:, 0]], nodes[edges[:, 1]])


def solve(edges, measured, information=None, *, num_nodes, scale=3.0):
    """With the identity as information and one scale for all edges, where no other is given."""
    if information is None:
        information = torch.eye(7, dtype=torch.float64).repeat(len(edges), 1, 1)
    scales = torch.as_tensor(scale).double().expand(len(edges))
    return solve_pose_graph(edges, measured, information, num_nodes=num_nodes, loss_scale=scales)


def edges_of(edges, measured, information, scale):
    inverse = torch.linalg.inv(measured)
    return pose_graph._Edges(edges[:, 0], edges[:, 1], inverse, information, scale)


@pytest.mark.parametrize("scale", [3.0, NEVER_WRONG])
def test_consistent_graph_is_solved_exactly_from_a_bad_start(scale, generator):
    nodes, edges, measured = ring(12, generator, chords=[(0, 6), (3, 9)])
    noise = randn(12, 7, generator=generator) * 0.5
    noise[0] = 0
    information = torch.eye(7, dtype=torch.float64).repeat(len(edges), 1, 1)
    scales = torch.full((len(edges),), scale, dtype=torch.float64)
    graph = edges_of(edges, measured, information, scales)
    found = pose_graph._minimise_in_stages(graph, nodes @ sim3_exp(noise))
    torch.testing.assert_close(found, nodes, atol=1e-8, rtol=1e-8)


def test_edges_that_agree_all_count(generator):
    nodes, edges, measured = ring(12, generator, chords=[(0, 6), (3, 9)])
    found = solve(edges, measured, num_nodes=12)
    torch.testing.assert_close(found.world_from_node, nodes, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(found.influence, torch.ones(len(edges), dtype=torch.float64))


def test_chain_without_loops_is_the_product_of_its_edges(generator):
    nodes, edges, measured = ring(6, generator)
    found = solve(edges[:-1], measured[:-1], num_nodes=6)
    torch.testing.assert_close(found.world_from_node, nodes, atol=1e-9, rtol=1e-9)


def test_first_node_stays_where_it_is(generator):
    _, edges, measured = ring(5, generator)
    measured = measured @ sim3_exp(0.1 * randn(5, 7, generator=generator))
    found = solve(edges, measured, num_nodes=5)
    assert torch.equal(found.world_from_node[0], torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("wrong", [3, 13])
def test_one_wrong_edge_among_good_ones_has_no_influence(wrong, generator):
    """Both an edge of the chain, which the first guess follows, and a chord."""
    nodes, edges, measured = ring(12, generator, chords=[(0, 4), (2, 8), (5, 10), (1, 3), (3, 5)])
    measured = measured.clone()
    measured[wrong] = sim3_exp(2 * randn(7, generator=generator)) @ measured[wrong]
    robust = solve(edges, measured, num_nodes=12, scale=0.02)
    squared = solve(edges, measured, num_nodes=12, scale=NEVER_WRONG)
    # Geman-McClure pulls by (scale / distance)^4 of the error: 1e-7 for a distance near 1.
    torch.testing.assert_close(robust.world_from_node, nodes, atol=1e-5, rtol=1e-5)
    assert float(robust.influence[wrong]) < 1e-3
    assert float(robust.influence[torch.arange(len(edges)) != wrong].min()) > 0.999
    assert float((squared.world_from_node - nodes).abs().max()) > 0.1


def test_edges_share_an_inconsistency_by_the_inverse_of_their_weight():
    """Truth: a 1D loop of three translations that misses by 1 gives each edge 1/w of the miss."""
    edges = torch.tensor([[0, 1], [1, 2], [0, 2]])
    steps = torch.tensor([1.0, 1.0, 3.0], dtype=torch.float64)
    measured = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    measured[:, 0, 3] = steps
    weights = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    # Scale and rotation are held so that only translations can give way.
    information = torch.diag_embed(torch.tensor([1.0, 1, 1, 1e9, 1e9, 1e9, 1e9]).double())
    information = weights[:, None, None] * information
    found = solve(edges, measured, information, num_nodes=3, scale=NEVER_WRONG)
    shares = (1 / weights) / (1 / weights).sum()
    places = found.world_from_node[:, 0, 3]
    moved = torch.stack([places[1], places[2] - places[1], places[2]]) - steps
    torch.testing.assert_close(moved, shares * torch.tensor([1.0, 1.0, -1.0]), atol=1e-6, rtol=0)


def test_gradient_of_the_cost_matches_finite_differences(generator):
    nodes, edges, measured = ring(4, generator, chords=[(0, 2)])
    measured = measured @ sim3_exp(0.3 * randn(5, 7, generator=generator))
    half = randn(5, 7, 7, generator=generator)
    scale = torch.linspace(1, 3, 5, dtype=torch.float64)
    graph = edges_of(edges, measured, half @ half.transpose(-1, -2), scale)
    influence = geman_mcclure_weight(pose_graph._squared_distances(graph, nodes), scale)
    _, right = pose_graph._normal_equations(graph, nodes, influence)

    def cost(step):
        moved = nodes @ sim3_exp(torch.cat([step.new_zeros(7), step]).unflatten(0, (-1, 7)))
        return pose_graph._cost(graph, pose_graph._squared_distances(graph, moved))

    size = 1e-6
    units = size * torch.eye(21, dtype=torch.float64)
    slopes = [(cost(unit) - cost(-unit)) / (2 * size) for unit in units]
    torch.testing.assert_close(-2 * right, torch.tensor(slopes).double(), atol=1e-6, rtol=1e-6)


def test_the_edge_of_the_smaller_scale_gives_way(generator):
    """In a single loop any edge may be the wrong one; the less trusted one is blamed."""
    nodes, edges, measured = ring(8, generator)
    measured = measured.clone()
    measured[7] = measured[7] @ sim3_exp(randn(7, generator=generator))
    for blamed in (2, 7):
        scale = torch.full((8,), 1.0, dtype=torch.float64)
        scale[blamed] = 0.02
        found = solve(edges, measured, num_nodes=8, scale=scale)
        assert float(found.influence[blamed]) < 1e-3
        assert torch.allclose(found.world_from_node, nodes, atol=1e-3) == (blamed == 7)


def test_points_information_is_the_mean_squared_displacement(generator):
    points = randn(50, 3, generator=generator) + 2
    weights = torch.rand(50, generator=generator, dtype=torch.float64)
    tangent = 1e-5 * randn(7, generator=generator)
    moved = transform_points(sim3_exp(tangent), points)
    expected = (weights * (moved - points).square().sum(-1)).sum()
    found = tangent @ points_information(points, weights) @ tangent
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_node_without_a_path_to_the_first_is_named():
    edges = torch.tensor([[0, 1], [2, 4], [4, 3]])
    measured = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    with pytest.raises(ValueError, match=r"\[2, 3, 4\]"):
        solve(edges, measured, num_nodes=5)


@pytest.mark.parametrize("edge", [(0, 0), (0, 2), (-1, 0)])
def test_edge_between_wrong_nodes_is_refused(edge):
    with pytest.raises(ValueError, match="Edge 1"):
        solve(torch.tensor([(0, 1), edge]), torch.eye(4).repeat(2, 1, 1), num_nodes=2)


def test_mirrored_or_infinite_measurement_is_refused():
    for value in (-1.0, float("nan")):
        measured = torch.eye(4)
        measured[0, 0] = value
        with pytest.raises(ValueError, match="positive scale"):
            solve(torch.tensor([[0, 1]]), measured[None], num_nodes=2)


def test_one_node_needs_no_edge():
    edges = torch.zeros(0, 2, dtype=torch.long)
    found = solve(edges, torch.zeros(0, 4, 4), num_nodes=1)
    assert torch.equal(found.world_from_node, torch.eye(4)[None])


def test_hundreds_of_edges_are_solved_with_a_few_wrong_ones(generator):
    """300 nodes in a ring, each also tied to the fifth on: 600 edges of 1 % noise, 12 wrong."""
    chords = [(node, (node + 5) % 300) for node in range(300)]
    steps = 0.02 * randn(300, 7, generator=generator)
    nodes = [torch.eye(4, dtype=torch.float64)]
    for step in steps[1:]:
        nodes.append(nodes[-1] @ sim3_exp(step))
    nodes = torch.stack(nodes)
    edges = torch.tensor([*[(n, (n + 1) % 300) for n in range(300)], *chords])
    measured = torch.linalg.solve(nodes[edges[:, 0]], nodes[edges[:, 1]])
    measured = measured @ sim3_exp(1e-4 * randn(600, 7, generator=generator))
    wrong = 300 + torch.arange(0, 300, 25)
    measured[wrong] = measured[wrong] @ sim3_exp(randn(12, 7, generator=generator))
    found = solve(edges, measured, num_nodes=300, scale=0.01)
    error = sim3_log(torch.linalg.solve(nodes, found.world_from_node)).abs().max()
    # A walk of 1e-4 steps over half of the ring is off by about 1e-3 before the loop is closed.
    assert float(error) < 3e-3
    assert float(found.influence[wrong].max()) < 0.01
