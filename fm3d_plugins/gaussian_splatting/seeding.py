"""Gaussians to start from."""

import torch
from jaxtyping import Float, Int, UInt8
from nerfstudio.models.splatfacto import RGB2SH
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter, ParameterDict

from fm3d_plugins.geometry.neighbours import mean_neighbour_distance
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


def evenly_drawn(count: int, most: int) -> Int[Tensor, " chosen"]:
    """Rows of so many points, in their order: all, or at most so many at random, and says so."""
    if count <= most:
        return torch.arange(count)
    CONSOLE.print(
        f"Starting from {most} of the scene's {count} points. Another limit: "
        "--pipeline.model.max-gaussians N."
    )
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values
