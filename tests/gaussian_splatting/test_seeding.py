"""No more gaussians to start from than a run may have."""

import pytest
import torch

from fm3d_plugins.gaussian_splatting.seeding import evenly_drawn


@pytest.mark.parametrize("count", [1, 7, 100])
def test_few_points_are_all_taken_in_order(count, capsys):
    assert evenly_drawn(count, 100).tolist() == list(range(count))
    assert not capsys.readouterr().out


def test_of_many_points_so_many_different_ones_are_taken_from_everywhere():
    """Of 10 000 rows every quarter gets 250 of 1000, give or take 6 standard deviations of 13."""
    rows = evenly_drawn(10_000, 1000)
    assert len(rows.unique()) == 1000 and torch.equal(rows, rows.sort().values)
    quarters = torch.bincount(rows // 2500, minlength=4)
    assert ((quarters - 250).abs() < 6 * 13).all()


def test_it_is_said_how_many_are_left_out(capsys):
    evenly_drawn(200, 50)
    assert "50 of the scene's 200 points" in " ".join(capsys.readouterr().out.split())
