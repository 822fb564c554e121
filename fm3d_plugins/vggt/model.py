"""What VGGT found, as a nerfstudio model. The network itself is `network.py`."""

from dataclasses import dataclass, field

from fm3d_plugins.one_pass.geometry.model import GeometryModel, GeometryModelConfig


@dataclass
class VggtModelConfig(GeometryModelConfig):
    """How VGGT's points are shown."""

    _target: type = field(default_factory=lambda: VggtModel)


class VggtModel(GeometryModel):
    """Points of VGGT's depth maps and cameras, which nothing optimises."""
