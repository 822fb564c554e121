"""Points on the surfaces that photos with known cameras show, from a sweep of planes.

Small copies of the photos are compared. Each is swept with neighbours that see the same place from
a little aside, and the costs are smoothed along eight paths, so that plain surfaces go on as what
is beside them. Seconds on a CPU; a start for gaussians, no reconstruction.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Shaped
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from fm3d_plugins.geometry.cameras import is_in_picture
from fm3d_plugins.geometry.looked_at import distance_looked_at
from fm3d_plugins.geometry.point_filtering import DepthViews, consistent_mask
from fm3d_plugins.geometry.pointmaps import pointmap_from_depth, points_at
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.geometry.rays import pixel_centers
from fm3d_plugins.kernels.threads import get_num_threads
from fm3d_plugins.nerfstudio_cameras import intrinsics_matrices, world_from_cameras

WORKING_SIZE, SMALLEST_SIDE = 240, 16
"""Long side in pixels at which photos are compared, and the least of the short one."""

MOST_PHOTOS = 24
"""Photos that are compared; of more, evenly chosen ones."""

NUM_NEIGHBOURS = 4
"""Photos that each is compared with, at most."""

PLANE_STEP, FEWEST_PLANES, MOST_PLANES = 2.0, 32, 384
"""Pixels by which the next plane moves what a neighbour sees there, at most; and how many planes
there may be, whatever it takes."""

JUMP = 2.4
"""Price of a jump of depth (`smooth_costs`): rooms of 8 to 12 photos have the more right depths the
higher it is, up to here."""

MOST_AT_ONCE = 8
"""Photos that are swept at a time: each takes two tables of its pixels times planes."""

NEAREST, FARTHEST = 0.25, 12.0
"""Depths that are tried, in units of the cameras' distance to the point they look at."""

LEAST_POINTS, NEARER, FARTHER = 50, 0.7, 3.0
"""So many known points in a photo tell which depths to try: from so much of the nearest to so much
of the farthest hundredth of theirs."""

GOOD_PARALLAX, MUCH_PARALLAX, MOST_PARALLAX = 10.0, 20.0, 60.0
"""Degrees between rays of two photos to a point: up to the first more is better, from the second
on it is worse, and at the third two photos no longer look alike."""

LEAST_WORTH = 0.02
"""Mean worth of a neighbour's rays below which it is none."""

TOLERANCE = 0.03
"""Difference of two depths that count as equal, as a share of them."""

DOUBT = 1e-6
"""Confidence of a depth that no other photo confirms: next to nothing against one that is."""


@dataclass(frozen=True)
class PosedPhotos:
    """Pinhole photos of one scene."""

    images: Sequence[Float[Tensor, "_ _ 3"]]
    """Colours in [0, 1]; sizes may differ."""
    intrinsics: Float[Tensor, "view 3 3"]
    """Pixels of the photos."""
    world_from_camera: Float[Tensor, "view 4 4"]
    """OpenCV cameras, scene units."""
    masks: Sequence[Float[Tensor, "_ _ 1"] | Bool[Tensor, "_ _ 1"] | None]
    """Where a photo may give points: above one half, or everywhere without a mask."""


