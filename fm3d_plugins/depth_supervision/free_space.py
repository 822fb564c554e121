"""How far a photo's rays are free: nothing hides the nearest points around their pixels.

A plain sky has no points, and few photos leave it open how near it stands: close to one camera it
explains that photo as well as far away, and hides what other cameras look at.
"""

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn.functional import max_pool2d

from fm3d_plugins.depth_supervision.anchors import project_points
from fm3d_plugins.depth_supervision.point_rays import ShownPoints
from fm3d_plugins.nerfstudio_cameras import world_from_cameras

CELLS = 32
"""A photo is divided into 32 x 32 cells."""

AROUND = 2
"""A cell is free as far as all cells are that are up to this many away from it."""

SHARE = 0.85
"""Of the distance of the nearest point: what is not plain begins before it."""

NEAREST = 0.02
"""Share of a photo's points that may be nearer than where its cells without points end."""

FEWEST_POINTS = 20
"""Photos that show fewer say nothing."""


class FreeSpace:
    """Distances up to which the rays of training photos meet nothing."""

    def __init__(
        self, shown: ShownPoints, cameras: Cameras, device: torch.device | str = "cpu"
    ) -> None:
        """Args:
        shown: Points, and photos that show them; those of perspective photos count.
        cameras: Of the training photos, as given.
        device: Where rays are asked for.
        """
        cameras = cameras.to("cpu")
        maps = [
            _free_distances(shown.points[shown.photo == photo].float().cpu(), cameras[photo])
            for photo in range(len(cameras))
        ]
        self._distances: Float[Tensor, "photo cell cell"] = torch.stack(maps).to(device)
        sizes = torch.cat([cameras.height, cameras.width], dim=-1)
        self._sizes: Int[Tensor, "photo 2"] = sizes.to(device)

    def at(self, indices: Int[Tensor, "ray 3"]) -> Float[Tensor, " ray"]:
        """Scene units along the rays of pixels (photo, row, column); 0 where nothing is known."""
        photo = indices[:, 0]
        cell = ((indices[:, 1:] + 0.5) / self._sizes[photo] * CELLS).long().clamp(0, CELLS - 1)
        return self._distances[photo, cell[:, 0], cell[:, 1]]


def free_space_loss(
    weights: Float[Tensor, "ray sample"],
    middles: Float[Tensor, "ray sample"],
    free: Float[Tensor, " ray"],
) -> Float[Tensor, ""]:
    """Mean light that is absorbed where rays are free, in [0, 1].

    Args:
        weights: Of intervals along the rays.
        middles: Of the intervals, scene units.
        free: Up to where each ray is free, scene units.
    """
    return weights.where(middles < free[:, None], 0.0).sum(-1).mean()


def _free_distances(points: Float[Tensor, "point 3"], camera: Cameras) -> Float[Tensor, "_ _"]:
    seen = project_points(points, camera)
    if len(seen.rows) < FEWEST_POINTS:
        return torch.zeros(CELLS, CELLS)
    center = world_from_cameras(camera)[..., :3, 3].reshape(3).float()
    distance = (points[seen.rows] - center).norm(dim=-1)
    size = torch.tensor([float(camera.width), float(camera.height)])
    cell = (seen.positions / size * CELLS).long().clamp(0, CELLS - 1)
    nearest = torch.full((CELLS * CELLS,), torch.inf)
    nearest = nearest.scatter_reduce(0, cell[:, 1] * CELLS + cell[:, 0], distance, "amin")
    around = -max_pool2d(-nearest.view(1, CELLS, CELLS), 2 * AROUND + 1, stride=1, padding=AROUND)
    free = around[0].where(around[0].isfinite(), distance.quantile(NEAREST))
    return SHARE * free
