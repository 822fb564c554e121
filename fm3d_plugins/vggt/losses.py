"""What VGGT is trained to make small (Wang et al. 2025, section 3.3).

Total = 5 camera + (confidence + regression + gradient) of depth + the same of points + 0.05 tracks.
Ground truth is normalised once by `normalize`; predictions never are.

Departures of the published training code from the paper, followed here: the camera term is an L1
(or L2) norm of the nine numbers and not a Huber loss, summed over the rounds of the camera head
with falling weights and weighted by 5; beside the error weighted by confidence stands the plain
error; the largest 2 % of the errors are left out; points are compared by their normals. Its loss
of tracks is not run in the published training; the weight 0.05 is the paper's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.geometry.precision import in_full_precision
from fm3d_plugins.vggt.dense_losses import (
    DenseLoss,
    GradientTerm,
    bounded,
    dense_loss,
    finite,
)
from fm3d_plugins.vggt.network import VGGTOutputs
from fm3d_plugins.vggt.pose_encoding import encode

CameraNorm = Literal["l1", "l2"]

FEWEST_PIXELS = 100
"""Valid pixels that a scene's first photo has to exceed for its cameras to count."""
CAMERA_DECAY, FOV_WEIGHT = 0.6, 0.5
TRACK_DECAY, TRACK_REACH = 0.8, 3.0
"""A round before the last counts that much less; pixels within which a track is right."""


@dataclass(frozen=True)
class GroundTruth:
    """What the outputs are compared with."""

    camera_from_world: Float[Tensor, "*batch view 4 4"]
    """OpenCV."""
    intrinsics: Float[Tensor, "*batch view 3 3"]
    """In pixels of the network's images."""
    depth: Float[Tensor, "*batch view height width"]
    """z coordinate in the camera frame."""
    points: Float[Tensor, "*batch view height width 3"]
    """In the world frame; after `normalize` that is the first photo's camera frame."""
    is_valid: Bool[Tensor, "*batch view height width"]
    """Pixels whose depth and point are known."""
    tracks: Float[Tensor, "*batch view track 2"] | None = None
    """(x, y) in pixels."""
    is_visible: Bool[Tensor, "*batch view track"] | None = None

    @staticmethod
    @in_full_precision
    def of(batch: ViewBatch) -> "GroundTruth":
        """What a batch knows, without tracks.

        Raises:
            ValueError: It has no depth.
        """
        points = batch.points()
        assert batch.depth is not None and batch.is_valid is not None
        return GroundTruth(
            camera_from_world=invert(batch.world_from_camera),
            intrinsics=batch.intrinsics,
            depth=batch.depth,
            points=points,
            is_valid=batch.is_valid,
        )


@dataclass(frozen=True)
class LossConfig:
    """Weights and variants; the defaults are those of the published training, with all heads."""

    camera_weight: float = 5.0
    """Weight of the camera term."""
    depth_weight: float = 1.0
    """Weight of the three depth terms."""
    points_weight: float = 1.0
    """Weight of the three terms of the points."""
    track_weight: float = 0.05
    """Weight of the three terms of the tracks."""
    camera_norm: CameraNorm = "l1"
    """Mean of absolute errors, or Euclidean norms."""
    depth_gradient: GradientTerm = "grad"
    """How neighbouring pixels of the depth are compared; _conf weights by the confidence."""
    points_gradient: GradientTerm = "normal"
    """Likewise for the points."""
    keep_fraction: float | None = 0.98
    """Share of the errors (0 to 1), the smallest, that count; none: all."""


@dataclass(frozen=True)
class CameraLoss:
    """Errors of the cameras, each summed over the rounds."""

    translation: Float[Tensor, ""]
    rotation: Float[Tensor, ""]
    fov: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Their weighted sum."""
        return self.translation + self.rotation + FOV_WEIGHT * self.fov


@dataclass(frozen=True)
class TrackLoss:
    """Errors of tracks: places, and cross entropies of visibility and of confidence."""

    position: Float[Tensor, ""]
    visibility: Float[Tensor, ""]
    confidence: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Their sum."""
        return self.position + self.visibility + self.confidence


@dataclass(frozen=True)
class Losses:
    """The weighted sum and its parts; none where the outputs lack a head."""

    total: Float[Tensor, ""]
    camera: CameraLoss | None
    depth: DenseLoss | None
    points: DenseLoss | None
    tracks: TrackLoss | None


@in_full_precision
def normalize(truth: GroundTruth) -> tuple[GroundTruth, Float[Tensor, "*batch"]]:
    """Ground truth in the first photo's camera frame, with a mean distance of 1, and its scale.

    Section 3.4: the scale is the mean distance of all valid points of a scene from the first
    camera; points, depth and translations are divided by it. What is not finite becomes 0.
    """
    first_from_world = truth.camera_from_world[..., 0, :, :]
    points = transform_points(first_from_world, truth.points.flatten(-4, -2))
    is_valid = truth.is_valid.flatten(-3)
    total = torch.where(is_valid, points.norm(dim=-1), 0).sum(-1)
    scale = (total / (is_valid.sum(-1) + 1e-3)).clamp(1e-6, 1e6)
    camera_from_first = truth.camera_from_world @ invert(first_from_world).unsqueeze(-3)
    # The last column holds the translation; the 1 below it stays.
    divisor = torch.ones_like(camera_from_first)
    divisor[..., :3, 3] = scale[..., None, None]
    normalized = replace(
        truth,
        camera_from_world=finite(camera_from_first / divisor),
        depth=finite(truth.depth / scale[..., None, None, None]),
        points=finite((points / scale[..., None, None]).reshape(truth.points.shape)),
    )
    return normalized, scale


