"""Matches of the first photo's cells, and cameras that are estimated from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.geometry.poses import (
    pose_from_rotation_translation,
    quaternion_wxyz_from_rotation,
)


@dataclass(frozen=True)
class Matches:
    """Where the cells of a scene's first photo lie in all its photos, the first one included.

    Places are (x, y) from the image's centre, in halves of its longer side.
    """

    places: Float[Tensor, "scene view cell 2"]
    certainty: Float[Tensor, "scene view cell"]
    """From 0 to 1."""

    def of_cells(self, numbers: Int[Tensor, " some"]) -> "Matches":
        """Some of the cells."""
        return Matches(self.places[:, :, numbers], self.certainty[:, :, numbers])

    @staticmethod
    def joined(parts: "Sequence[Matches]") -> "Matches":
        """Several batches as one."""
        return Matches(
            torch.cat([part.places for part in parts]),
            torch.cat([part.certainty for part in parts]),
        )


@dataclass(frozen=True)
class CameraEstimate:
    """Cameras in the first one's frame (OpenCV), the mean distance of what they see being 1."""

    rotation: Float[Tensor, "scene view 3 3"]
    """`camera_from_first`."""
    center: Float[Tensor, "scene view 3"]
    """Of the camera, in the first one's frame."""
    log_tangent: Float[Tensor, "scene view"]
    """Log of the tangent of half the field of view along the longer side; pixels are square."""

    @staticmethod
    def joined(parts: "Sequence[CameraEstimate]") -> "CameraEstimate":
        """Several batches as one."""
        return CameraEstimate(
            torch.cat([part.rotation for part in parts]),
            torch.cat([part.center for part in parts]),
            torch.cat([part.log_tangent for part in parts]),
        )

    def of_views(self, numbers: Sequence[int]) -> "CameraEstimate":
        """Some of each scene's cameras, in this order; their frame stays."""
        chosen = list(numbers)
        return CameraEstimate(
            self.rotation[:, chosen], self.center[:, chosen], self.log_tangent[:, chosen]
        )

    def detach(self) -> "CameraEstimate":
        """The same without gradients."""
        return CameraEstimate(
            self.rotation.detach(), self.center.detach(), self.log_tangent.detach()
        )

    def first_from_camera(self) -> Float[Tensor, "scene view 4 4"]:
        """Poses, OpenCV axes."""
        return pose_from_rotation_translation(self.rotation.mT, self.center)

    def encodings(self, height: int, width: int) -> Float[Tensor, "scene view 9"]:
        """As `pose_encoding.encode` has them, for images of a size."""
        translation = -(self.rotation @ self.center[..., None])[..., 0]
        quaternion_xyzw = quaternion_wxyz_from_rotation(self.rotation).roll(-1, dims=-1)
        tangent, longest = self.log_tangent.exp(), max(height, width)
        fov = [2 * torch.atan(tangent * side / longest) for side in (height, width)]
        return torch.cat([translation, quaternion_xyzw, torch.stack(fov, dim=-1)], dim=-1)


def cell_centers(rows: int, columns: int, like: Tensor) -> Float[Tensor, "cell 2"]:
    """(x, y) of a grid's cells, row by row, from the centre in halves of the longer side."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    cells = torch.stack([x, y], dim=-1).flatten(0, 1).to(like)
    return places_of_cells(cells, rows, columns)


def places_of_cells(
    cells: Float[Tensor, "*batch 2"], rows: int, columns: int
) -> Float[Tensor, "*batch 2"]:
    """(x, y) in cells, whose centres are integers, as `Matches` has them."""
    return (2 * cells + 1 - cells.new_tensor([columns, rows])) / max(rows, columns)
