"""**Departure:** points begin with cameras from matches; the published network has no such part.

Small networks of DUSt3R's kind learn how far things are and stay at a second camera that stands
still. So both photos' cells are matched (`cell_matching/pairs.py`), and cameras follow from the
matches. The decoders' tokens are told of both, and the heads' maps change what these cameras see
of one depth: the direction of each pixel's ray and the log of its depth.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fm3d_plugins.cell_matching.features import CELLS_PER_PATCH
from fm3d_plugins.cell_matching.pairs import PATCH_NUMBERS, MatchedPair, match_pair
from fm3d_plugins.cell_matching.path import MatchingConfig, MatchingPath
from fm3d_plugins.cell_matching.types import CameraEstimate, cell_centers
from fm3d_plugins.dust3r.heads import ConfidenceMode, points_and_confidence
from fm3d_plugins.nn.attention import Mlp

HIDDEN = 128
"""Channels between the numbers of a patch and its token."""
RAY_STEP = 0.1
"""Of the direction of a ray (x / z, y / z), that an output of 1 changes."""
LARGEST_LOG_DEPTH = 4.0
"""Either way; what both photos show is 1 away in the mean."""


class Correlation(nn.Module):
    """Matches of two photos, and what the decoders are told of them.

    Args:
        encoder_width, decoder_width: Channels of tokens.
        patch_size: Pixels, a multiple of 4.
    """

    def __init__(self, encoder_width: int, decoder_width: int, patch_size: int) -> None:
        super().__init__()
        config = MatchingConfig()
        self.channels = config.feature_width * CELLS_PER_PATCH**2
        self.path = MatchingPath(config, encoder_width, patch_size)
        self.evidence1 = Mlp(PATCH_NUMBERS, HIDDEN, decoder_width)
        self.evidence2 = Mlp(PATCH_NUMBERS, HIDDEN, decoder_width)

    def added(
        self,
        images: Float[Tensor, "photo 3 height width"],
        tokens: Float[Tensor, "photo patch channel"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "photo patch more_channel"]:
        """Tokens with the features of their patches' cells in further channels.

        Args:
            images: RGB in [-1, 1].
            grid: Patches in a column and in a row.
        """
        features = self.path.features(images / 2 + 0.5, tokens, grid)
        cells = functional.pixel_unshuffle(features, CELLS_PER_PATCH).flatten(2).mT
        return torch.cat([tokens, cells.to(tokens.dtype)], dim=-1)

    def parted(
        self, tokens: Float[Tensor, "photo patch more_channel"], grid: tuple[int, int]
    ) -> tuple[Float[Tensor, "photo patch channel"], Float[Tensor, "photo feature row column"]]:
        """What `added` put together: tokens, and maps of features."""
        own, cells = tokens.split([tokens.shape[-1] - self.channels, self.channels], dim=-1)
        return own, functional.pixel_shuffle(cells.mT.unflatten(2, grid), CELLS_PER_PATCH)

    def matched(
        self,
        first: Float[Tensor, "pair feature row column"],
        second: Float[Tensor, "pair feature second_row second_column"],
    ) -> MatchedPair:
        """Matches of features and cameras from them."""
        return match_pair(self.path, first, second)

    def evidence(
        self, matched: MatchedPair, first_grid: tuple[int, int], second_grid: tuple[int, int]
    ) -> list[Tensor]:
        """What is added to the tokens of either photo: [pair, patch, channel]."""
        return [
            self.evidence1(matched.patch_numbers(False, first_grid)),
            self.evidence2(matched.patch_numbers(True, second_grid)),
        ]


def seen_points(
    raw: Float[Tensor, "pair 4 height width"],
    estimate: CameraEstimate,
    view: int,
    confidence_mode: ConfidenceMode,
) -> tuple[Float[Tensor, "pair height width 3"], Float[Tensor, "pair height width"]]:
    """Points in the first camera's frame, and their confidence, from a head's map.

    A map of zeros means what the estimated camera sees at the depth 1. Its first two channels
    change rays, the third one the log of their depth.

    Args:
        view: 0 or 1, of the estimate.
    """
    height, width = raw.shape[-2:]
    moves, confidence = points_and_confidence(raw, "linear", confidence_mode)
    with torch.autocast(raw.device.type, enabled=False):
        tangent = estimate.log_tangent[:, view].exp()[:, None, None, None]
        rays = tangent * cell_centers(height, width, raw).unflatten(0, (height, width))
        depth = moves[..., 2:].clamp(-LARGEST_LOG_DEPTH, LARGEST_LOG_DEPTH).exp()
        rays = rays + RAY_STEP * moves[..., :2]
        local = depth * torch.cat([rays, torch.ones_like(depth)], dim=-1)
        # A row vector times `camera_from_first` is one times its inverse from the left.
        turned = local.flatten(1, 2) @ estimate.rotation[:, view]
        points = (turned + estimate.center[:, view, None]).unflatten(1, (height, width))
    return points, confidence
