"""Whether depth maps are in the unit that they are taken for: metres, or millimetres."""

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from fm3d_plugins.depth_supervision.anchors import project_points
from fm3d_plugins.io.depth_files import DepthFiles, read_map

PHOTOS = 12
"""As many maps, evenly chosen, are looked at."""

WRONG = 100.0
"""Points this many times as far away as maps say, or as near, tell of a wrong unit: no other error
is so large, and a wrong unit is one of a thousand."""

NEAREST = 0.1
"""Depth over the distance to the nearest other camera below which photos see nothing in common."""


def check_depth_unit(
    files: DepthFiles, cameras: Cameras, points: Float[Tensor, "point 3"] | None = None
) -> None:
    """Refuse depth that is a thousand times too small or too large for its cameras.

    The scene's points tell, where there are some; else the distances between cameras do, by which
    only depth that is too small is found.

    Args:
        files: Maps of the photos.
        cameras: Of the same photos, as given.
        points: World frame, scene units.

    Raises:
        ValueError: The unit is wrong.
    """
    count = len(files.depths)
    rows = sorted(set(np.linspace(0, count - 1, min(count, PHOTOS)).round().astype(int).tolist()))
    middles = {row: _middle(read_map(files.depths[row])) * files.scale for row in rows}
    middles = {row: middle for row, middle in middles.items() if middle > 0}
    ratios = []
    if points is not None:
        for row, middle in middles.items():
            depth = project_points(points.to(cameras.device), cameras[row]).depth
            if len(depth):
                ratios.append(float(depth.median()) / middle)
    if ratios:
        ratio = float(np.median(ratios))
        times = f"{ratio:.0f} times" if ratio > 1 else f"1/{1 / ratio:.0f} of"
        if not 1 / WRONG <= ratio <= WRONG:
            raise ValueError(_message(files, middles, f"the scene's points are {times} that"))
        return
    nearest = _distance_to_nearest(cameras)
    if nearest is not None and middles and np.median(list(middles.values())) < NEAREST * nearest:
        raise ValueError(
            _message(files, middles, f"the nearest other camera is {nearest:.3g} scene units")
        )


def _middle(depth: np.ndarray) -> float:
    """Median of the pixels with a depth; 0 where there is none."""
    usable = depth[np.isfinite(depth) & (depth > 0)]
    return float(np.median(usable)) if len(usable) else 0.0


def _distance_to_nearest(cameras: Cameras) -> float | None:
    """Median distance of a camera to the nearest one at another place; none for a single place."""
    places = cameras.camera_to_worlds[..., 3].double().cpu().reshape(-1, 3)
    distances = torch.cdist(places, places)
    apart = distances.where(distances > 1e-9, torch.inf).amin(-1)
    apart = apart[apart.isfinite()]
    return float(apart.median()) if len(apart) else None


def _message(files: DepthFiles, middles: dict[int, float], found: str) -> str:
    middle = float(np.median(list(middles.values())))
    return (
        f"The depth maps (first: {files.depths[0]}) say that photos see {middle:.3g} scene units "
        f"far, but {found} away. Expected depth in the unit of the cameras: nerfstudio-data and "
        "colmap take files as millimetres. If they hold metres, pass the dataparser "
        "--depth-unit-scale-factor 1.0; if they are of no unit, --pipeline.model.depth.alignment "
        "scale."
    )
