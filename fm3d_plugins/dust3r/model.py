"""What DUSt3R found, as a nerfstudio model. The network itself is `network.py`."""

from dataclasses import dataclass, field

from fm3d_plugins.one_pass.geometry.model import GeometryModel, GeometryModelConfig


@dataclass
class Dust3rModelConfig(GeometryModelConfig):
    """How DUSt3R's points are shown."""

    _target: type = field(default_factory=lambda: Dust3rModel)


class Dust3rModel(GeometryModel):
    """Points of DUSt3R's depth maps and cameras, which nothing optimises."""
