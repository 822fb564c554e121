"""Which points of an aligned scene float before a surface that another photo is surer of."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.pointmaps import pointmap_from_depth
from fm3d_plugins.geometry.poses import invert, transform_points


def cleaned_confidence(
    depth: Sequence[Float[Tensor, "_rows _columns"]],
    confidence: Sequence[Float[Tensor, "_rows _columns"]],
    intrinsics: Float[Tensor, "view 3 3"],
    world_from_camera: Float[Tensor, "view 4 4"],
    *,
    tolerance: float = 1e-3,
) -> list[Float[Tensor, "_rows _columns"]]:
    """Confidence, set to 0 where a point hides a surer point of another photo (`clean_pointcloud`).

    Where a point of one photo projects into another one, closer than what that one sees there,
    one of the two is wrong: the less sure one.

    The result depends on the order of the photos, as the authors' does: they are cleaned one after
    the other, each against all others, and what is cleaned already judges no more. So a point
    that two photos both hide loses against the first that is surer, and a wrong point of a later
    photo may still have removed a right one of an earlier photo.

    Args:
        depth: z-depth of each photo, scene units; photos may differ in size. Values that are not
            finite and above 0 are unknown: they are neither judged nor judge.
        confidence: Larger is surer, at least 0, comparable between photos. Not modified.
        intrinsics: In pixels of the depth maps; no distortion.
        world_from_camera: Rigid OpenCV cameras in the depth's unit.
        tolerance: Share of the depth by which a point may be closer without hiding anything.
    """
    cleaned = [one.clone() for one in confidence]
    for view, own in enumerate(depth):
        points = pointmap_from_depth(own, intrinsics[view], world_from_camera[view]).flatten(0, 1)
        for other in range(len(depth)):
            if other == view:
                continue
            local = transform_points(invert(world_from_camera[other]), points)
            hides, pixel = _hides(local, depth[other], intrinsics[other], tolerance)
            surer = cleaned[other].flatten()[pixel] > cleaned[view].flatten()
            wrong = (hides & surer & _is_known(own).flatten()).reshape(own.shape)
            cleaned[view] = cleaned[view].masked_fill(wrong, 0)
    return cleaned


def _hides(
    points_camera: Float[Tensor, "point 3"],
    depth: Float[Tensor, "rows columns"],
    intrinsics: Float[Tensor, "3 3"],
    tolerance: float,
) -> tuple[Bool[Tensor, " point"], Tensor]:
    """Whether a camera sees past each point, and the index of the pixel that each lies in."""
    height, width = depth.shape
    z = points_camera[:, 2]
    x, y = project(points_camera, intrinsics).unbind(-1)
    inside = (z > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    row = y.nan_to_num().clamp(0, height - 1).long()
    column = x.nan_to_num().clamp(0, width - 1).long()
    pixel = row * width + column
    seen = depth.flatten()[pixel]
    return inside & _is_known(seen) & (z < (1 - tolerance) * seen), pixel


def _is_known(depth: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    return (depth > 0) & depth.isfinite()
