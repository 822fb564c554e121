"""What DUSt3R found, as a nerfstudio model. The network itself is `network.py`."""

from dataclasses import dataclass, field

from fm3d_plugins.one_pass.geometry.model import GeometryModel, GeometryModelConfig


@dataclass
class Dust3rModelConfig(GeometryModelConfig):
    """Which of DUSt3R's points are kept, and how they are shown."""

    _target: type = field(default_factory=lambda: Dust3rModel)
    keep_fraction: float = 0.8
    """Share of the training pixels with a depth that is kept, the surest first; above 0, at
    most 1."""
    min_confidence: float = 0.1
    """Confidence, 1 - 1/c with the c >= 1 that the network gives, below which a pixel is left out
    in any case."""


class Dust3rModel(GeometryModel):
    """Points of DUSt3R's depth maps and cameras, which nothing optimises."""
