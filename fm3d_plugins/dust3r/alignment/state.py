"""What an alignment solves for, and how well the pairs agree with it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.dust3r.alignment.samples import PhotoSamples
from fm3d_plugins.geometry.poses import pose_from_rotation_translation, se3_exp

LEAST_DEPTH = 0.1
"""Depths below this share of a photo's median count as that where errors are relative to depth."""


@dataclass(frozen=True)
class State:
    """All unknowns. Double precision on the CPU."""

    log_scales: Float[Tensor, " pair"]
    """Of the pairs: log of the world units per unit of the pair."""
    first_of_pair: Int[Tensor, " pair"]
    """Whose camera the pair's frame is."""
    world_from_camera: Float[Tensor, "photo 4 4"]
    """Rigid, OpenCV axes."""
    log_focals: Float[Tensor, " group"]
    """Of the focal groups: log of the factor on `base_focals`."""
    group_of_photo: Int[Tensor, " photo"]
    """Which factor a photo has."""
    base_focals: Float[Tensor, "photo 2"]
    """(fx, fy) of every photo, in pixels, where its factor is 1."""
    principal_points: Float[Tensor, "photo 2"]
    """In pixels, corner of the first pixel at (0, 0)."""
    depth: list[Float[Tensor, " _"]]
    """z-depth of every photo's samples."""

    def focals(self) -> Float[Tensor, "photo 2"]:
        """(fx, fy) of every photo, in pixels."""
        return self.base_focals * self.log_focals[self.group_of_photo, None].exp()

    def world_from_pair(self) -> Float[Tensor, "pair 4 4"]:
        """Similarities [[s R, t], [0, 1]]: the first photo's camera, in the pair's unit."""
        matrices = self.world_from_camera[self.first_of_pair]
        scaled = matrices[:, :3, :3] * self.log_scales.exp()[:, None, None]
        return pose_from_rotation_translation(scaled, matrices[:, :3, 3])

    def rays(self, photo: int, pixels: Float[Tensor, "pixel 2"]) -> Float[Tensor, "pixel 3"]:
        """(x / z, y / z, 1) of pixels, in the camera's frame."""
        plane = (pixels - self.principal_points[photo]) / self.focals()[photo]
        return torch.nn.functional.pad(plane, (0, 1), value=1.0)

    def moved(
        self,
        scale_steps: Float[Tensor, " pair"],
        camera_steps: Float[Tensor, "photo 6"],
        focal_steps: Float[Tensor, " group"],
        depth: list[Float[Tensor, " _"]],
    ) -> "State":
        """After steps of all unknowns, those of cameras as tangents in the world, to their left.

        A camera whose step is zero stays bit for bit what it was.
        """
        is_moved = (camera_steps != 0).any(-1)
        cameras = self.world_from_camera.clone()
        cameras[is_moved] = se3_exp(camera_steps[is_moved]) @ cameras[is_moved]
        return replace(
            self,
            log_scales=self.log_scales + scale_steps,
            world_from_camera=cameras,
            log_focals=self.log_focals + focal_steps,
            depth=depth,
        )


@dataclass(frozen=True)
class PhotoResidual:
    """Where the pairs put a photo's samples, against where the photo has them."""

    world: Float[Tensor, "pair pixel 3"]
    """The pairs' points in the world."""
    rays: Float[Tensor, "pixel 3"]
    """The samples' rays (z = 1) turned into the world."""
    difference: Float[Tensor, "pair pixel 3"]
    """The pairs' points minus the photo's own, in the world."""
    size: Float[Tensor, "pair pixel"]
    """Length of the difference over the depth, the error that the objective counts."""
    unit: Float[Tensor, " pixel"]
    """The depth it is divided by."""


def photo_residual(
    state: State,
    photo: int,
    samples: PhotoSamples,
    unit: Float[Tensor, " pixel"] | None = None,
) -> PhotoResidual:
    """Residuals of one photo.

    Args:
        unit: What errors are relative to; none takes the state's depths.
    """
    matrices = state.world_from_pair()[samples.pairs]
    world = samples.points @ matrices[:, :3, :3].transpose(-1, -2) + matrices[:, None, :3, 3]
    pose, depth = state.world_from_camera[photo], state.depth[photo]
    rays = state.rays(photo, samples.pixels) @ pose[:3, :3].T
    own = pose[:3, 3] + depth.unsqueeze(-1) * rays
    difference = world - own
    unit = depth_unit(depth) if unit is None else unit
    return PhotoResidual(world, rays, difference, difference.norm(dim=-1) / unit, unit)


def depth_unit(depth: Float[Tensor, " pixel"]) -> Float[Tensor, " pixel"]:
    """Depths, none below a share of their median: what errors are relative to."""
    middle = depth.abs().median().clamp(min=1e-30)
    return depth.clamp(min=LEAST_DEPTH * float(middle))
