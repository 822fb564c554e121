"""The pipeline of DUSt3R."""

from dataclasses import dataclass, field

from fm3d_plugins.dust3r.datamanager import Dust3rDataManagerConfig
from fm3d_plugins.dust3r.model import Dust3rModelConfig
from fm3d_plugins.one_pass.geometry.pipeline import GeometryPipeline, GeometryPipelineConfig


@dataclass
class Dust3rPipelineConfig(GeometryPipelineConfig):
    """Photos, what DUSt3R found in them, and points."""

    _target: type = field(default_factory=lambda: Dust3rPipeline)
    datamanager: Dust3rDataManagerConfig = field(default_factory=Dust3rDataManagerConfig)
    model: Dust3rModelConfig = field(default_factory=Dust3rModelConfig)


class Dust3rPipeline(GeometryPipeline):
    """Pairs and their alignment in the dataparser, then points."""