def masked_out(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A photo as nerfstudio's batches hold it, masked and transparent pixels in the mean colour of
    the rest: windows and small pixels along an outline reach beyond it."""
    image = entry["image"]
    colors, opacity = image[..., :3], image[..., 3:]
    weight = shown(entry, in_floats(opacity) if opacity.shape[-1] else None)
    if weight is None:
        return dict(entry)
    counts = (weight > 0.5).to(image.device).expand_as(colors)  # noqa: PLR2004
    rest = colors[counts].reshape(-1, 3).float()
    mean = rest.mean(0) if len(rest) else rest.new_zeros(3)
    filled = torch.where(counts, colors, mean.to(image.dtype))
    return {**entry, "image": torch.cat([filled, opacity], dim=-1)}


def posed_photos(entries: Sequence[Mapping[str, Any]], cameras: Cameras) -> PosedPhotos:
    """Photos as nerfstudio's batches hold them, with `mask` or opacity where they have any.

    Args:
        cameras: Of the same photos, pinholes.
    """
    images = [in_floats(entry["image"]) for entry in entries]
    opacities = [image[..., 3:] if image.shape[-1] > 3 else None for image in images]
    return PosedPhotos(
        [image[..., :3] for image in images],
        intrinsics_matrices(cameras).cpu(),
        world_from_cameras(cameras).cpu(),
        [shown(entry, opacity) for entry, opacity in zip(entries, opacities, strict=True)],
    )


@dataclass(frozen=True)
class SweptDepth:
    """Depth of the pixels of small photos."""

    views: DepthViews
    """Confidence 1 where another photo confirms the depth, else `DOUBT`; 0 where none has a say."""
    colors: Float32[Tensor, "view height width 3"]
    is_wanted: Bool[Tensor, "view height width"]
    """What the masks leave."""


def dense_points(
    photos: PosedPhotos,
    known_points: Float[Tensor, "known 3"],
    count: int,
    generator: torch.Generator,
    *,
    only_confirmed: bool = False,
) -> tuple[Float[Tensor, "point 3"], Float[Tensor, "point 3"]]:
    """Points of the surfaces seen by photos, and colours in [0, 1].

    Those that two photos agree on, and the others that no photo sees past. The former are nearly
    all right, of the latter a quarter: enough for what may still move, too few for what may not.

    Args:
        known_points: Of the scene, world frame; they tell which depths to try. May be none.
        count: At most as many are returned, evenly from all photos; none where no two photos
            overlap.
        generator: Chooses the pixels.
        only_confirmed: Points that two photos agree on, and no others.
    """
    swept = sweep_depth(_of_rows(photos, evenly_chosen(len(photos.images))), known_points)
    views = swept.views
    pixels = pixel_centers(*views.depth.shape[1:])
    points, colors = [known_points.new_zeros(0, 3).float()], [swept.colors.new_zeros(0, 3)]
    for view in range(len(views.depth)):
        wanted = swept.is_wanted[view]
        if only_confirmed:
            wanted = wanted & (views.confidence[view] == 1)
        order = wanted.nonzero()[torch.randperm(int(wanted.sum()), generator=generator)]
        chosen = _free(views, view, order, count // len(views.depth))
        row, column = chosen.unbind(-1)
        camera = views.intrinsics[view], views.world_from_camera[view]
        points.append(points_at(pixels[row, column], views.depth[view, row, column], *camera))
        colors.append(swept.colors[view, row, column])
    return torch.cat(points), torch.cat(colors)


def _free(
    views: DepthViews, view: int, order: Int[Tensor, "pixel 2"], count: int
) -> Int[Tensor, "chosen 2"]:
    """The first so many of some pixels whose points no other view sees past.

    No more are looked at than it takes.
    """
    everyone = torch.arange(len(views.depth))
    free, lacking = [order[:0]], count
    for part in order.split(max(1, 2 * count)):
        depth = views.depth.clone()
        depth[view] = 0
        depth[view][tuple(part.T)] = views.depth[view][tuple(part.T)]
        is_free = consistent_mask(
            replace(views, depth=depth), view, everyone, relative_tolerance=TOLERANCE, least_views=0
        )
        free.append(part[is_free[tuple(part.T)]][:lacking])
        lacking -= len(free[-1])
        if not lacking:
            break
    return torch.cat(free)


def evenly_chosen(count: int) -> list[int]:
    """Rows of the photos, of so many, that are compared."""
    if count <= MOST_PHOTOS:
        return list(range(count))
    return torch.linspace(0, count - 1, MOST_PHOTOS).round().long().tolist()


def sweep_depth(photos: PosedPhotos, known_points: Float[Tensor, "known 3"]) -> SweptDepth:
    """Depth of the photos where planes make them agree best.

    What copies of half the size agree on tells, as known points do, which depths to try.
    The same for any number of threads (`kernels.threads`).
    """
    coarse = _swept(photos, known_points, WORKING_SIZE // 2)
    views = coarse.views
    points = pointmap_from_depth(views.depth, views.intrinsics, views.world_from_camera)
    agreed = points[(views.confidence == 1) & coarse.is_wanted]
    return _swept(photos, torch.cat([known_points, agreed.to(known_points)]), WORKING_SIZE)


def _swept(
    photos: PosedPhotos, known_points: Float[Tensor, "known 3"], working_size: int
) -> SweptDepth:
    """A sweep of copies of one size, each photo in a thread of its own."""
    from fm3d_plugins.kernels.plane_sweep import plane_sweep_costs, smooth_costs

    poses = photos.world_from_camera.double()
    colors, intrinsics, is_wanted = _small(photos, working_size)
    size = colors.shape[1], colors.shape[2]
    limits = _inverse_depths(poses, intrinsics, size, known_points.double())
    neighbours = _neighbours(poses, intrinsics, size, limits)
    grey = colors.mean(-1)

    def best_depth(view: int) -> Float32[Tensor, "height width"]:
        others = neighbours[view]
        if not others:
            return torch.ones_like(grey[view])
        low, high = limits[view].tolist()
        count = _num_planes(poses, intrinsics, view, others, high - low)
        planes = torch.linspace(low, high, count, dtype=torch.float64)
        warps = plane_homographies(poses, intrinsics, view, others, planes)
        costs = plane_sweep_costs(grey[view].numpy(), grey[others].numpy(), warps.numpy())
        totals = torch.from_numpy(smooth_costs(costs, grey[view].numpy(), jump=JUMP))
        return (1 / _at_least_cost(totals, planes)).float()

    def is_confirmed(view: int) -> Bool[Tensor, "height width"]:
        others = torch.tensor(neighbours[view], dtype=torch.long)
        return consistent_mask(views, view, others, relative_tolerance=TOLERANCE, least_views=1)

    has_say = torch.tensor([bool(others) for others in neighbours])[:, None, None]
    everyone = range(len(neighbours))
    with ThreadPoolExecutor(min(MOST_AT_ONCE, get_num_threads())) as pool:
        depth = torch.stack(list(pool.map(best_depth, everyone)))
        known = has_say.expand_as(depth).float()
        views = DepthViews(depth, known, intrinsics.float(), poses.float())
        confirmed = torch.stack(list(pool.map(is_confirmed, everyone)))
    confidence = torch.where(confirmed, 1.0, DOUBT) * has_say
    return SweptDepth(replace(views, confidence=confidence), colors, is_wanted)


def _num_planes(
    poses: Float64[Tensor, "view 4 4"],
    intrinsics: Float64[Tensor, "view 3 3"],
    view: int,
    others: Sequence[int],
    inverse_depths: float,
) -> int:
    """Planes that a view needs between two inverse depths so far apart.

    A neighbour aside by t sees a point of depth z moved by f t / z.
    """
    shifts = invert(poses[list(others)])[:, :3] @ poses[view][:, 3]
    across = (intrinsics[list(others), :2, :2] @ shifts[:, :2, None]).norm(dim=(1, 2))
    needed = math.ceil(float(across.max()) * inverse_depths / PLANE_STEP) + 1
    return min(MOST_PLANES, max(FEWEST_PLANES, needed))


def plane_homographies(
    world_from_camera: Float64[Tensor, "view 4 4"],
    intrinsics: Float64[Tensor, "view 3 3"],
    view: int,
    others: Sequence[int],
    inverse_depths: Float64[Tensor, " plane"],
) -> Float64[Tensor, "other plane 3 3"]:
    """From pixels of a view to those of others, by way of planes at some z-depths before it."""
    camera_from_world = invert(world_from_camera[list(others)])
    others_from_view = camera_from_world @ world_from_camera[view]
    rotations, shifts = others_from_view[:, None, :3, :3], others_from_view[:, None, :3, 3:]
    # x' = R x + t, where 1 = z / depth stands before t.
    along_z = torch.nn.functional.pad(shifts, (2, 0))
    moved = rotations + inverse_depths[:, None, None] * along_z
    return intrinsics[list(others), None] @ moved @ torch.linalg.inv(intrinsics[view])


def _of_rows(photos: PosedPhotos, rows: Sequence[int]) -> PosedPhotos:
    return PosedPhotos(
        [photos.images[row] for row in rows],
        photos.intrinsics[list(rows)],
        photos.world_from_camera[list(rows)],
        [photos.masks[row] for row in rows],
    )


def _small(
    photos: PosedPhotos, working_size: int
) -> tuple[
    Float32[Tensor, "view height width 3"],
    Float64[Tensor, "view 3 3"],
    Bool[Tensor, "view height width"],
]:
    """Photos of one small size, their intrinsics, and what their masks leave of them."""
    sizes = torch.tensor([image.shape[:2] for image in photos.images], dtype=torch.float64)
    middle = sizes.median(0).values
    factor = min(1.0, working_size / float(middle.max()))
    height, width = (max(SMALLEST_SIDE, round(float(side) * factor)) for side in middle)

    def resized(planes: Tensor) -> Tensor:
        channels_first = planes.float().permute(2, 0, 1)[None]
        small = torch.nn.functional.interpolate(channels_first, (height, width), mode="area")
        return small[0].permute(1, 2, 0)

    wanted = [
        torch.ones(height, width, dtype=torch.bool) if mask is None else resized(mask)[..., 0] > 0.5
        for mask in photos.masks
    ]
    scale = torch.diag_embed(
        torch.stack([width / sizes[:, 1], height / sizes[:, 0], torch.ones(len(sizes))], dim=-1)
    )
    colors = torch.stack([resized(image) for image in photos.images]).contiguous()
    return colors, scale.double() @ photos.intrinsics.double(), torch.stack(wanted)


def _inverse_depths(
    poses: Float64[Tensor, "view 4 4"],
    intrinsics: Float64[Tensor, "view 3 3"],
    size: tuple[int, int],
    known_points: Float64[Tensor, "known 3"],
) -> Float64[Tensor, "view 2"]:
    """Least and largest inverse depth to try in each view."""
    reach = float(distance_looked_at(poses))
    limits = poses.new_tensor([1 / (FARTHEST * reach), 1 / (NEAREST * reach)]).repeat(len(poses), 1)
    for view in range(len(poses)):
        local = transform_points(invert(poses[view]), known_points)
        z = local[is_in_picture(local, intrinsics[view], *size), 2]
        if len(z) >= LEAST_POINTS:
            ordered = z.sort().values
            near, far = ordered[len(z) // 100], ordered[len(z) - 1 - len(z) // 100]
            limits[view] = torch.stack([1 / (FARTHER * far), 1 / (NEARER * near)])
    return limits


def _neighbours(
    poses: Float64[Tensor, "view 4 4"],
    intrinsics: Float64[Tensor, "view 3 3"],
    size: tuple[int, int],
    limits: Float64[Tensor, "view 2"],
) -> list[list[int]]:
    """For each view the others that see what it may see, from a little aside; best first."""
    grid = pixel_centers(6, 6, dtype=torch.float64).flatten(0, 1) / 6
    grid = grid * grid.new_tensor([size[1], size[0]])
    chosen = []
    for view in range(len(poses)):
        points = torch.cat(
            [
                points_at(grid, (share / limits[view].mean()).expand(36), intrinsics[view], pose)
                for share in (0.7, 1.4, 3.0)
                for pose in [poses[view]]
            ]
        )
        rays = torch.nn.functional.normalize(points - poses[:, None, :3, 3], dim=-1)
        degrees = torch.rad2deg((rays * rays[view]).sum(-1).clamp(-1, 1).arccos())
        alike = ((MOST_PARALLAX - degrees) / (MOST_PARALLAX - MUCH_PARALLAX)).clamp(0, 1)
        local = transform_points(invert(poses), points.expand(len(poses), -1, -1))
        worth = (degrees / GOOD_PARALLAX).clamp(max=1) * alike
        worth = (worth * is_in_picture(local, intrinsics, *size)).mean(-1)
        worth[view] = 0
        best = worth.sort(descending=True, stable=True)
        kept = best.indices[:NUM_NEIGHBOURS][best.values[:NUM_NEIGHBOURS] > LEAST_WORTH]
        chosen.append(kept.tolist())
    return chosen


def _at_least_cost(
    totals: Float32[Tensor, "height width plane"], planes: Float64[Tensor, " plane"]
) -> Float64[Tensor, "height width"]:
    """Where costs are least, between evenly spaced planes by a parabola through three of them."""
    least: Int[Tensor, "height width"] = totals.argmin(-1)
    middle = least.clamp(1, len(planes) - 2)
    before, at, after = (
        totals.gather(-1, (middle + offset)[..., None])[..., 0].double() for offset in (-1, 0, 1)
    )
    bend = before - 2 * at + after
    shift = torch.where(bend > 0, (before - after) / (2 * bend), 0.0).clamp(-0.5, 0.5)
    place = torch.where(least == middle, middle + shift, least.double())
    return planes[0] + (planes[1] - planes[0]) * place


def in_floats(image: Shaped[Tensor, "*pixel channel"]) -> Float[Tensor, "*pixel channel"]:
    """Colours in [0, 1], on the CPU."""
    return image.float().cpu() / (255 if image.dtype == torch.uint8 else 1)


def shown(entry: Mapping[str, Any], opacity: Tensor | None) -> Tensor | None:
    """How much of each pixel of a photo is trained on, [H, W, 1]; None: all of it."""
    mask = entry.get("mask")
    if mask is None:
        return opacity
    return mask.float().cpu() if opacity is None else mask.float().cpu() * opacity