def total_loss(
    outputs: VGGTOutputs, truth: GroundTruth, config: LossConfig | None = None
) -> Losses:
    """The weighted sum over the heads that the outputs have (equation 2).

    Args:
        truth: As `normalize` returns it.
        config: None: the published weights.

    Raises:
        ValueError: There are tracks without their ground truth, or no output at all.
    """
    config = config or LossConfig()
    camera, depth, points, tracks = None, None, None, None
    if outputs.pose_encodings is not None:
        camera = camera_loss(outputs.pose_encodings, truth, norm=config.camera_norm)
    if outputs.depth is not None and outputs.depth_confidence is not None:
        depth = dense_loss(
            outputs.depth[..., None],
            truth.depth[..., None],
            outputs.depth_confidence,
            truth.is_valid,
            gradient=config.depth_gradient,
            keep_fraction=config.keep_fraction,
        )
    if outputs.points is not None and outputs.points_confidence is not None:
        points = dense_loss(
            outputs.points,
            truth.points,
            outputs.points_confidence,
            truth.is_valid,
            gradient=config.points_gradient,
            keep_fraction=config.keep_fraction,
        )
    if outputs.tracks is not None:
        tracks = _track_loss_of(outputs, truth)
    weighted = [
        weight * part.total
        for weight, part in (
            (config.camera_weight, camera),
            (config.depth_weight, depth),
            (config.points_weight, points),
            (config.track_weight, tracks),
        )
        if part is not None
    ]
    if not weighted:
        raise ValueError(
            "The outputs hold none of cameras, depth, points and tracks; expected at least one. "
            "Run the network with the heads that are to be trained."
        )
    return Losses(torch.stack(weighted).sum(), camera, depth, points, tracks)


def camera_loss(
    pose_encodings: Sequence[Float[Tensor, "*batch view 9"]],
    truth: GroundTruth,
    *,
    norm: CameraNorm = "l1",
) -> CameraLoss:
    """Errors of translation, quaternion and field of view in every round of the camera head.

    Scenes whose first photo has at most 100 valid pixels do not count. The signs of quaternions
    are compared as they are: that of the ground truth has w >= 0.
    """
    height, width = truth.depth.shape[-2:]
    expected = encode(truth.camera_from_world, truth.intrinsics, (height, width))
    counts = truth.is_valid[..., 0, :, :].sum((-1, -2)) > FEWEST_PIXELS
    rounds = len(pose_encodings)
    if not counts.any():
        nothing = 0 * torch.stack([finite(encoding).sum() for encoding in pose_encodings]).sum()
        return CameraLoss(nothing, nothing, nothing)
    parts = []
    for index, encoding in enumerate(pose_encodings):
        errors = (encoding - expected)[counts].split([3, 4, 2], dim=-1)
        sizes = [
            error.abs() if norm == "l1" else error.norm(dim=-1, keepdim=True) for error in errors
        ]
        weight = CAMERA_DECAY ** (rounds - 1 - index) / rounds
        parts.append(weight * torch.stack([bounded(size).mean() for size in sizes]))
    return CameraLoss(*torch.stack(parts).sum(0))


def track_loss(
    tracks: Sequence[Float[Tensor, "*batch view track 2"]],
    visibility_logits: Float[Tensor, "*batch view track"],
    confidence_logits: Float[Tensor, "*batch view track"],
    expected: Float[Tensor, "*batch view track 2"],
    is_visible: Bool[Tensor, "*batch view track"],
) -> TrackLoss:
    """Errors of points that are visible in the first photo.

    Positions are compared where the point is visible, in every round of the track head. A place
    of the last round is right within 3 pixels.

    Args:
        tracks: After every round; (x, y) in pixels.
    """
    counts = is_visible[..., :1, :].expand(is_visible.shape)
    seen = is_visible & counts
    if not counts.any():
        every = (*tracks, visibility_logits, confidence_logits)
        nothing = 0 * torch.stack([finite(each).sum() for each in every]).sum()
        return TrackLoss(nothing, nothing, nothing)
    rounds = len(tracks)
    weights = [TRACK_DECAY ** (rounds - 1 - index) / rounds for index in range(rounds)]
    errors = [(places - expected)[seen].abs().mean() for places in tracks]
    is_right = (tracks[-1].detach() - expected).norm(dim=-1) < TRACK_REACH
    entropy = functional.binary_cross_entropy_with_logits
    return TrackLoss(
        position=sum(
            (weight * error for weight, error in zip(weights, errors, strict=True)),
            start=expected.new_zeros(()),
        ),
        visibility=entropy(visibility_logits[counts], is_visible[counts].to(expected.dtype)),
        confidence=entropy(confidence_logits[counts], is_right[counts].to(expected.dtype)),
    )


def _track_loss_of(outputs: VGGTOutputs, truth: GroundTruth) -> TrackLoss:
    if truth.tracks is None or truth.is_visible is None:
        raise ValueError(
            "The outputs hold tracks but the ground truth does not; expected `tracks` and "
            "`is_visible`. Give them, or run the network without query points."
        )
    assert outputs.tracks is not None
    assert outputs.visibility is not None and outputs.track_confidence is not None
    return track_loss(
        outputs.tracks,
        torch.logit(outputs.visibility, eps=1e-6),
        torch.logit(outputs.track_confidence, eps=1e-6),
        truth.tracks,
        truth.is_visible,
    )
