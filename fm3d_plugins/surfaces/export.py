"""Surfaces of a trained run as files, in the frame and unit of its input."""

import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.io.ply import write_ply
from fm3d_plugins.nerfstudio_cameras import image_sizes
from fm3d_plugins.nn.planning import duration
from fm3d_plugins.progress import say, signs_of_life, track
from fm3d_plugins.surfaces.fusion import fused_mesh, plan_fusion, surface_points
from fm3d_plugins.surfaces.views import MOST_VIEWS, DepthView, depth_views, view_cameras

TIMED = 3
"""Views by which the time of all of them is told."""

BYTES_PER_PIXEL = 16
"""Colour and depth, float32."""

FINEST = 1e-5
"""Share of a scene's extent to which single precision must hold coordinates."""


def rendered_views(pipeline: Any) -> list[DepthView]:
    """Views of a trained run, in the frame of its scene; says first what they cost.

    Raises:
        ValueError: Lenses have no pinhole of the same view.
    """
    pipeline.eval()
    cameras, masks = view_cameras(pipeline, MOST_VIEWS)
    count = len(cameras)
    size = float(image_sizes(cameras).double().prod(-1).sum()) * BYTES_PER_PIXEL
    began, views = time.monotonic(), []
    for view in track(depth_views(pipeline.model, cameras, masks), "Rendering depth", total=count):
        views.append(view)
        if len(views) == 1:
            began = time.monotonic()  # The first one also pays for what is compiled once.
        elif len(views) == TIMED:
            seconds = (time.monotonic() - began) / (TIMED - 1) * (count - TIMED)
            say(
                f"Rendering {count} views with depth ({size / 1e9:.2f} GB): about "
                f"{duration(seconds)}."
            )
    return views


def write_mesh(
    pipeline: Any,
    input_from_scene: Similarity,
    path: Path,
    voxel: float | None = None,
    farthest: float | None = None,
) -> tuple[int, int]:
    """Write a mesh with colours and normals, fused of the training photos' views.

    Args:
        voxel: Side of a voxel in the unit of the input; None: a share of the extent.
        farthest: Depth beyond which nothing counts, same unit; None: four times the median.

    Returns:
        Vertices and triangles.

    Raises:
        ValueError: No surface is seen, or memory does not do.
    """
    views = rendered_views(pipeline)
    unit = float(input_from_scene.scale)
    plan = plan_fusion(views, *(None if x is None else x / unit for x in (voxel, farthest)))
    say(
        f"Fusing them with voxels of {plan.voxel * unit:.4g} ({plan.voxel / plan.extent:.2%} of "
        f"the extent; --voxel-size), up to a depth of {plan.farthest * unit:.4g} (--max-depth): "
        f"about {plan.bytes / 1e9:.2f} GB of memory."
    )
    with signs_of_life(lambda seconds: f"Fusing since {seconds:.0f} s."):
        mesh = fused_mesh(views, plan).moved(input_from_scene)
    normals = mesh.normals().float()
    write_ply(path, compact(mesh.vertices), mesh.colors, normals=normals, faces=mesh.faces)
    return len(mesh.vertices), len(mesh.faces)


def write_points(
    pipeline: Any,
    input_from_scene: Similarity,
    path: Path,
    farthest: float | None = None,
    most: int = 1_000_000,
) -> int:
    """Write points with colours where the training photos' views see surfaces.

    Args:
        farthest: As of `write_mesh`.
        most: No more points than this.

    Returns:
        How many there are.

    Raises:
        ValueError: No surface is seen.
    """
    views = rendered_views(pipeline)
    reach = None if farthest is None else farthest / float(input_from_scene.scale)
    points, colors = surface_points(views, plan_fusion(views, None, reach).farthest, most)
    write_ply(path, compact(input_from_scene.apply(points.double())), colors)
    return len(points)


def compact(points: Float[Tensor, "point 3"]) -> Float[Tensor, "point 3"]:
    """Points in single precision, if that keeps them where they are (not in geographic frames)."""
    extent = (points.amax(0) - points.amin(0)).max()
    rounding = points.abs().max() * torch.finfo(torch.float32).eps
    return points.float() if rounding <= FINEST * extent else points
