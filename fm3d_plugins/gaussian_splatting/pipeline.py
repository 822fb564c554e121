"""The pipeline of 3DGS."""

from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import ClassVar

from fm3d_plugins.camera_optimization.pipeline import PerScenePipeline, PerScenePipelineConfig
from fm3d_plugins.gaussian_splatting.datamanager import GaussianSplattingDataManagerConfig
from fm3d_plugins.gaussian_splatting.model import (
    GaussianSplattingModel,
    GaussianSplattingModelConfig,
)
from fm3d_plugins.nerfstudio_commands import GAUSSIANS, OF_RAYS, SPIRAL


@dataclass
class GaussianSplattingPipelineConfig(PerScenePipelineConfig):
    """Photos and gaussians."""

    _target: type = field(default_factory=lambda: GaussianSplattingPipeline)
    datamanager: GaussianSplattingDataManagerConfig = field(
        default_factory=GaussianSplattingDataManagerConfig
    )
    model: GaussianSplattingModelConfig = field(default_factory=GaussianSplattingModelConfig)

    one_device_because: ClassVar[str] = (
        "in density control every process would grow other gaussians"
    )
    instead = {
        SPIRAL: "`fm3d film --path around` makes a film of circles around cameras.",
        **dict.fromkeys(
            OF_RAYS,
            f"it asks for single rays, and 3dgs draws whole pictures. `{GAUSSIANS}` writes the "
            "splats, `fm3d export --what mesh` a mesh and `--what points` a dense cloud.",
        ),
    }


class GaussianSplattingPipeline(PerScenePipeline):
    """Named in saved config.yml files."""

    model: GaussianSplattingModel

    def result(self) -> str:
        """What was made and how large it is, in a few words."""
        return f"{len(self.model.means):,} splats"

    def further_commands(self, config: Path) -> dict[str, str]:
        """What may be done with the run besides looking at it and scoring it, and how."""
        run = quote(str(config))
        return {
            **super().further_commands(config),
            "Export": f"ns-export gaussian-splat --load-config {run} --output-dir exports",
            "Mesh": f"fm3d export --load-config {run} --what mesh --output mesh.ply",
        }
