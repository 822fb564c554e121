"""Cameras as RayZer predicts them, and the positions that its tokens carry."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fm3d_plugins.cell_matching.types import CameraEstimate
from fm3d_plugins.geometry.poses import (
    pose_from_rotation_translation,
    quaternion_wxyz_from_rotation,
    rotation_from_6d,
    rotation_from_quaternion_wxyz,
)
from fm3d_plugins.nn.linear import Linear

FOCAL = 1.25
"""Focal length that an untrained network predicts, in units of the image's width and height."""

Canonical = Literal["middle", "first"]
RotationForm = Literal["6d", "quaternion"]

IDENTITY: dict[str, tuple[float, ...]] = {
    "6d": (1, 0, 0, 0, 1, 0, 0, 0, 0),
    "quaternion": (1, 0, 0, 0, 0, 0, 0),
}
"""Rotation and translation of the canonical view, to which predictions are added."""


@dataclass(frozen=True)
class PredictedCameras:
    """Cameras in a frame and a unit of the network's own: no metric, nor any photo's true pose."""

    numbers: Float[Tensor, "scene view number"]
    """Rotation (6 or 4 numbers), translation, then focal lengths and principal point in units of
    the image's width and height."""

    def world_from_camera(self) -> Float[Tensor, "scene view 4 4"]:
        """OpenCV axes; the canonical view's is the identity."""
        turn, shift = self.numbers[..., :-7], self.numbers[..., -7:-4]
        is_quaternion = turn.shape[-1] == 4
        rotation = rotation_from_quaternion_wxyz(turn) if is_quaternion else rotation_from_6d(turn)
        return pose_from_rotation_translation(rotation, shift)

    def intrinsics(self, height: int, width: int) -> Float[Tensor, "scene view 3 3"]:
        """In pixels of images of this size."""
        sizes = self.numbers.new_tensor([width, height, width, height])
        fx, fy, cx, cy = (self.numbers[..., -4:] * sizes).unbind(-1)
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], -1).unflatten(-1, (3, 3))

    def estimate(self, size: tuple[int, int]) -> CameraEstimate:
        """The same in other terms, whose first camera is the canonical one if it comes first.

        Args:
            size: Rows and columns of the images.
        """
        poses = self.world_from_camera()
        focal = self.intrinsics(*size)[..., 0, 0].clamp_min(1e-3 * max(size))
        log_tangent = (max(size) / 2 / focal).log()
        return CameraEstimate(poses[..., :3, :3].mT, poses[..., :3, 3], log_tangent)

    @staticmethod
    def of(
        estimate: CameraEstimate, size: tuple[int, int], rotation: RotationForm
    ) -> "PredictedCameras":
        """Cameras from matches in these terms, all of one focal length.

        Args:
            size: Rows and columns of the images.
        """
        turned = estimate.rotation.mT
        six = turned[..., :2].mT.flatten(-2)
        turn = six if rotation == "6d" else quaternion_wxyz_from_rotation(turned)
        pixels = max(size) / 2 * (-estimate.log_tangent.mean(1, keepdim=True)).exp()
        focal = (pixels[..., None] / turned.new_tensor([size[1], size[0]])).expand(
            *turn.shape[:-1], 2
        )
        center = torch.full_like(focal, 0.5)
        return PredictedCameras(torch.cat([turn, estimate.center, focal, center], dim=-1))


class PosePredictor(nn.Module):
    """Cameras of all views from their tokens, relative to the canonical one."""

    def __init__(self, width: int, canonical: Canonical, rotation: RotationForm) -> None:
        super().__init__()
        self.canonical = canonical
        # Numbers, not a buffer: that would stay on the meta device when weights are loaded.
        self.identity = IDENTITY[rotation]
        self.rel_head = _head(2 * width, width, len(IDENTITY[rotation]))
        self.canonical_k_head = _head(width, width, 1)

    def canonical_view(self, num_views: int) -> int:
        """Number of the view whose camera is the identity."""
        return num_views // 2 if self.canonical == "middle" else 0

    def forward(
        self,
        tokens: Float[Tensor, "scene view feature"],
        first: PredictedCameras | None = None,
    ) -> PredictedCameras:
        """One focal length for all views; the principal point is the image's centre.

        Args:
            first: What predictions are added to; none, as published: all cameras at the canonical
                one, with a focal length of 1.25.
        """
        num_views = tokens.shape[1]
        index = self.canonical_view(num_views)
        own = tokens[:, index : index + 1].expand_as(tokens)
        moves = self.rel_head(torch.cat([own, tokens], dim=-1))
        is_canonical = torch.arange(num_views, device=tokens.device) == index
        # Numbers of 32 bits, also where products have fewer.
        known = torch.tensor((*self.identity, FOCAL), device=tokens.device)
        start = known[:-1] if first is None else first.numbers[..., :-4]
        poses = start + moves.masked_fill(is_canonical[:, None], 0.0)
        focal = self.canonical_k_head(own)
        focal = focal + (known[-1:] if first is None else first.numbers[..., -4:-2])
        focal = focal.expand(*focal.shape[:-1], 2)
        center = torch.full_like(focal, 0.5)
        return PredictedCameras(torch.cat([poses, focal, center], dim=-1))


def _head(width: int, hidden_width: int, output_width: int) -> nn.Sequential:
    """Starts near 0, so that training starts with all cameras at the canonical one."""
    head = nn.Sequential(Linear(width, hidden_width), nn.SiLU(), Linear(hidden_width, output_width))
    for layer in (head[0], head[2]):
        nn.init.normal_(layer.weight, std=1e-3)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return head


def waves(
    positions: Int[Tensor, " position"], num_channels: int
) -> Float[Tensor, "position channel"]:
    """Sines, then cosines, of positions times 10000^(-2 i / channels) (Vaswani et al. 2017)."""
    half = num_channels // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=positions.device).double() / half)
    angles = positions.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def grid_waves(
    rows: int, columns: int, num_channels: int, device: torch.device
) -> Float[Tensor, "token channel"]:
    """Waves of both coordinates of a grid's patches, row by row.

    The published code divides a token's number by the number of rows, not of columns: coordinates
    are right where both are equal. Its weights were trained so, and need it so.
    """
    index = torch.arange(rows * columns, device=device)
    half = num_channels // 2
    return torch.cat([waves(index // rows, half), waves(index % rows, half)], dim=-1)
