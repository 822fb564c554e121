"""The pipeline of both NeRF methods."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar

from nerfstudio.cameras.cameras import Cameras

from fm3d_plugins.camera_optimization.pipeline import PerScenePipeline, PerScenePipelineConfig
from fm3d_plugins.nerf.datamanager import NerfDataManagerConfig
from fm3d_plugins.nerf.ray_model import RayModel, RayModelConfig
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
        OF_DISTANCES: "it asks for a signed distance, which nerf has not. `fm3d export "
        "--what mesh` makes a mesh.",
    }

    one_device_because: ClassVar[str] = "its memory of where space is empty is kept per process"


class NerfPipeline(PerScenePipeline):
    """Named in saved config.yml files."""

    model: RayModel

    def view_psnr(self, camera: Cameras, batch: dict[str, Any]) -> float:
        """PSNR, dB, of some pixels of a photo: all of them would take as long as many steps."""
        return -10 * math.log10(max(float(self.model.render_loss(camera, batch)), 1e-12))

    def further_commands(self, config: Path) -> dict[str, str]:
        """What may be done with the run besides looking at it and scoring it, and how."""
        run = quote(str(config))
        command = (
            f"ns-export pointcloud --load-config {run} --output-dir exports --normal-method open3d"
        )
        mesh = f"fm3d export --load-config {run} --what mesh --output mesh.ply"
        return {**super().further_commands(config), "Export": command, "Mesh": mesh}
