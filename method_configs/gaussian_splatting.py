"""The method `3dgs`."""

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.camera_optimization.row_adam import DelayedDecayConfig, RowAdamConfig
from fm3d_plugins.gaussian_splatting.datamanager import GaussianSplattingDataManagerConfig
from fm3d_plugins.gaussian_splatting.model import GAUSSIANS, GaussianSplattingModelConfig
from fm3d_plugins.gaussian_splatting.pipeline import GaussianSplattingPipelineConfig
from fm3d_plugins.running.optimization import DecayConfig, FusedAdamConfig
from fm3d_plugins.scene_training import SceneTrainerConfig


def _decaying() -> dict:
    scheduler = DecayConfig()
    return {"optimizer": FusedAdamConfig(eps=1e-15), "scheduler": scheduler}


method = MethodSpecification(
    config=SceneTrainerConfig(
        method_name="3dgs",
        steps_per_eval_batch=0,
        steps_per_eval_all_images=0,
        pipeline=GaussianSplattingPipelineConfig(
            datamanager=GaussianSplattingDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True, eval_mode="interval"),
                cache_images_type="uint8",
            ),
            model=GaussianSplattingModelConfig(),
        ),
        optimizers={name: _decaying() for name in GAUSSIANS}
        | {
            "exposure": {"optimizer": RowAdamConfig(), "scheduler": DecayConfig()},
            "camera_opt": {
                "optimizer": RowAdamConfig(),
                "scheduler": DelayedDecayConfig(delay=0.1),
            },
            # Every photo moves the focal length: its mean over many counts.
            "camera_focal": {
                "optimizer": RowAdamConfig(eps=5e-4, betas=(0.8, 0.99)),
                "scheduler": DelayedDecayConfig(delay=0.15),
            },
        },
        vis="viewer",
    ),
    description="3D Gaussian Splatting on a GPU or a CPU, from photos or posed scenes.",
)
