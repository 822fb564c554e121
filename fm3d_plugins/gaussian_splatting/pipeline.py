"""The pipeline of 3DGS."""

from dataclasses import dataclass, field

from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig

from fm3d_plugins.gaussian_splatting.datamanager import GaussianSplattingDataManagerConfig
from fm3d_plugins.gaussian_splatting.model import GaussianSplattingModelConfig
from fm3d_plugins.geometry.cameras import opencv_from_opengl
from fm3d_plugins.viewer import StartAtPhoto


@dataclass
class GaussianSplattingPipelineConfig(VanillaPipelineConfig):
    """Photos and gaussians."""

    _target: type = field(default_factory=lambda: GaussianSplattingPipeline)
    datamanager: GaussianSplattingDataManagerConfig = field(
        default_factory=GaussianSplattingDataManagerConfig
    )
    model: GaussianSplattingModelConfig = field(default_factory=GaussianSplattingModelConfig)

    def check_devices(self, count: int) -> None:
        """Refuse more than one device, before any process is started.

        Raises:
            SystemExit: More than one.
        """
        if count > 1:
            raise SystemExit(
                f"Error: 3dgs was asked to train on {count} devices, but its density control works "
                "on one: every process would grow other gaussians. Use --machine.num-devices 1."
            )


class GaussianSplattingPipeline(VanillaPipeline):
    """nerfstudio's pipeline on one device."""

    def __init__(self, config: GaussianSplattingPipelineConfig, *args, **kwargs) -> None:
        config.check_devices(kwargs.get("world_size", 1))
        super().__init__(config, *args, **kwargs)
        assert self.datamanager.train_dataset is not None
        cameras = self.datamanager.train_dataset.cameras.camera_to_worlds
        self.viewer_start = StartAtPhoto(opencv_from_opengl(cameras[0].cpu()))
