"""Which predicted points to keep: those that several views agree on, and few enough of them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fm3d_plugins.geometry.cameras import is_in_picture, project
from fm3d_plugins.geometry.pointmaps import points_at
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.geometry.rays import pixel_centers

PIXELS_AT_ONCE = 2**18
"""Pixels compared with one neighbour at a time: tens of megabytes whatever the views' size."""

OVERLAP_GRID = 12
"""Pixels along each side of a view that tell which other views look at the same place."""

_WIDEST_BASELINE_COSINE = 0.5
"""Rays that meet at more than 60 degrees seldom show the same side of a thing."""

_CELL_TOLERANCE = 1.01
"""The voxel is the smallest that meets the cap within this factor."""

_HIGHEST_CELL = 2.0**40
"""Farther cells count as one: float64 and the hash hold cells up to here exactly."""

_LOWER_BITS = 2**35 - 1
"""What is left of 64 bits after a shift by 29."""

_HASH_FACTORS = (0x9E3779B97F4A7C15 - 2**64, 0x5851F42D4C957F2D, 0x14057B7EF767814F)
"""Odd 64-bit numbers with irregular bits (the golden ratio; constants of Knuth's MMIX)."""


@dataclass(frozen=True)
class DepthViews:
    """Depth maps of equal size, and their cameras."""

    depth: Float[Tensor, "view height width"]
    """z-depth, any unit; not positive or not finite is unknown."""
    confidence: Float[Tensor, "view height width"]
    """Comparable between views; 0 counts as unknown."""
    intrinsics: Float[Tensor, "view 3 3"]
    """In pixels of the depth maps; no distortion."""
    world_from_camera: Float[Tensor, "view 4 4"]
    """Rigid OpenCV cameras in the depth's unit."""


def consistent_mask(
    views: DepthViews,
    view: int,
    neighbours: Int[Tensor, " neighbour"],
    *,
    relative_tolerance: float | int = 0.02,
    least_views: int = 2,
) -> Bool[Tensor, "height width"]:
    """Pixels whose points other views confirm, by comparing depths where the points project.

    A neighbour supports a point if its own depth there is equal within the tolerance. If it sees
    something closer, the point is hidden from it, and if the point is outside its picture or the
    depth there is unknown it has no say. If it sees past the point, it contradicts. A point is
    kept that has enough support, and more of it than contradiction when both are weighted by the
    neighbours' confidence.

    Args:
        view: The row that is judged.
        neighbours: Rows that may have a say on it, filled up with -1; see `overlapping_views`.
        relative_tolerance: Difference of two depths that count as equal, as a share of them.
        least_views: How many neighbours must support a point; at most as many as the view has,
            so a view without neighbours keeps all it knows.
    """
    if relative_tolerance <= 0 or least_views < 0:
        raise ValueError(
            f"Found relative_tolerance={relative_tolerance}, least_views={least_views}. "
            "Expected a tolerance above 0 and views of at least 0. Correct them."
        )
    own = views.depth[view].float()
    known = _is_known(own, views.confidence[view])
    pixels = pixel_centers(*own.shape, device=own.device)[known]
    camera = views.intrinsics[view].float(), views.world_from_camera[view].float()
    others = [other for other in neighbours.tolist() if other >= 0 and other != view]
    needed = min(least_views, len(others))
    verdicts = [known.new_zeros(0)]
    for points in points_at(pixels, own[known], *camera).split(PIXELS_AT_ONCE):
        support, balance = _votes(points, views, others, relative_tolerance)
        verdicts.append((support >= needed) & ((balance > 0) if needed else (balance >= 0)))
    return known.masked_scatter(known, torch.cat(verdicts))


def overlapping_views(views: DepthViews, count: int) -> Int[Tensor, "view {count}"]:
    """For every view, the others in whose pictures most of its points lie, best first.

    Points seen from very different directions do not count. Rows are filled up with -1 where
    fewer views overlap.
    """
    depth, intrinsics = views.depth, views.intrinsics.float()
    height, width = depth.shape[-2:]
    found = torch.full((len(depth), count), -1, dtype=torch.long, device=depth.device)
    rows = torch.linspace(0, height - 1, OVERLAP_GRID, device=depth.device).round().long()
    columns = torch.linspace(0, width - 1, OVERLAP_GRID, device=depth.device).round().long()
    grid = pixel_centers(height, width, device=depth.device)[rows][:, columns].flatten(0, 1)
    cameras = views.world_from_camera.float()
    for view in range(len(depth)):
        own = depth[view][rows][:, columns].flatten().float()
        known = (own > 0) & own.isfinite()
        points = points_at(grid[known], own[known], intrinsics[view], cameras[view])
        local = transform_points(invert(cameras), points.expand(len(depth), -1, -1))
        inside = is_in_picture(local, intrinsics, height, width)
        rays = torch.nn.functional.normalize(points - cameras[:, None, :3, 3], dim=-1)
        same_side = (rays * rays[view]).sum(-1) > _WIDEST_BASELINE_COSINE
        share = (inside & same_side).float().mean(-1).nan_to_num(0.0)
        share[view] = -1
        best = share.sort(descending=True, stable=True)
        chosen = best.indices[:count]
        chosen = torch.where(best.values[:count] > 0, chosen, -1)
        found[view, : len(chosen)] = chosen
    return found


