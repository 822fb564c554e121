"""Rays that end at points which the dataparser knows: a field's depth without depth maps.

A few photos leave open where along its ray a colour lies, and fog in front of each camera explains
them all. Points of the reconstruction that made the cameras say where rays end (Deng et al. 2022,
"Depth-supervised NeRF").
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from fm3d_plugins.camera_optimization.track_anchors import PhotoTracks
from fm3d_plugins.depth_supervision.anchors import nearest_of_cell, project_points
from fm3d_plugins.kernels.radiance_field.definitions import Intervals
from fm3d_plugins.nerfstudio_cameras import world_from_cameras

BAND = 0.03
"""A ray shall end this close to its point, as a share of the point's distance."""

FREE, HIT = 16, 16
"""Intervals of a ray in front of its point, and around it."""

LEAST_MASS = 1e-3
"""Added to the light that is absorbed around a point: where nothing is yet, and where the point is
wrong, the loss stays finite."""

MOST_PER_PHOTO = 20_000
"""Points of a photo that are used, evenly chosen from those that it shows."""


class ShownPoints(NamedTuple):
    """Points with a photo that shows each; a point may stand in several rows."""

    points: Float[Tensor, "row 3"]
    """World frame, scene units."""
    photo: Int[Tensor, " row"]
    """Row of the training photos."""


def shown_points(
    points: Float[Tensor, "point 3"], cameras: Cameras, tracks: PhotoTracks | None = None
) -> ShownPoints:
    """The dataparser's points, in every photo that shows them.

    Tracks know it. Without them the nearest points of every part of a photo count as visible
    (`nearest_of_cell`), in perspective photos.

    Args:
        points: World frame; not looked at where there are tracks.
        cameras: Of the training photos, as given.
    """
    if tracks is not None:
        return ShownPoints(tracks.points[tracks.point_index.long()], tracks.photo_index.long())
    points, cameras = points.cpu(), cameras.to("cpu")
    photos, rows = [], []
    for photo in range(len(cameras)):
        seen = project_points(points, cameras[photo])
        is_nearest = nearest_of_cell(seen.positions, seen.depth, cameras[photo])
        own = seen.rows[is_nearest]
        own = own[:: 1 + len(own) // MOST_PER_PHOTO]
        photos.append(torch.full_like(own, photo))
        rows.append(own)
    return ShownPoints(points[torch.cat(rows)], torch.cat(photos))


class PointRays:
    """Rays from training cameras to the points that their photos show."""

    def __init__(
        self, shown: ShownPoints, cameras: Cameras, device: torch.device | str = "cpu"
    ) -> None:
        """Args:
        cameras: Of the training photos, as given.
        device: Where rays are drawn.
        """
        self._centers = world_from_cameras(cameras)[:, :3, 3].float().to(device)
        self.photo = shown.photo.to(device)
        self.offset = shown.points.float().to(device) - self._centers[self.photo]

    def __len__(self) -> int:
        return len(self.photo)

    def draw(
        self, count: int, generator: torch.Generator
    ) -> tuple[RayBundle, Float[Tensor, " ray"]]:
        """Random rays with `camera_indices`, and the distances of their points, scene units."""
        device = self.photo.device
        pick = torch.randint(len(self), (count,), generator=generator, device=device)
        photo, offset = self.photo[pick], self.offset[pick]
        distance = offset.norm(dim=-1).clamp_min(1e-6)
        rays = RayBundle(
            origins=self._centers[photo],
            directions=offset / distance[:, None],
            pixel_area=torch.zeros_like(offset[:, :1]),
            camera_indices=photo[:, None],
        )
        return rays, distance


def intervals_to(distance: Float[Tensor, " ray"], near: float) -> Intervals:
    """`FREE` equal intervals from the near plane to the band around a point, `HIT` across it.

    What lies behind is not looked at: the loss does not depend on it.

    Args:
        distance: Of the points, scene units.
        near: At which rays begin; points that are nearer have no free space.
    """
    begin, end = (1 - BAND) * distance[:, None], (1 + BAND) * distance[:, None]
    start = torch.full_like(begin, near).minimum(begin)
    free = torch.linspace(0, 1, FREE + 1, device=distance.device)
    hit = torch.linspace(0, 1, HIT + 1, device=distance.device)[1:]
    edges = torch.cat([start + (begin - start) * free, begin + (end - begin) * hit], dim=-1)
    return Intervals((edges[:, :-1] + edges[:, 1:]) / 2, edges.diff(dim=-1))


def point_loss(weights: Float[Tensor, "ray sample"]) -> Float[Tensor, ""]:
    """Mean negative logarithm of the light that is absorbed around the points.

    Its gradient does not vanish where the field is still empty there, as that of a distance
    between rendered and known depth does: with that, rays pass through and end far behind.

    Args:
        weights: Of the intervals of `intervals_to`, in [0, 1].
    """
    return -(weights[:, FREE:].sum(-1) + LEAST_MASS).log().mean()
