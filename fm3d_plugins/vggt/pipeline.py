"""The pipeline of VGGT."""

from dataclasses import dataclass, field

from fm3d_plugins.one_pass.geometry.pipeline import GeometryPipeline, GeometryPipelineConfig
from fm3d_plugins.vggt.datamanager import VggtDataManagerConfig
from fm3d_plugins.vggt.model import VggtModelConfig


@dataclass
class VggtPipelineConfig(GeometryPipelineConfig):
    """Photos, what VGGT found in them, and points."""

    _target: type = field(default_factory=lambda: VggtPipeline)
    datamanager: VggtDataManagerConfig = field(default_factory=VggtDataManagerConfig)
    model: VggtModelConfig = field(default_factory=VggtModelConfig)


class VggtPipeline(GeometryPipeline):
    """One forward pass in the dataparser, then points."""
