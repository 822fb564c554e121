"""Views with depth made one surface: a mesh, or points."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fm3d_plugins.backends.open3d import BLOCK, BYTES_PER_BLOCK, DepthFusion
from fm3d_plugins.geometry.mesh import Mesh
from fm3d_plugins.geometry.point_filtering import thin_to_voxels
from fm3d_plugins.memory import available_memory
from fm3d_plugins.surfaces.views import DepthView

VOXELS_PER_EXTENT = 320
"""So fine is a mesh unless a voxel is given."""

FARTHEST_OVER_MEDIAN = 4.0
"""Depth beyond this many medians is of the surroundings, not of what was photographed."""

OUTLIERS = 0.02
"""Share of the points on each side of an axis that do not count for the extent."""

ENOUGH_VIEWS = 2
"""That must have seen what lies around a piece of the mesh; 1 where there are few photos."""

FEW_PHOTOS = 6

LEAST_PART = 0.01
"""Share of the largest part's triangles that a part of the mesh has; smaller ones float about."""

COARSEST = 0.01
"""Share of the extent down to which the points looked at hit every cell on a surface."""

SAMPLED_PIXELS = 20_000
"""Of each view, by which extent and memory are worked out."""


@dataclass(frozen=True)
class FusionPlan:
    """How views become a mesh; scene units of the views."""

    voxel: float
    farthest: float
    """Depth beyond which a view tells nothing."""
    extent: float
    """Diagonal of the box around what the views see up to there."""
    num_blocks: int
    """Expected."""

    @property
    def bytes(self) -> int:
        """Memory of the field, about."""
        return self.num_blocks * BYTES_PER_BLOCK


def plan_fusion(
    views: Sequence[DepthView], voxel: float | None = None, farthest: float | None = None
) -> FusionPlan:
    """Choose what is not given.

    Args:
        voxel: Side of a voxel; None: the extent over `VOXELS_PER_EXTENT`.
        farthest: None: a few times the median depth.

    Raises:
        ValueError: No surface is seen, or the field does not fit into memory.
    """
    depths = [_sampled(view.depth[view.depth > 0]) for view in views]
    seen = torch.cat(depths) if depths else torch.zeros(0)
    if farthest is None and len(seen):
        farthest = FARTHEST_OVER_MEDIAN * float(seen.median())
    if farthest is None or not bool((seen <= farthest).any()):
        raise ValueError(
            "No view of the run shows a surface in reach (opacity over one half"
            f"{'' if farthest is None else f', depth up to {farthest:g}'}). Expected one. Train "
            "longer, or allow more depth with --max-depth."
        )
    points = torch.cat([_sampled(nearer(view, farthest).points()) for view in views])
    low, high = (_quantile(points, share) for share in (OUTLIERS, 1 - OUTLIERS))
    extent = float((high - low).norm())
    voxel = voxel or extent / VOXELS_PER_EXTENT
    plan = FusionPlan(voxel, farthest, extent, _num_blocks(points, BLOCK * voxel, extent))
    free = available_memory(torch.device("cpu"))
    if plan.bytes > free:
        raise ValueError(
            f"A mesh with voxels of {voxel / extent:.2%} of the scene's extent needs about "
            f"{plan.bytes / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free. Expected fewer "
            "voxels. Give a larger --voxel-size, or less --max-depth."
        )
    return plan


def nearer(view: DepthView, farthest: float) -> DepthView:
    """A view without what is farther away."""
    depth = torch.where(view.depth <= farthest, view.depth, 0.0)
    return DepthView(view.rgb, depth, view.intrinsics, view.world_from_camera)


def fused_mesh(views: Sequence[DepthView], plan: FusionPlan) -> Mesh:
    """A mesh in the views' frame, by a truncated signed distance field.

    Raises:
        ValueError: Nothing was seen by enough views.
    """
    fusion = DepthFusion(plan.voxel, plan.num_blocks)
    for view in views:
        near = nearer(view, plan.farthest)
        fusion.add(near.rgb, near.depth, near.intrinsics, near.world_from_camera)
    mesh = fusion.mesh(ENOUGH_VIEWS if len(views) > FEW_PHOTOS else 1)
    mesh = mesh.without_crumbs(LEAST_PART)
    if not len(mesh.faces):
        raise ValueError(
            f"The {len(views)} views share no surface at voxels of {plan.voxel / plan.extent:.2%} "
            "of the scene's extent. Expected views that overlap. Give a larger --voxel-size."
        )
    return mesh


def surface_points(
    views: Sequence[DepthView], farthest: float, most: int
) -> tuple[Float[Tensor, "point 3"], UInt8[Tensor, "point 3"]]:
    """Points of the surfaces that views see and their colours, evenly thinned out.

    Args:
        most: No more than this many.
    """
    near = [nearer(view, farthest) for view in views]
    points = torch.cat([view.points() for view in near])
    colors = torch.cat([view.rgb[view.depth > 0] for view in near])
    kept = thin_to_voxels(points, torch.ones(len(points)), most)
    return points[kept], (colors[kept] * 255).round().to(torch.uint8)


def _num_blocks(points: Float[Tensor, "point 3"], side: float, extent: float) -> int:
    """Blocks around the surface that some of its points are of."""
    cell = max(side, COARSEST * extent)
    passed = torch.unique(torch.floor(points / cell), dim=0)
    # So many more as the cells are larger than blocks: it is a surface. Its neighbourhood reaches
    # into about twice the blocks that it passes through.
    return round(2 * len(passed) * (cell / side) ** 2)


def _sampled(values: Float[Tensor, " *all"]) -> Float[Tensor, " *some"]:
    return values[:: max(1, len(values) // SAMPLED_PIXELS)]


def _quantile(points: Float[Tensor, "point 3"], share: float) -> Float[Tensor, "3"]:
    return points.sort(dim=0).values[round(share * (len(points) - 1))]
