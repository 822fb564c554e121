"""The datamanager of DUSt3R."""

from dataclasses import dataclass, field

from fm3d_plugins.one_pass.geometry.datamanager import (
    GeometryDataManager,
    GeometryDataManagerConfig,
)


@dataclass
class Dust3rDataManagerConfig(GeometryDataManagerConfig):
    """Options of the photos; those of the network are the dataparser's."""

    _target: type = field(default_factory=lambda: Dust3rDataManager)


class Dust3rDataManager(GeometryDataManager):
    """Photos, and the cameras and depth of all pairs aligned, by way of the dataparser."""
