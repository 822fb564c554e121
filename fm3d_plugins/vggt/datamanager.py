"""The datamanager of VGGT."""

from dataclasses import dataclass, field

from fm3d_plugins.one_pass.geometry.datamanager import (
    GeometryDataManager,
    GeometryDataManagerConfig,
)


@dataclass
class VggtDataManagerConfig(GeometryDataManagerConfig):
    """Options of the photos; those of the network are the dataparser's."""

    _target: type = field(default_factory=lambda: VggtDataManager)


class VggtDataManager(GeometryDataManager):
    """Photos, and the cameras and depth that the network found, by way of the dataparser."""
