"""The costs of a sweep of planes and their smoothing, as they are defined; oracles of tests."""

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.rays import pixel_centers

LEAST_SEEN = 0.5
"""Share of a window's pixels that a neighbour must see to be compared."""


def plane_sweep_costs_torch(
    image: Float[Tensor, "height width"],
    neighbours: Float[Tensor, "neighbour _height _width"],
    homographies: Float[Tensor, "neighbour plane 3 3"],
    radius: int,
    smallest_variance: float,
) -> Float[Tensor, "height width plane"]:
    """As `plane_sweep_costs`."""
    height, width = image.shape
    grid = torch.nn.functional.pad(pixel_centers(height, width).to(homographies), (0, 1), value=1)
    size = homographies.new_tensor([neighbours.shape[2], neighbours.shape[1]])
    seen_from = torch.einsum("npij,hwj->nphwi", homographies, grid)
    positions = seen_from[..., :2] / seen_from[..., 2:]
    inside = (seen_from[..., 2:] > 0) & (positions >= 0.5) & (positions <= size - 0.5)
    is_seen = inside.all(-1).to(image)
    planes = homographies.shape[1]
    stacked = neighbours[:, None, None].expand(-1, planes, -1, -1, -1).flatten(0, 1)
    warped = torch.nn.functional.grid_sample(
        stacked, (2 * positions / size - 1).flatten(0, 1).to(image), align_corners=False
    ).reshape(is_seen.shape)
    sums = torch.stack([image.new_ones(()).expand_as(warped), image.expand_as(warped), warped])
    products = torch.stack([image.square().expand_as(warped), warped.square(), image * warped])
    terms = torch.cat([sums, products]) * is_seen
    side = 2 * radius + 1
    box = torch.nn.functional.conv2d(
        terms.reshape(-1, 1, height, width), image.new_ones(1, 1, side, side), padding=radius
    ).reshape(terms.shape)
    n, a, b, aa, bb, ab = box
    a, b, aa, bb, ab = (values / n for values in (a, b, aa, bb, ab))
    variances = (aa - a * a + smallest_variance) * (bb - b * b + smallest_variance)
    costs = 1 - (ab - a * b) / variances.sqrt()
    costs = torch.where(n >= LEAST_SEEN * side**2, costs, torch.inf)
    two = costs.sort(0).values[:2]
    mean = torch.where(two.isfinite().all(0), two.mean(0), two[0])
    return torch.where(mean.isfinite(), mean, 1.0).permute(1, 2, 0)


def smooth_costs_torch(
    costs: Float[Tensor, "height width plane"],
    image: Float[Tensor, "height width"],
    step: float,
    jump: float,
    edge: float,
) -> Float[Tensor, "height width plane"]:
    """As `smooth_costs`: pixel by pixel along each path."""
    height, width, _ = costs.shape
    total = torch.zeros_like(costs)
    for dy, dx in [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]:
        path = costs.clone()
        for y in range(height) if dy >= 0 else reversed(range(height)):
            for x in range(width) if dx >= 0 else reversed(range(width)):
                j, i = y - dy, x - dx
                if not (0 <= j < height and 0 <= i < width):
                    continue
                before = path[j, i]
                price = max(step, jump / (1 + float((image[y, x] - image[j, i]).abs()) / edge))
                padded = torch.nn.functional.pad(before, (1, 1), value=torch.inf)
                beside = torch.minimum(padded[:-2], padded[2:]) + step
                least = before.min()
                path[y, x] += torch.minimum(torch.minimum(before, beside), least + price) - least
        total += path
    return total
