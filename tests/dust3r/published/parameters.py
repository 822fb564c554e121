"""The published global alignment's parameters and objective (Wang et al. 2024, section 3.4).

Pixels here have their centres at integers, and the principal point of a photo is (width / 2,
height / 2): half a pixel from its middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.poses import (
    pose_from_rotation_translation,
    quaternion_wxyz_from_rotation,
    rotation_from_quaternion_wxyz,
    transform_points,
)

Distance = Literal["l1", "l2"]
"""Length of the difference of two points, or its square."""

ConfidenceWeight = Literal["log", "sqrt", "m1", "id"]
"""How a confidence becomes a weight: its logarithm, its root, itself minus 1, itself."""

Average = Literal["pixels", "pairs"]
"""Whether every pixel counts the same, or every photo of a pair whatever its size."""

FOCAL_UNIT = 20.0
"""A focal parameter is this many times the log of the focal length in pixels."""

PRINCIPAL_UNIT = 10.0
"""Pixels by which a principal point moves when its parameter moves by 1."""

ADAPTOR_UNIT = 20.0
"""An adaptor parameter is this many times the log of a stretch."""

MEAN_PAIR_SCALE = 0.5
"""Geometric mean of the pairs' scales, which fixes the world's unit."""


@dataclass(frozen=True)
class PairBatch:
    """All pairs' maps at once, each photo's pixels in one row, padded to the largest photo."""

    edges: Int[Tensor, "pair 2"]
    sizes: list[tuple[int, int]]
    points: Float[Tensor, "pair 2 pixel 3"]
    confidence: Float[Tensor, "pair 2 pixel"]
    is_pixel: Bool[Tensor, "photo pixel"]

    def map_of(self, pair: int, side: int) -> tuple[Tensor, Tensor]:
        """Points [pixel, 3] and confidence [pixel] of one photo of a pair, without padding."""
        height, width = self.sizes[int(self.edges[pair, side])]
        area = height * width
        return self.points[pair, side, :area], self.confidence[pair, side, :area]


def batch_pairs(pairs: Sequence[PairPointmaps], sizes: Sequence[tuple[int, int]]) -> PairBatch:
    """Stack all pairs; memory grows with their number."""
    largest = max(height * width for height, width in sizes)
    points = pairs[0].points_first.new_zeros(len(pairs), 2, largest, 3)
    confidence = points.new_ones(len(pairs), 2, largest)
    for row, pair in enumerate(pairs):
        for side, (_, each, surety) in enumerate(pair.sides):
            points[row, side, : surety.numel()] = each.flatten(0, 1)
            confidence[row, side, : surety.numel()] = surety.flatten()
    areas = torch.tensor([height * width for height, width in sizes])
    return PairBatch(
        torch.tensor([(pair.first, pair.second) for pair in pairs]),
        list(sizes),
        points,
        confidence,
        torch.arange(largest) < areas[:, None],
    )


@dataclass(frozen=True)
class Objective:
    """What is minimised."""

    distance: Distance = "l1"
    confidence: ConfidenceWeight = "log"
    average: Average = "pixels"


class OfficialParameters(nn.Module):
    """Poses, focal lengths, depths and pairs in the published parametrisation.

    A pose is a quaternion **xyzw** of any length and sign(t) log(1 + |t|) of its translation; a
    pair's pose has the log of its scale behind it, which multiplies its rotation and translation.

    Attributes:
        is_scale_normalized: Whether the geometric mean of the pairs' scales is held at 0.5.
    """

    def __init__(self, batch: PairBatch, is_scale_normalized: bool = True) -> None:
        super().__init__()
        num_photos, num_pairs = len(batch.sizes), len(batch.edges)
        self.is_scale_normalized = is_scale_normalized
        self.batch = batch
        zeros = batch.points.new_zeros
        self.log_depth = nn.Parameter(zeros(num_photos, batch.is_pixel.shape[1]))
        self.cameras = nn.Parameter(zeros(num_photos, 7))
        self.focals = nn.Parameter(zeros(num_photos, 1))
        self.principal_shifts = nn.Parameter(zeros(num_photos, 2), requires_grad=False)
        self.pairs = nn.Parameter(zeros(num_pairs, 8))
        self.adaptors = nn.Parameter(zeros(num_pairs, 2), requires_grad=False)

    def loss(self, objective: Objective) -> Float[Tensor, ""]:
        """Σ weight |world point - moved pair's point|, averaged as the objective says."""
        edges, batch = self.batch.edges, self.batch
        matrices = self.world_from_pair()[:, None]
        moved = transform_points(
            matrices.expand(-1, 2, -1, -1), batch.points * self._stretch()[:, None, None]
        )
        square = (self.world_points()[edges] - moved).square().sum(-1)
        # The gradient of a length is not a number at zero, where padding is.
        length = square if objective.distance == "l2" else _safe_root(square)
        weights = _weights(batch.confidence, objective.confidence) * batch.is_pixel[edges]
        areas = batch.is_pixel.sum(-1)[edges].to(weights)
        total = areas.sum(0) if objective.average == "pixels" else areas * len(edges)
        return ((weights * length).sum(-1) / total).sum()

    def world_from_camera(self) -> Float[Tensor, "photo 4 4"]:
        """OpenCV camera axes."""
        return _pose(self.cameras)

    def pair_scales(self) -> Float[Tensor, " pair"]:
        """World units per unit of each pair."""
        return (self.pairs[:, 7] + self._log_scale_shift()).exp()

    def world_from_pair(self) -> Float[Tensor, "pair 4 4"]:
        """Similarities; the scale multiplies rotation and translation."""
        pose = _pose(self.pairs[:, :7])
        scaled = pose[:, :3] * self.pair_scales()[:, None, None]
        return torch.cat([scaled, pose[:, 3:]], dim=1)

    def focal_lengths(self) -> Float[Tensor, " photo"]:
        """In pixels, the same for both axes."""
        return (self.focals[:, 0] / FOCAL_UNIT).exp()

    def principal_points(self) -> Float[Tensor, "photo 2"]:
        """In pixels whose centres are at integers."""
        middle = [(width / 2, height / 2) for height, width in self.batch.sizes]
        return self.focals.new_tensor(middle) + PRINCIPAL_UNIT * self.principal_shifts

    def world_points(self) -> Float[Tensor, "photo pixel 3"]:
        """Every pixel of every photo; padding lies on the optical axis."""
        pixels = torch.stack(
            [
                nn.functional.pad(grid, (0, 0, 0, self.log_depth.shape[1] - len(grid)))
                for grid in (integer_pixels(size).to(self.log_depth) for size in self.batch.sizes)
            ]
        )
        plane = pixels - self.principal_points()[:, None]
        depth = self.log_depth.exp().unsqueeze(-1)
        lateral = depth * plane / self.focal_lengths()[:, None, None]
        return transform_points(self.world_from_camera(), torch.cat([lateral, depth], dim=-1))

    def depth_maps(self) -> list[Float[Tensor, "_ _"]]:
        """z-depth of every photo."""
        return [
            row[: height * width].exp().view(height, width)
            for row, (height, width) in zip(self.log_depth.detach(), self.batch.sizes, strict=True)
        ]

    def _log_scale_shift(self) -> Float[Tensor, ""]:
        if not self.is_scale_normalized:
            return self.pairs.new_zeros(())
        return self.pairs.new_tensor(MEAN_PAIR_SCALE).log() - self.pairs[:, 7].mean()

    def _stretch(self) -> Float[Tensor, "pair 3"]:
        """Factors of the pairs' x, y and z."""
        along, depth = self.adaptors.unbind(-1)
        logs = torch.stack([along, along, depth], dim=-1)
        if self.is_scale_normalized:
            logs = logs - logs.mean(-1, keepdim=True)
        return (logs / ADAPTOR_UNIT).exp()


