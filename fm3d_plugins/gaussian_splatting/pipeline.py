"""The pipeline of 3DGS."""

from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from fm3d_plugins.camera_optimization.pipeline import PerScenePipeline, PerScenePipelineConfig
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.gaussian_splatting.datamanager import GaussianSplattingDataManagerConfig
from fm3d_plugins.gaussian_splatting.model import (
    GaussianSplattingModel,
    GaussianSplattingModelConfig,
)
from fm3d_plugins.kernels.image_loss import WINDOW_SIZE
from fm3d_plugins.nerfstudio_cameras import image_sizes
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

    def __init__(self, config: GaussianSplattingPipelineConfig, *args, **kwargs) -> None:
        if config.model.background_color != "auto":
            config.datamanager.find_background = False
        super().__init__(config, *args, **kwargs)
        if config.model.ssim_lambda and self.datamanager.test_mode == "val":
            assert self.datamanager.train_dataset is not None
            sizes = image_sizes(self.datamanager.train_dataset.cameras)
            with one_line_errors():
                require_ssim_windows(sizes, 2**self.model.recipe.num_downscales)

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


def require_ssim_windows(sizes: Int[Tensor, "view 2"], downscale: int) -> None:
    """Refuse photos that are smaller than the loss's window in the first steps.

    Args:
        sizes: Width and height of the training photos, pixels.
        downscale: By which training begins.

    Raises:
        ValueError: Some are smaller.
    """
    smallest = int(sizes.min())
    if smallest // downscale < WINDOW_SIZE:
        raise ValueError(
            f"The shortest side of the photos is {smallest} pixels, in the first steps "
            f"{smallest // downscale}. Expected at least {WINDOW_SIZE} there, the window of SSIM. "
            "Give a larger --pipeline.datamanager.max-image-size, larger photos, or "
            "--pipeline.model.num-downscales 0."
        )
