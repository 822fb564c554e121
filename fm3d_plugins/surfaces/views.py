"""The training photos' views of a trained scene, rendered with depth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn.functional import interpolate

from fm3d_plugins.camera_optimization.held_out_poses import training_cameras
from fm3d_plugins.camera_photos import RENDERED_VIEWS
from fm3d_plugins.geometry.pointmaps import pointmap_from_depth
from fm3d_plugins.nerfstudio_cameras import (
    image_sizes,
    intrinsics_matrices,
    opengl_rows,
    world_from_cameras,
)

MOST_VIEWS = 200
"""Training photos whose views are rendered; beyond these every second, third, ... is left out."""

LEAST_OPACITY = 0.5
"""Of a pixel whose depth is that of a surface."""

LONGEST_SIDE = 960
"""Pixels; larger photos are rendered smaller."""

STEEPEST = 0.1
"""Largest change of depth from a pixel to the next on one surface, as a share of the depth; beyond
it rendered depth lies between two surfaces."""


Mask = Bool[Tensor, "_ _ 1"]


@dataclass(frozen=True)
class DepthView:
    """One view of a surface. OpenCV camera, float32."""

    rgb: Float[Tensor, "height width 3"]
    """In [0, 1]."""
    depth: Float[Tensor, "height width"]
    """z in scene units; 0 where no surface is seen."""
    intrinsics: Float[Tensor, "3 3"]
    world_from_camera: Float[Tensor, "4 4"]

    def points(self) -> Float[Tensor, "point 3"]:
        """Those of the pixels that see a surface, row by row; world frame."""
        points = pointmap_from_depth(self.depth, self.intrinsics, self.world_from_camera)
        return points[self.depth > 0]


def view_cameras(pipeline: Any, most: int) -> tuple[Cameras, list[Mask | None]]:
    """Pinholes of the training photos where training has put them, evenly chosen if too many.

    Args:
        most: No more than this many.

    Returns:
        Cameras, and the masks of their photos, at the photos' sizes.

    Raises:
        ValueError: Lenses have no pinhole of the same view.
    """
    photos, optimizer = pipeline.datamanager.train_pinholes(), pipeline.model.camera_optimizer
    cameras: Cameras = photos.cameras.to("cpu")
    is_rendered = photos.metadata.get(RENDERED_VIEWS, torch.zeros(len(cameras), dtype=torch.bool))
    rows = (~is_rendered.cpu()).nonzero().flatten()
    if len(rows) > most:
        rows = rows[torch.linspace(0, len(rows) - 1, most).round().long()]
    cameras.camera_to_worlds = opengl_rows(training_cameras(cameras, optimizer).optimised).float()
    with torch.no_grad():
        factors = optimizer.focal_factors().cpu()[:, None]
    cameras.fx, cameras.fy = cameras.fx * factors, cameras.fy * factors
    chosen = cameras[rows]
    longest = int(image_sizes(chosen).max())
    if longest > LONGEST_SIDE:
        chosen.rescale_output_resolution(LONGEST_SIDE / longest)
    return chosen, [photos.mask(row) for row in rows.tolist()]


@torch.no_grad()
def depth_views(
    model: Any, cameras: Cameras, masks: Sequence[Mask | None] | None = None
) -> Iterator[DepthView]:
    """Render cameras one after the other.

    Args:
        model: `3dgs` or `nerf`, which finds by `surface_depth` the z of what it shows.
        cameras: Pinholes.
        masks: Of any size; where one is false nothing has taught the model what is there, so no
            surface is seen. None: everything counts.
    """
    for row in range(len(cameras)):
        camera = cameras[row : row + 1]
        camera.metadata = None  # Of no training photo: the poses are corrected already.
        outputs = model.get_outputs_for_camera(camera.to(model.device))
        rgb, opacity = (outputs[name].cpu().float() for name in ("rgb", "accumulation"))
        depth = model.surface_depth(camera, outputs).cpu().float()
        is_surface = (opacity[..., 0] >= LEAST_OPACITY) & (depth > 0) & is_smooth(depth)
        mask = None if masks is None else masks[row]
        if mask is not None:
            planes = mask.permute(2, 0, 1)[None].float()
            is_surface &= interpolate(planes, size=depth.shape, mode="nearest")[0, 0] > 0
        yield DepthView(
            rgb.clamp(0, 1),
            torch.where(is_surface, depth, 0.0),
            intrinsics_matrices(camera).reshape(3, 3),
            world_from_cameras(camera).reshape(4, 4),
        )


def is_smooth(depth: Float[Tensor, "height width"]) -> Bool[Tensor, "height width"]:
    """Whether a pixel's depth is near that of the pixels on its four sides."""
    smooth = torch.ones_like(depth, dtype=torch.bool)
    for axis, size in enumerate(depth.shape):
        before, after = (depth.narrow(axis, start, size - 1) for start in (0, 1))
        is_step_small = (before - after).abs() <= STEEPEST * torch.minimum(before, after)
        for start in (0, 1):
            smooth.narrow(axis, start, size - 1).logical_and_(is_step_small)
    return smooth
