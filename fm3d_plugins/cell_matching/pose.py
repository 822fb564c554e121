"""Cameras from matches by a small network, in a few rounds that see what is left to explain."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fm3d_plugins.cell_matching.types import CameraEstimate, Matches
from fm3d_plugins.geometry.poses import so3_exp
from fm3d_plugins.nn.attention import CrossAttention, TransformerBlock

FIRST_TANGENT = 0.5
"""Of half the field of view that estimates begin with: 53 degrees."""
CELL_NUMBERS, CAMERA_NUMBERS = 18, 9
GAIN = 4.0
"""Of differences of rays, which are small, so that all numbers are of about one size."""
ANGLE_STEP, LENS_STEP = 0.5, 0.3
"""Rotation (radians) and log tangent that an output of 1 changes."""


class PoseFromMatches(nn.Module):
    """A few learned queries for each camera look at its matches and at each other.

    In every round the rays of matches are turned by the present rotations. Then what is left is due
    to motion: the cross product of a match's two rays is at right angles to the way between the
    cameras. From the present centres follows the inverse distance of each cell, common to all
    photos, and what of the cross products it does not explain. Weights are those of all rounds.

    Args:
        num_queries: For each camera; the first one says how it changes.
        depth: Times that queries look, in a round.
    """

    def __init__(
        self, width: int, num_heads: int, num_queries: int, depth: int, rounds: int
    ) -> None:
        super().__init__()
        self.rounds = rounds
        self.embed = nn.Sequential(nn.Linear(CELL_NUMBERS, 64), nn.GELU(), nn.Linear(64, width))
        self.own = nn.Linear(width, width)
        self.shared = nn.Linear(width, width, bias=False)
        self.mixed = nn.Linear(width, width)
        self.memory_norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(num_queries, width) * 0.5)
        self.embed_camera = nn.Linear(CAMERA_NUMBERS, width)
        self.query_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.looks = nn.ModuleList(CrossAttention(width, num_heads) for _ in range(depth))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, num_heads, mlp_ratio=2, layer_scale=None) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.change = nn.Linear(width, 7)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, matches: Matches) -> list[CameraEstimate]:
        """Estimates after every round, the last being the best; the first camera stands still.

        No gradient passes from a round to the one before it.
        """
        scenes, views = matches.certainty.shape[:2]
        moves = (torch.arange(views, device=matches.places.device) > 0).to(matches.places)[:, None]
        estimate = standing_still(matches)
        estimates = []
        for number in range(self.rounds):
            change = self._changes(matches, estimate, number).unflatten(0, (scenes, views))
            turn, shift, lens = change.split([3, 3, 1], dim=-1)
            estimate = CameraEstimate(
                rotation=so3_exp(ANGLE_STEP * moves * turn) @ estimate.rotation,
                center=estimate.center + moves * shift,
                log_tangent=estimate.log_tangent + LENS_STEP * lens[..., 0],
            )
            estimates.append(estimate)
            estimate = estimate.detach()
        return estimates

    def _changes(
        self, matches: Matches, estimate: CameraEstimate, number: int
    ) -> Float[Tensor, "image 7"]:
        """Of rotation vectors, centres and log tangents, in units of the network's own."""
        views = matches.certainty.shape[1]
        cells = self.embed(cell_numbers(matches, estimate))
        weights = matches.certainty[..., None]
        of_all = (weights * cells).sum(1, keepdim=True) / (weights.sum(1, keepdim=True) + 0.1)
        cells = cells + self.mixed(functional.gelu(self.own(cells) + self.shared(of_all)))
        memory = self.memory_norm(cells).flatten(0, 1)
        camera = self.embed_camera(self._camera_numbers(matches, estimate, number))
        tokens = (self.queries + camera[:, :, None]).flatten(0, 1)
        for norm, look, block in zip(self.query_norms, self.looks, self.blocks, strict=True):
            tokens = block(tokens + look(norm(tokens), memory), None, views)
        return self.change(functional.gelu(self.hidden(self.norm(tokens[:, 0]))))

    def _camera_numbers(
        self, matches: Matches, estimate: CameraEstimate, number: int
    ) -> Float[Tensor, "scene view 9"]:
        """What is known of a camera before its matches are looked at."""
        rotation, likely = estimate.rotation, matches.certainty.mean(-1)
        first = torch.zeros_like(likely)
        first[:, 0] = 1
        turned = [rotation[..., row, column] for row, column in ((0, 1), (0, 2), (1, 2))]
        lens = estimate.log_tangent - math.log(FIRST_TANGENT)
        rest = [lens, likely, first + number / max(1, self.rounds)]
        return torch.cat(
            [torch.stack([GAIN * each for each in turned], dim=-1), estimate.center,
             torch.stack(rest, dim=-1)], dim=-1
        )  # fmt: skip


def standing_still(matches: Matches) -> CameraEstimate:
    """All cameras at the first one's place, with a usual field of view."""
    places = matches.places
    scenes, views = places.shape[:2]
    return CameraEstimate(
        rotation=torch.eye(3).to(places).expand(scenes, views, 3, 3),
        center=places.new_zeros(scenes, views, 3),
        log_tangent=places.new_full((scenes, views), math.log(FIRST_TANGENT)),
    )


def cell_numbers(matches: Matches, estimate: CameraEstimate) -> Float[Tensor, "scene view cell 18"]:
    """What is known of a match: rays in the first camera's frame, what they disagree by, places.

    A cell at z = 1 / rho along the ray d0 is seen from the centre c along d where
    (d0 - rho c) x d = 0; rho is the least squares over all photos.
    """
    places, certainty = matches.places, matches.certainty[..., None]
    tangent = estimate.log_tangent.exp()[..., None, None]
    local = torch.cat([places * tangent, torch.ones_like(places[..., :1])], dim=-1)
    rays = functional.normalize(local, dim=-1) @ estimate.rotation
    first = rays[:, :1].expand_as(rays)
    crossed = torch.linalg.cross(first, rays)
    lever = torch.linalg.cross(estimate.center[:, :, None].expand_as(rays), rays)
    inverse = (certainty * lever * crossed).sum((1, 3), keepdim=True) / (
        (certainty * lever * lever).sum((1, 3), keepdim=True) + 0.01
    )
    left = crossed - inverse * lever
    own = places[:, :1].expand_as(places)
    parts = [
        first, rays, GAIN * crossed, GAIN * left,
        inverse.expand_as(certainty), certainty, places, own,
    ]  # fmt: skip
    return torch.cat(parts, dim=-1)
