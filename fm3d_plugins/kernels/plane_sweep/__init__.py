"""Costs by which a sweep of planes finds the depth of each pixel of a photo."""

import numpy as np
from jaxtyping import Float32, Float64


def plane_sweep_costs(
    image: Float32[np.ndarray, "height width"],
    neighbours: Float32[np.ndarray, "neighbour _height _width"],
    homographies: Float64[np.ndarray, "neighbour plane 3 3"],
    *,
    radius: int = 2,
    smallest_variance: float = 1e-4,
) -> Float32[np.ndarray, "height width plane"]:
    """How badly a photo and its neighbours agree where each pixel lies on each plane.

    1 - correlation of square windows (Collins 1996; Kang et al. 2001 for the choice of neighbours):
    0 where they agree, 1 where they have nothing in common or no neighbour sees the plane there.
    Of several neighbours the two that agree best count, as others may be hidden.

    Args:
        image: Grey levels in [0, 1].
        neighbours: Other photos, of at most 2^24 pixels.
        homographies: From pixels of the photo (centres at +0.5) to those of a neighbour by way of a
            plane.
        radius: Of the windows, pixels: 2 is 5 x 5.
        smallest_variance: Added to that of windows, so that noise of plain ones counts little.
    """
    from fm3d_plugins.kernels.plane_sweep.kernels import sweep

    costs = np.empty((*image.shape, homographies.shape[1]), np.float32)
    arrays = [np.ascontiguousarray(each) for each in (image, neighbours, homographies)]
    sweep(*arrays, radius, np.float32(smallest_variance), costs)
    return costs


def smooth_costs(
    costs: Float32[np.ndarray, "height width plane"],
    image: Float32[np.ndarray, "height width"],
    *,
    step: float = 0.08,
    jump: float = 0.8,
    edge: float = 0.05,
) -> Float32[np.ndarray, "height width plane"]:
    """Costs of the best paths to each pixel from eight sides (semi-global matching).

    Hirschmüller 2008, equation 13: where windows say nothing, depth goes on as beside them.

    Args:
        costs: Of each plane at each pixel.
        image: Grey levels in [0, 1].
        step: Price of the next plane at the next pixel.
        jump: Price of any other.
        edge: Difference of grey levels that halves the price of a jump.
    """
    from fm3d_plugins.kernels.plane_sweep.kernels import smooth
    from fm3d_plugins.kernels.simd import LANES

    planes = costs.shape[2]
    whole = np.ascontiguousarray(costs)
    if planes % LANES:
        # Planes that are never the best, up to whole vectors.
        whole = np.full((*image.shape, planes + -planes % LANES), np.inf, np.float32)
        whole[..., :planes] = costs
    total, prices = np.empty_like(whole), (np.float32(price) for price in (step, jump, edge))
    smooth(whole, np.ascontiguousarray(image), *prices, total)
    return total[..., :planes]
