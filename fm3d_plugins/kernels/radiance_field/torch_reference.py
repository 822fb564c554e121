"""The radiance field in plain torch: the definition, for any device and dtype."""

from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.volume_rendering import weights_from_density
from fm3d_plugins.kernels.hash_grid import HashGridBackend, HashGridLayout, encode
from fm3d_plugins.kernels.radiance_field.definitions import (
    INITIAL_DENSITY,
    MAX_LOG_DENSITY,
    SH_DEGREE,
    SHORTEST_CALM,
    FieldParameters,
    Intervals,
    RenderedRays,
)
from fm3d_plugins.kernels.rasterizer.spherical_harmonics import sh_basis


def contract_to_cube(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """All of space into the unit cube: the box from -1 to 1 fills its middle half, evenly.

    mip-NeRF 360, equation 10, with the maximum norm (so that all of the cube is used), then
    scaled from [-2, 2] to [0, 1].
    """
    largest = points.abs().amax(-1, keepdim=True).clamp_min(1.0)
    return points * ((2.0 - 1.0 / largest) / largest) / 4.0 + 0.5


def geometry_of(
    parameters: FieldParameters,
    positions: Float[Tensor, "point 3"],
    layout: HashGridLayout,
    grid_backend: HashGridBackend = "torch",
) -> Float[Tensor, "point 16"]:
    """The density network's outputs at positions in scene units."""
    features = encode(contract_to_cube(positions), parameters.table, layout, grid_backend)
    return (features @ parameters.density_hidden).relu() @ parameters.density_out


def density_of(geometry: Float[Tensor, "*batch 16"]) -> Float[Tensor, "*batch"]:
    """Density per scene unit of the density network's outputs."""
    return INITIAL_DENSITY * geometry[..., 0].clamp_max(MAX_LOG_DENSITY).exp()


def render_rays_torch(
    parameters: FieldParameters,
    layout: HashGridLayout,
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    intervals: Intervals,
    calm_distance: float = 0.0,
    grid_backend: HashGridBackend = "torch",
) -> RenderedRays:
    """See `radiance_field.render_rays`."""
    middles = intervals.middles
    positions = origins[:, None] + middles[..., None] * directions[:, None]
    geometry = geometry_of(parameters, positions.flatten(0, 1), layout, grid_backend)
    geometry = geometry.unflatten(0, middles.shape)
    calm = (middles / max(calm_distance, SHORTEST_CALM)).square().clamp_max(1.0)
    densities = _scale_gradient(density_of(geometry), calm)
    weights, _ = weights_from_density(densities, intervals.lengths)
    of_direction = sh_basis(directions, SH_DEGREE) @ parameters.color_direction
    hidden = (geometry @ parameters.color_geometry + of_direction[:, None]).relu()
    colors = _scale_gradient((hidden @ parameters.color_out).sigmoid(), calm[..., None])
    return RenderedRays((weights[..., None] * colors).sum(1), weights, densities.detach())


def _scale_gradient(
    values: Float[Tensor, "*batch"], factors: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch"]:
    """The values themselves, through which gradients pass scaled."""
    return values * factors + (values * (1 - factors)).detach()


def density_torch(
    parameters: FieldParameters,
    layout: HashGridLayout,
    positions: Float[Tensor, "point 3"],
    grid_backend: HashGridBackend = "torch",
) -> Float[Tensor, " point"]:
    """See `radiance_field.density`."""
    return density_of(geometry_of(parameters, positions, layout, grid_backend))
