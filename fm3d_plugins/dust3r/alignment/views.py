"""The result of an alignment: cameras and depth of all photos in one world."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.geometry.known_cameras import KnownCameras


@dataclass(frozen=True)
class AlignmentReport:
    """How well the pairs agree with the result."""

    steps: int
    """Accepted steps of the solver."""
    is_converged: bool
    """Whether it stopped because nothing more was gained."""
    residual: float
    """Median distance of the pairs' points from the result, as a share of their depth."""
    pair_influence: Float[Tensor, " pair"]
    """Mean factor in [0, 1] that the robust loss leaves each pair: near 0, the pair contradicts the
    others."""


@dataclass(frozen=True)
class AlignedViews:
    """Cameras and depth of all photos."""

    world_from_camera: Float[Tensor, "view 4 4"]
    """OpenCV axes. The world is the first photo's camera, unless poses were known."""
    intrinsics: Float[Tensor, "view 3 3"]
    """In pixels of the pointmaps, corner of the first pixel at (0, 0)."""
    depth: list[Float[Tensor, "_ _"]]
    """z-depth of every photo; 0 where unknown, as where the pairs put a pixel behind its camera."""
    confidence: list[Float[Tensor, "_ _"]]
    """Of every photo, the largest of its pairs', in (1, inf)."""
    pairs: Int[Tensor, "pair 2"]
    """Rows (first photo, second photo) in the order of the pairs."""
    pair_scales: Float[Tensor, " pair"]
    """World units per unit of each pair."""
    report: AlignmentReport | None
    """How well it fits; none where nothing was fitted."""


@dataclass(frozen=True)
class AlignmentPriors(KnownCameras):
    """What is known of the cameras beforehand, in pixels of the pointmaps, and kept exactly."""

    focal_groups: tuple[int, ...] | None = None
    """One number per photo; equal numbers mean one focal length in pixels of the pointmaps. None:
    each its own. A known one in a group is that of all its photos."""

    def require_usable(self, num_photos: int) -> None:
        """Raise ValueError where something known is of no photo or senseless."""
        named = {*self.world_from_camera, *self.intrinsics}
        wrong = sorted(number for number in named if not 0 <= number < num_photos)
        if wrong:
            raise ValueError(
                f"Cameras are known of the photos {wrong}, which do not exist. Expected numbers "
                f"from 0 to {num_photos - 1}. Correct the numbers."
            )
        if self.focal_groups is not None and len(self.focal_groups) != num_photos:
            raise ValueError(
                f"focal_groups has {len(self.focal_groups)} numbers; expected one for each of the "
                f"{num_photos} photos. Give one number per photo, or None."
            )
        for number, pose in self.world_from_camera.items():
            product = pose[:3, :3].double() @ pose[:3, :3].double().T
            if not bool(pose.isfinite().all()) or not torch.allclose(
                product, torch.eye(3, dtype=torch.float64), atol=1e-3
            ):
                raise ValueError(
                    f"The known pose of photo {number} is not rigid: {pose.tolist()}. Expected a "
                    "rotation and a translation, world from camera. Correct it or leave it out."
                )
