"""Rotary positions and sinusoids."""

import pytest
import torch

from fm3d_plugins.nn.positions import grid_positions, rotary_tables, rotate, sinusoids


def test_rotation_matches_golden_values(shared):
    from safetensors.torch import load_file

    golden = load_file(shared / "golden" / "vggt_fn_geometry.safetensors")
    assert golden["rope_pos"][0].equal(golden["rope_pos"][1])
    tables = rotary_tables(golden["rope_pos"][0], 16, 100.0, torch.float32)
    tokens = golden["rope_tokens"].transpose(1, 2)
    torch.testing.assert_close(
        rotate(tokens, tables), golden["rope_out"].transpose(1, 2), atol=1e-5, rtol=0
    )


def test_rotation_keeps_lengths_and_leaves_the_origin_alone():
    positions = torch.tensor([[0, 0], [3, 7], [12, 1]])
    tables = rotary_tables(positions, 8, 100.0, torch.float64)
    features = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    turned = rotate(features, tables)
    torch.testing.assert_close(turned[:, 0], features[:, 0])
    torch.testing.assert_close(turned.norm(dim=-1), features.norm(dim=-1))


def test_products_of_rotated_features_depend_on_the_difference_of_positions_alone():
    """Truth: rotations of a plane by a and b leave <R_a q, R_b k> a function of a - b."""
    query, key = torch.randn(2, 1, 1, 16, dtype=torch.float64)

    def product(query_position, key_position):
        tables = [
            rotary_tables(torch.tensor([position]), 16, 100.0, torch.float64)
            for position in (query_position, key_position)
        ]
        return (rotate(query, tables[0]) * rotate(key, tables[1])).sum()

    # Angles are rounded to float32, 6e-8 of up to 20 radians.
    torch.testing.assert_close(
        product((2, 5), (9, 1)), product((12, 6), (19, 2)), atol=1e-5, rtol=0
    )
    assert (product((2, 5), (9, 1)) - product((2, 5), (1, 9))).abs() > 1e-3


def test_first_half_of_a_head_turns_with_the_row_and_second_with_the_column():
    tables = rotary_tables(torch.tensor([[5, 0], [0, 5]]), 8, 100.0, torch.float64)
    features = torch.randn(2, 1, 8, dtype=torch.float64)
    turned = rotate(features, tables)
    assert turned[0, 0, 4:].equal(features[0, 0, 4:])
    assert turned[1, 0, :4].equal(features[1, 0, :4])
    assert not torch.allclose(turned[0, 0, :4], features[0, 0, :4])


def test_head_width_without_two_planes_per_axis_is_refused():
    with pytest.raises(ValueError, match="6 channels; rotary positions in two dimensions"):
        rotary_tables(torch.zeros(1, 2, dtype=torch.long), 6, 100.0, torch.float32)


def test_grid_positions_run_row_by_row():
    expected = [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert grid_positions(2, 3, torch.device("cpu")).tolist() == expected
    assert grid_positions(1, 1, torch.device("cpu")).tolist() == [[0, 0]]


def test_sinusoids_are_sines_then_cosines_of_geometric_frequencies():
    """Truth: with 4 channels and base 100 the frequencies are 1 and 1/10."""
    values = sinusoids(torch.tensor([0.0, 2.0]), 4, 100.0)
    angles = torch.tensor([[0.0, 0.0], [2.0, 0.2]], dtype=torch.float64)
    expected = torch.cat([angles.sin(), angles.cos()], dim=-1).float()
    torch.testing.assert_close(values, expected)
    with pytest.raises(ValueError, match="3 channels are impossible"):
        sinusoids(torch.zeros(1), 3, 100.0)
