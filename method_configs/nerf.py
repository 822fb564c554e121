"""The methods `nerf` and `nerf-vanilla`."""

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.camera_optimization.row_adam import DelayedDecayConfig, RowAdamConfig
from fm3d_plugins.nerf.datamanager import NerfDataManagerConfig
from fm3d_plugins.nerf.model import NerfModelConfig
from fm3d_plugins.nerf.pipeline import NerfPipelineConfig
from fm3d_plugins.nerf.ray_model import RayModelConfig
from fm3d_plugins.nerf.vanilla_model import VanillaNerfModelConfig
from fm3d_plugins.running.optimization import DecayConfig, FusedAdamConfig
from fm3d_plugins.scene_training import SceneTrainerConfig
from fm3d_plugins.training import TrainerConfig

CAMERA_DELAYS = {"camera_opt": 0.1, "camera_focal": 0.3}
"""Share of the run during which poses, and focal lengths, stay: the scene has to form first."""


def _decaying(eps: float) -> dict[str, OptimizerConfig | DecayConfig]:
    scheduler = DecayConfig()
    return {"optimizer": FusedAdamConfig(eps=eps), "scheduler": scheduler}


def _delayed(delay: float) -> dict[str, OptimizerConfig | DelayedDecayConfig]:
    # Every photo has a few of a step's rays: small gradients, in every step.
    optimizer = RowAdamConfig(eps=1e-6, betas=(0.9, 0.99))
    return {"optimizer": optimizer, "scheduler": DelayedDecayConfig(delay=delay)}


def _trainer(
    trainer: type[TrainerConfig],
    name: str,
    model: RayModelConfig,
    rays: int | None,
    steps_per_eval: int,
    optimizers: dict,
    *,
    find_background: bool = True,
) -> TrainerConfig:
    return trainer(
        method_name=name,
        steps_per_eval_image=steps_per_eval,
        steps_per_eval_batch=0,
        steps_per_eval_all_images=0,
        pipeline=NerfPipelineConfig(
            datamanager=NerfDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True, eval_mode="interval"),
                train_num_rays_per_batch=rays,
                find_background=find_background,
            ),
            model=model,
        ),
        optimizers=optimizers | {name: _delayed(delay) for name, delay in CAMERA_DELAYS.items()},
        vis="viewer",
    )


method = MethodSpecification(
    config=_trainer(
        SceneTrainerConfig,
        "nerf",
        NerfModelConfig(),
        rays=None,
        steps_per_eval=500,
        optimizers={name: _decaying(1e-15) for name in ("table", "networks", "exposure")},
    ),
    description="A fast NeRF (hash grid, contracted space) on a GPU or a CPU.",
)

vanilla = MethodSpecification(
    config=_trainer(
        TrainerConfig,
        "nerf-vanilla",
        VanillaNerfModelConfig(),
        rays=1024,
        steps_per_eval=10_000,
        optimizers={"fields": _decaying(1e-7)},
        find_background=False,
    ),
    description="The NeRF of Mildenhall et al. 2020 as published: slow, for reference.",
)
