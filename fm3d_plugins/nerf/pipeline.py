"""The pipeline of both NeRF methods."""

from dataclasses import dataclass, field
from typing import ClassVar

from fm3d_plugins.camera_optimization.pipeline import PerScenePipeline, PerScenePipelineConfig
from fm3d_plugins.nerf.datamanager import NerfDataManagerConfig
from fm3d_plugins.nerf.ray_model import RayModelConfig
from fm3d_plugins.nerfstudio_commands import GAUSSIANS, OF_DISTANCES


@dataclass
class NerfPipelineConfig(PerScenePipelineConfig):
    """Pixels and a radiance field."""

    _target: type = field(default_factory=lambda: NerfPipeline)
    datamanager: NerfDataManagerConfig = field(default_factory=NerfDataManagerConfig)
    model: RayModelConfig = field(default_factory=RayModelConfig)

    instead = {
        GAUSSIANS: "nerf has no splats. `ns-export pointcloud --normal-method open3d` writes "
        "points; for splats train 3dgs.",
        OF_DISTANCES: "it asks for a signed distance, which nerf has not. `ns-export tsdf` makes a "
        "mesh.",
    }

    one_device_because: ClassVar[str] = "its memory of where space is empty is kept per process"


class NerfPipeline(PerScenePipeline):
    """Named in saved config.yml files."""
