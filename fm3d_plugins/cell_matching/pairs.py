"""Two photos matched both ways: their cameras, and what is known of the cells of either.

The photos may have grids of different sizes whose longer sides are equal.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fm3d_plugins.cell_matching.adjustment import adjusted
from fm3d_plugins.cell_matching.features import CELLS_PER_PATCH, matches_of
from fm3d_plugins.cell_matching.path import Matched, MatchingPath
from fm3d_plugins.cell_matching.pose import CELL_NUMBERS, cell_numbers
from fm3d_plugins.cell_matching.types import CameraEstimate

MOST_CELLS = 32
"""Along the longer side; of larger photos the means of cells are matched."""
LARGEST = 4.0
"""Of the numbers of cells, which wrong matches make large."""
PATCH_NUMBERS = CELLS_PER_PATCH**2 * (CELL_NUMBERS + 1) + 13
"""Of `MatchedPair.patch_numbers`."""


@dataclass(frozen=True)
class MatchedPair:
    """What matching says of pairs of photos."""

    forth: Matched
    """Of the first photos' cells in the second ones, and cameras in the first ones' frames."""
    back: Matched
    """Of the second photos' cells in the first ones; the cameras, in the second ones' frames, are
    those of `forth`."""

    def patch_numbers(
        self, is_second: bool, grid: tuple[int, int]
    ) -> Float[Tensor, "pair patch number"]:
        """What is known of the patches of one photo: its cells' numbers and the pair's cameras.

        Of each cell those of `pose.cell_numbers`, among them its inverse depth, and its lever:
        the sine of the angle between its ray and the way to the other camera, times that way.
        Cameras are those of `forth`. Without gradients, in float32.

        Args:
            grid: Patches in a column and in a row.
        """
        own = self.back if is_second else self.forth
        with torch.autocast(own.logits.device.type, enabled=False):
            numbers = cell_numbers(own.matches, own.estimate)[:, 1]
        ways = own.estimate.center[:, 1:].expand_as(numbers[..., 3:6])
        lever = torch.linalg.cross(ways, numbers[..., 3:6]).norm(dim=-1, keepdim=True)
        cells = torch.cat([numbers, lever], dim=-1).clamp(-LARGEST, LARGEST)
        maps = cells.mT.unflatten(2, own.grid)
        wanted = [CELLS_PER_PATCH * count for count in grid]
        if own.grid != (wanted[0], wanted[1]):
            maps = functional.interpolate(maps, wanted, mode="nearest")
        patches = functional.pixel_unshuffle(maps, CELLS_PER_PATCH).flatten(2).mT
        moved = self.forth.estimate
        of_pair = torch.cat(
            [moved.rotation[:, 1].flatten(1), moved.center[:, 1], moved.log_tangent[:, :1]], dim=-1
        )
        return torch.cat([patches, of_pair[:, None].expand(-1, patches.shape[1], -1)], dim=-1)


def match_pair(
    path: MatchingPath,
    first: Float[Tensor, "pair feature row column"],
    second: Float[Tensor, "pair feature second_row second_column"],
) -> MatchedPair:
    """Matches both ways, and cameras from those of the first photos' cells.

    In float32 whatever surrounds it. Gradients reach features through the logits alone.

    Args:
        path: Its features are given.
        first, second: Features of the photos' cells, of length 1.
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = _bounded(first.float()), _bounded(second.float())
        grids = [(int(each.shape[-2]), int(each.shape[-1])) for each in (first, second)]
        products = path.sharpness.exp() * (first.flatten(2).mT @ second.flatten(2))
        logits = [
            torch.cat([each, path.nowhere.expand(*each.shape[:-1], 1)], dim=-1)[:, None]
            for each in (products, products.mT)
        ]
        with torch.no_grad():
            forth = matches_of(logits[0].detach(), *grids[1], own_grid=grids[0])
            back = matches_of(logits[1].detach(), *grids[0], own_grid=grids[1])
            guess = path.pose(forth)[-1]
            estimate = adjusted(forth, guess)
        return MatchedPair(
            Matched(logits[0], grids[0], forth, guess, estimate),
            Matched(logits[1], grids[1], back, exchanged(guess), exchanged(estimate)),
        )


def exchanged(estimate: CameraEstimate) -> CameraEstimate:
    """The same two cameras in the second one's frame, which comes first."""
    rotation, center = estimate.rotation.mT, -(estimate.rotation @ estimate.center[..., None])
    return CameraEstimate(rotation, center[..., 0], estimate.log_tangent.flip(-1))


def _bounded(
    features: Float[Tensor, "pair feature row column"],
) -> Float[Tensor, "pair feature _ _"]:
    """The same, or means of cells, with at most so many as are matched."""
    rows, columns = features.shape[-2:]
    share = MOST_CELLS / max(rows, columns)
    if share >= 1:
        return features
    small = [max(1, round(share * count)) for count in (rows, columns)]
    means = functional.interpolate(features, small, mode="area")
    return functional.normalize(means, dim=1)
