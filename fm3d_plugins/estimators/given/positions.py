"""A scene laid onto positions that its photos' EXIF tells."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.alignment import Similarity, robust_umeyama
from fm3d_plugins.io.pose_files.gps import Positions
from fm3d_plugins.progress import say
from fm3d_plugins.scene import SceneGeometry

LEAST_PHOTOS = 3

LEAST_BREADTH = 0.02
"""Second over first principal spread of the positions; less is a line: a scene turns about it."""

MOST_ERROR = 0.5
"""Median distance from the positions, over the spread of these: more is no agreement."""


def require_spread(positions: Positions, source: str) -> None:
    """Refuse positions that do not say where a scene lies, before the work.

    Raises:
        ValueError: They are fewer than three, at one place, or on one line.
    """
    places = positions.east_north_up
    found = f"{source} tells the positions of {len(places)} photos"
    spreads = torch.linalg.svdvals(places - places.mean(0)) if len(places) >= 2 else torch.zeros(2)
    if len(places) < LEAST_PHOTOS:
        fault = "which is too few"
    elif spreads[0] < 1e-3:
        fault = "all at one place"
    elif spreads[1] < LEAST_BREADTH * spreads[0]:
        fault = "all on one line, about which the scene could turn"
    else:
        return
    raise ValueError(
        f"{found}, {fault}. Expected at least {LEAST_PHOTOS} that are spread out. Positions give "
        "a scene its scale and place only: leave them out and use `sfm`, or give full poses."
    )


def laid_onto(
    scene: SceneGeometry, positions: Positions, pose_of: dict[int, int], names: Sequence[str]
) -> SceneGeometry:
    """The scene in metres: east, north and up from the middle of the positions.

    A similarity is found that fewer than half of the positions can spoil.

    Args:
        scene: Of `sfm`.
        pose_of: Row of the position by row of the photo.
        names: Of all photos.

    Raises:
        ValueError: Too few photos with a position have a camera, or they do not agree.
    """
    row_of = {name: row for row, name in enumerate(names)}
    views = [view for view, name in enumerate(scene.names) if row_of[name] in pose_of]
    rows = [pose_of[row_of[scene.names[view]]] for view in views]
    target = positions.east_north_up[rows]
    require_spread(
        Positions(tuple(scene.names[view] for view in views), target, positions.has_altitude),
        "Their EXIF (of photos with a camera)",
    )
    centers = scene.world_from_camera[views, :3, 3].double()
    similarity, inliers = robust_umeyama(centers, target)
    away = (similarity.apply(centers) - target).norm(dim=-1)
    spread = float((target - target.mean(0)).norm(dim=-1).median())
    error = float(away.median())
    if error > MOST_ERROR * spread:
        raise ValueError(
            f"The positions in the photos' EXIF are {error:.1f} m (median) from those of their "
            f"cameras, in a scene {spread:.1f} m across. Expected positions that are more exact "
            "than the scene is wide. Leave them out, and use `sfm`."
        )
    say(
        f"Laid onto the positions of {len(views)} photos in metres (east, north, up): they are "
        f"{error:.2f} m off (median), {int((~inliers).sum())} of them were passed over."
        + ("" if positions.has_altitude else " They tell no altitude: all count as level.")
    )
    return replace(moved(scene, similarity), scale="metric")


def moved(scene: SceneGeometry, similarity: Similarity) -> SceneGeometry:
    """The scene in another frame."""
    points: Float[Tensor, "point 3"] = similarity.apply(scene.points.double())
    return replace(
        scene,
        world_from_camera=similarity.apply_to_pose(scene.world_from_camera.double()),
        points=points,
    )
