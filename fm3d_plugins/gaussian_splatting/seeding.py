"""Gaussians to start from."""

import torch
from jaxtyping import Float, Int, UInt8
from nerfstudio.models.splatfacto import RGB2SH
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter, ParameterDict

from fm3d_plugins.geometry.cameras import is_in_picture
from fm3d_plugins.geometry.neighbours import mean_neighbour_distance
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.kernels.shapes import check_shapes


def gaussians_at(
    points: Float[Tensor, "point 3"], colors: UInt8[Tensor, "point 3"], sh_degree: int
) -> ParameterDict:
    """One faint ball per point, as wide as its neighbours are away; random orientation.

    Raises:
        ValueError: Fewer than two points, or not one colour for each.
    """
    check_shapes(
        "3dgs",
        {"points": (points, "point 3"), "colours": (colors, "point 3")},
        one_type=False,
    )
    if len(points) < 2:
        raise ValueError(
            f"3dgs got {len(points)} points to start from. Expected at least 2. Take more photos, "
            "or start from random points with --pipeline.datamanager.random-points True."
        )
    points = points.float()
    size = mean_neighbour_distance(points)[:, None]
    rest = (sh_degree + 1) ** 2 - 1
    return ParameterDict(
        {
            "means": Parameter(points.clone()),
            "scales": Parameter(size.log().repeat(1, 3)),
            "quats": Parameter(torch.nn.functional.normalize(torch.randn(len(points), 4), dim=-1)),
            "features_dc": Parameter(RGB2SH(colors.float() / 255)),
            "features_rest": Parameter(torch.zeros(len(points), rest, 3)),
            "opacities": Parameter(torch.logit(torch.full((len(points), 1), 0.1))),
        }
    )


def pixel_width(
    points: Float[Tensor, "point 3"],
    world_from_camera: Float[Tensor, "view 4 4"],
    intrinsics: Float[Tensor, "view 3 3"],
    sizes: Int[Tensor, "view 2"],
) -> float | None:
    """Scene units that a pixel is wide at the depth of what the photos show.

    Args:
        points: Of the scene, world frame.
        world_from_camera: OpenCV cameras.
        intrinsics: Pixels.
        sizes: Width and height, pixels.

    Returns:
        The median over the views of the median depth of the points that a view shows, over its
        focal length; None where no view shows a point.
    """
    widths = []
    for pose, matrix, size in zip(world_from_camera, intrinsics, sizes, strict=True):
        local = transform_points(invert(pose), points.to(pose))
        width, height = size.tolist()
        is_shown = is_in_picture(local, matrix, height, width)
        if bool(is_shown.any()):
            widths.append(local[is_shown, 2].median() / matrix[0, 0])
    return float(torch.stack(widths).median()) if widths else None


def evenly_drawn(count: int, most: int) -> Int[Tensor, " chosen"]:
    """Rows of so many points, in their order: all, or at most so many at random, and says so."""
    if count <= most:
        return torch.arange(count)
    CONSOLE.print(
        f"Starting from {most} of the scene's {count} points. Another limit: "
        "--pipeline.model.max-gaussians N."
    )
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values
