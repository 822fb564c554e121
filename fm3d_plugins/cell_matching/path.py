"""From images and the backbone's tokens to the camera head's first estimate, by matches.

**Departure:** the published network has no such part, and small ones of its kind stay at cameras
that stand still. Features of cells are matched between the first photo and each other one; a small
network makes cameras of the matches, and bundle adjustment makes these exact. The features learn
from true correspondences alone and the small network from matches, true and found ones; through
neither the camera head's loss passes a gradient.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fm3d_plugins.cell_matching.adjustment import adjusted
from fm3d_plugins.cell_matching.features import (
    CELLS_PER_PATCH,
    MatchingFeatures,
    match_logits,
    matches_of,
)
from fm3d_plugins.cell_matching.pose import PoseFromMatches
from fm3d_plugins.cell_matching.types import CameraEstimate, Matches

FIRST_SHARPNESS = 2.3
"""Log of what products of features, which have length 1, are multiplied by at first."""


@dataclass(frozen=True)
class MatchingConfig:
    """Sizes of the path."""

    feature_width: int = 64
    feature_blocks: int = 3
    pose_width: int = 96
    pose_heads: int = 3
    pose_queries: int = 4
    pose_depth: int = 2
    """Times that a camera looks at its matches in a round."""
    pose_rounds: int = 3
    most_patches: int = 12
    """Along the longer side; larger images are made smaller before they are matched."""


@dataclass(frozen=True)
class Matched:
    """What the path says of a batch."""

    logits: Float[Tensor, "scene other cell place"]
    """As `features.match_logits`."""
    grid: tuple[int, int]
    """Cells in a column and in a row."""
    matches: Matches
    guess: CameraEstimate
    """Of the small network; without gradients."""
    estimate: CameraEstimate
    """Adjusted to the matches."""


class MatchingPath(nn.Module):
    """The parts that learn, in a row.

    Args:
        token_width: Channels of the backbone's tokens; none: features are of pixels alone.
        patch_size: Of the backbone, a multiple of 4.
    """

    def __init__(self, config: MatchingConfig, token_width: int | None, patch_size: int) -> None:
        super().__init__()
        self.config, self.patch_size = config, patch_size
        self.features = MatchingFeatures(
            config.feature_width, config.feature_blocks, token_width, patch_size
        )
        self.sharpness = nn.Parameter(torch.tensor(FIRST_SHARPNESS))
        self.nowhere = nn.Parameter(torch.tensor(0.0))
        self.pose = PoseFromMatches(
            config.pose_width,
            config.pose_heads,
            config.pose_queries,
            config.pose_depth,
            config.pose_rounds,
        )

    def forward(
        self,
        images: Float[Tensor, "scene view 3 height width"],
        tokens: Float[Tensor, "scene view patch channel"] | None,
        grid: tuple[int, int],
    ) -> Matched:
        """Matches and cameras.

        Args:
            images: RGB in [0, 1].
            tokens: The backbone's, of patches; none where features are of pixels alone.
            grid: Patches in a column and in a row.
        """
        scenes, views = images.shape[:2]
        patches = None if tokens is None else tokens.flatten(0, 1)
        frames, patches, grid = self._bounded(images.flatten(0, 1), patches, grid)
        rows, columns = (CELLS_PER_PATCH * count for count in grid)
        features = self.features(frames, patches, grid).unflatten(0, (scenes, views))
        logits = match_logits(features, self.sharpness.exp(), self.nowhere)
        # Cameras need all digits, and systems are not solved in bfloat16.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            matches = matches_of(logits.detach().float(), rows, columns)
            guess = self.pose(matches)[-1]
            estimate = adjusted(matches, guess)
        return Matched(logits, (rows, columns), matches, guess, estimate)

    def _bounded(
        self,
        frames: Float[Tensor, "image 3 height width"],
        tokens: Float[Tensor, "image patch channel"] | None,
        grid: tuple[int, int],
    ) -> tuple[
        Float[Tensor, "image 3 _ _"], Float[Tensor, "image _ channel"] | None, tuple[int, int]
    ]:
        """The same, or smaller, with at most so many patches as are matched."""
        share = self.config.most_patches / max(grid)
        if share >= 1:
            return frames, tokens, grid
        small = max(1, round(share * grid[0])), max(1, round(share * grid[1]))
        size = [self.patch_size * count for count in small]
        frames = functional.interpolate(
            frames, size, mode="bilinear", antialias=True, align_corners=False
        )
        if tokens is None:
            return frames, None, small
        maps = functional.interpolate(
            tokens.float().mT.unflatten(2, grid), list(small), mode="area"
        )
        return frames, maps.flatten(2).mT, small
