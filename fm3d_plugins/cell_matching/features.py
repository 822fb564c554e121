"""Features by which the cells of photos are told apart, and where they match."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fm3d_plugins.cell_matching.types import Matches, cell_centers, places_of_cells

CELLS_PER_PATCH = 2
"""Along each side."""

STEM_WIDTH = 32
"""Channels at twice the cells' resolution."""


class ResidualConvolutions(nn.Module):
    """Adds what two convolutions make of normalised maps; at first nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(
        self, maps: Float[Tensor, "image channel row column"]
    ) -> Float[Tensor, "image channel row column"]:
        """Maps of the same size."""
        return maps + self.second(functional.gelu(self.first(self.norm(maps))))


class MatchingFeatures(nn.Module):
    """A feature of length 1 for each cell: of its pixels, and of the backbone's tokens.

    Args:
        token_width: Channels of the backbone's tokens; none: pixels are all that is seen.
        patch_size: Of the backbone, a multiple of 4; cells have half its side.
    """

    def __init__(
        self, width: int, num_blocks: int, token_width: int | None, patch_size: int
    ) -> None:
        super().__init__()
        if patch_size % 4:
            raise ValueError(
                f"Cells of half a patch of {patch_size} pixels cannot be seen by two convolutions. "
                "Choose a patch size that is a multiple of 4, or leave the matching out."
            )
        stride = patch_size // 4
        self.pixels = nn.Conv2d(3, STEM_WIDTH, 2 * stride - 1, stride, padding=stride - 1)
        self.cells = nn.Conv2d(STEM_WIDTH, width, 3, 2, padding=1)
        if token_width is not None:
            self.token_norm = nn.LayerNorm(token_width)
            self.tokens = nn.Linear(token_width, width * CELLS_PER_PATCH**2)
            # At first tokens say nothing of where a patch is from; pixels do.
            nn.init.zeros_(self.tokens.weight)
            nn.init.zeros_(self.tokens.bias)
        self.blocks = nn.ModuleList(ResidualConvolutions(width) for _ in range(num_blocks))
        self.last = nn.Conv2d(width, width, 1)

    def forward(
        self,
        images: Float[Tensor, "image 3 height width"],
        tokens: Float[Tensor, "image patch channel"] | None,
        grid: tuple[int, int],
    ) -> Float[Tensor, "image feature row column"]:
        """Features of the cells, twice as many along each side as there are patches.

        Args:
            images: RGB in [0, 1].
            tokens: There unless pixels are all that is seen.
            grid: Patches in a column and in a row.
        """
        maps = self.cells(functional.gelu(self.pixels(4 * images - 2)))
        if tokens is not None:
            known = self.tokens(self.token_norm(tokens.to(maps.dtype)))
            known = functional.pixel_shuffle(known.mT.unflatten(2, grid), CELLS_PER_PATCH)
            maps = maps + known
        for block in self.blocks:
            maps = block(maps)
        return functional.normalize(self.last(maps), dim=1)


def match_logits(
    features: Float[Tensor, "scene view feature row column"],
    sharpness: Float[Tensor, ""],
    nowhere: Float[Tensor, ""],
) -> Float[Tensor, "scene other cell place"]:
    """How well the first photo's cells fit to those of each other photo, and last to none.

    Args:
        sharpness: What the features' products are multiplied by.
        nowhere: The logit of a cell that is not seen in the other photo.
    """
    cells = features.flatten(3)
    products = sharpness * (cells[:, :1].mT @ cells[:, 1:])
    return torch.cat([products, nowhere.expand(*products.shape[:-1], 1)], dim=-1)


def matches_of(
    logits: Float[Tensor, "scene other cell place"],
    rows: int,
    columns: int,
    own_grid: tuple[int, int] | None = None,
) -> Matches:
    """Each cell's most likely place, the mean over its 3 x 3 neighbours, and their probability.

    Args:
        rows, columns: Cells of the other photos.
        own_grid: Likewise of the first photo, if it has others.
    """
    probability = logits.softmax(-1)[..., :-1]
    best = probability.argmax(-1, keepdim=True)
    y, x = (torch.arange(count, device=logits.device) for count in (rows, columns))
    near_y = (y - best // columns).abs() <= 1
    near_x = (x - best % columns).abs() <= 1
    near = probability.unflatten(-1, (rows, columns)) * (near_y[..., None] & near_x[..., None, :])
    mass = near.sum((-2, -1))
    means = [(near.sum(-2) * x).sum(-1), (near.sum(-1) * y).sum(-1)]
    found = places_of_cells(torch.stack(means, dim=-1) / mass[..., None], rows, columns)
    own = cell_centers(*(own_grid or (rows, columns)), logits).expand(len(logits), 1, -1, -1)
    return Matches(
        torch.cat([own, found], dim=1), torch.cat([torch.ones_like(own[..., 0]), mass], dim=1)
    )