def integer_pixels(size: tuple[int, int]) -> Float[Tensor, "pixel 2"]:
    """(column, row) of every pixel, row after row."""
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij")
    return torch.stack([columns, rows], dim=-1).flatten(0, 1).float()


def pose_parameters(
    rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 7"]:
    """Quaternion xyzw and the compressed translation."""
    quaternion = quaternion_wxyz_from_rotation(rotation).roll(-1, dims=-1)
    return torch.cat([quaternion, translation.sign() * translation.abs().log1p()], dim=-1)


def _pose(parameters: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 4 4"]:
    rotation = rotation_from_quaternion_wxyz(parameters[..., :4].roll(1, dims=-1))
    compressed = parameters[..., 4:]
    translation = compressed.sign() * compressed.abs().expm1()
    return pose_from_rotation_translation(rotation, translation)


def _weights(confidence: Float[Tensor, "*any"], kind: ConfidenceWeight) -> Float[Tensor, "*any"]:
    if kind == "log":
        return confidence.log()
    if kind == "sqrt":
        return confidence.sqrt()
    return confidence - 1 if kind == "m1" else confidence


def _safe_root(square: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Root with gradient 0 at 0."""
    is_zero = square == 0
    return torch.where(is_zero, 0.0, square.masked_fill(is_zero, 1.0).sqrt())
