"""Scenes of a batch one by one."""

from dataclasses import dataclass

import torch

from fm3d_plugins.network_training.scenes import each_scene


@dataclass(frozen=True)
class Said:
    """Tensors, a list of them, and what is not there."""

    rounds: list
    depth: torch.Tensor
    points: None = None


def test_parts_in_a_row_are_the_whole():
    whole = Said([torch.rand(3, 2), torch.rand(3, 2)], torch.rand(3, 4, 4))
    parts = list(each_scene(whole))
    assert len(parts) == 3 and all(part.points is None for part in parts)
    assert torch.equal(torch.cat([part.depth for part in parts]), whole.depth)
    for number, values in enumerate(whole.rounds):
        assert torch.equal(torch.cat([part.rounds[number] for part in parts]), values)