def thin_to_voxels(
    points: Float[Tensor, "point 3"], confidence: Float[Tensor, " point"], cap: int
) -> Int[Tensor, " kept"]:
    """Rows of at most `cap` points: each voxel's most confident, for the smallest voxel that does.

    The voxel's side is found by bisection on the number of occupied voxels, so points far away
    cost one voxel each and do not change its size. Equal confidence prefers the earlier row.

    Args:
        points: Any unit.
        confidence: nan is the lowest.

    Returns:
        In increasing order; all rows if there are at most `cap`.

    Raises:
        ValueError: The cap is below 1, or a point is not finite.
    """
    if cap < 1 or not bool(points.isfinite().all()):
        raise ValueError(
            f"The cap is {cap}, and {int((~points.isfinite()).any(-1).sum())} of {len(points)} "
            "points are not finite. Expected a cap of at least 1 and finite points. Raise the cap "
            "or drop those points."
        )
    if len(points) <= cap:
        return torch.arange(len(points), device=points.device)
    # Centred on the median: far points must not cost the near ones their digits.
    centered = points.double() - points.double().median(dim=0).values
    keys = _voxel_keys(centered, _voxel_side(centered, cap))
    by_confidence = confidence.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)
    order = by_confidence[keys[by_confidence].argsort(stable=True)]
    ordered = keys[order]
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return order[is_first].sort().values


def _is_known(
    depth: Float[Tensor, "*shape"], confidence: Float[Tensor, "*shape"]
) -> Bool[Tensor, "*shape"]:
    return (depth > 0) & depth.isfinite() & (confidence > 0)


def _votes(
    points: Float[Tensor, "point 3"],
    views: DepthViews,
    others: list[int],
    tolerance: float | int,
) -> tuple[Float[Tensor, " point"], Float[Tensor, " point"]]:
    """Number of supporting views, and confidence of support minus that of contradiction."""
    height, width = views.depth.shape[-2:]
    support, balance = points.new_zeros(len(points)), points.new_zeros(len(points))
    for other in others:
        camera_from_world = invert(views.world_from_camera[other].float())
        local = transform_points(camera_from_world, points)
        z = local[:, 2]
        x, y = project(local, views.intrinsics[other].float()).unbind(-1)
        inside = (z > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        row = y.nan_to_num().clamp(0, height - 1).long()
        column = x.nan_to_num().clamp(0, width - 1).long()
        place = row * width + column
        seen = views.depth[other].flatten()[place].float()
        certainty = views.confidence[other].flatten()[place].float()
        has_say = inside & _is_known(seen, certainty)
        # Relative to the larger of the two, so that who is asked about whom does not matter.
        supports = has_say & ((z - seen).abs() <= tolerance * torch.maximum(z, seen))
        contradicts = has_say & (seen - z > tolerance * torch.maximum(z, seen))
        support += supports
        balance += torch.where(supports, certainty, 0) - torch.where(contradicts, certainty, 0)
    return support, balance


def _voxel_keys(points: Float[Tensor, "point 3"], side: float) -> Int[Tensor, " point"]:
    """A number per point, equal for points of one voxel.

    Cells are mixed into 64 bits; two of a million voxels share a number with a chance below 1e-7,
    which would cost one point.
    """
    # Rounded, not floored: the middle of the points is inside a cell, so one large cell holds all.
    cells = (points / side).round().clamp(-_HIGHEST_CELL, _HIGHEST_CELL).long()
    key = torch.zeros_like(cells[:, 0])
    for axis, factor in enumerate(_HASH_FACTORS):
        key = (key + cells[:, axis]) * factor
        # Without the sign, which a shift would copy downwards: then key and ~key became one.
        key = key ^ ((key >> 29) & _LOWER_BITS)
    return key


def _count_voxels(points: Float[Tensor, "point 3"], side: float) -> int:
    ordered = _voxel_keys(points, side).sort().values
    return 1 + int((ordered[1:] != ordered[:-1]).sum())


def _voxel_side(points: Float[Tensor, "point 3"], cap: int) -> float:
    """Smallest side, within `_CELL_TOLERANCE`, whose occupied voxels are at most `cap`."""
    distances = points.abs().amax(dim=-1)
    # Where most points coincide the middle one's distance is nothing to start from.
    size = float(distances.median()) or float(distances.max()) or 1.0
    fails, fits = 1e-9 * size, math.inf
    # A surface of the middle points' size fills about 6 voxels per side squared.
    side = 2 * size * (6 / cap) ** 0.5
    while fits > _CELL_TOLERANCE * fails:
        count = _count_voxels(points, side)
        if count <= cap:
            fits = side
        else:
            fails = side
        if cap / _CELL_TOLERANCE <= count <= cap:
            break
        # Voxels of a surface are as many as its area holds; aimed at the middle of the tolerance.
        side *= (_CELL_TOLERANCE**0.5 * count / cap) ** 0.5
        if not fails < side < fits:
            side = 2 * fails if math.isinf(fits) else (fails * fits) ** 0.5
    return fits
