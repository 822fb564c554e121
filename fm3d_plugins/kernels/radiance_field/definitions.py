"""Sizes and constants of the radiance field, shared by all of its backends."""

from dataclasses import dataclass, fields

from jaxtyping import Float
from torch import Tensor

HIDDEN = 64
"""Width of the hidden layers."""
GEOMETRY = 16
"""Outputs of the density network: the logarithm of the density, and 15 that only colour sees."""
SH_DEGREE = 3
DIRECTION = (SH_DEGREE + 1) ** 2
"""Spherical harmonics of the viewing direction."""

SAMPLES_STEP = 16
"""Kernels take a multiple of this many samples per ray and features per position."""

SHORTEST_CALM = 1e-9
"""A calm distance below this is none."""

INITIAL_DENSITY = 0.1
"""Density where the network's output is 0, per scene unit: a fresh field is nearly transparent."""
MAX_LOG_DENSITY = 11.0
"""Larger outputs count as this (a density of 6000) and get no gradient."""


@dataclass(frozen=True)
class FieldParameters:
    """Parameters of a radiance field: hash grid, density network, colour network.

    density = INITIAL_DENSITY exp(g_0) with g = relu(f @ density_hidden) @ density_out and f the
    grid's features; colour = sigmoid(relu(g @ color_geometry + y @ color_direction) @ color_out)
    with y the spherical harmonics of the direction. No biases: y's first value is constant.
    """

    table: Float[Tensor, "entry 4"]
    density_hidden: Float[Tensor, "feature 64"]
    density_out: Float[Tensor, "64 16"]
    color_geometry: Float[Tensor, "16 64"]
    color_direction: Float[Tensor, "16 64"]
    color_out: Float[Tensor, "64 3"]

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of the fields."""
        return tuple(getattr(self, entry.name) for entry in fields(self))


@dataclass(frozen=True)
class Intervals:
    """Where rays are sampled: distances along unit directions, scene units, without gradient.

    Between intervals nothing is looked at, and space counts as empty.
    """

    middles: Float[Tensor, "ray sample"]
    """Where density and colour are taken; rising."""
    lengths: Float[Tensor, "ray sample"]
    """Over which they are constant."""


@dataclass(frozen=True)
class RenderedRays:
    """What rays see, before any background."""

    rgb: Float[Tensor, "ray 3"]
    """Sum of weights times colours."""
    weights: Float[Tensor, "ray sample"]
    """T_i alpha_i of Mildenhall et al. 2020, equation 3; what is left to 1 passes through."""
    densities: Float[Tensor, "ray sample"]
    """Per scene unit; without gradient."""
