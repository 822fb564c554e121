"""The method `lvsm-train`: LVSM's network trained on many scenes."""

from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.lvsm.training import LvsmTrainingModelConfig
from fm3d_plugins.network_training.datamanager import ManySceneDataManagerConfig
from fm3d_plugins.network_training.optimizers import MuonConfig, WarmUpDecayConfig
from fm3d_plugins.network_training.pipeline import NetworkPipelineConfig
from fm3d_plugins.network_training.trainer import NetworkTrainerConfig
from fm3d_plugins.one_pass.views.optimizer import MatrixAdamWConfig

method = MethodSpecification(
    config=NetworkTrainerConfig(
        method_name="lvsm-train",
        experiment_name="synthetic-rooms",
        pipeline=NetworkPipelineConfig(
            datamanager=ManySceneDataManagerConfig(
                patch_size=4,
                image_sizes=(32, 48, 64),
                size_shares=(0.7, 0.15, 0.15),
            ),
            model=LvsmTrainingModelConfig(),
        ),
        optimizers={
            "matrices": {"optimizer": MuonConfig(lr=4e-3), "scheduler": WarmUpDecayConfig()},
            "others": {
                "optimizer": MatrixAdamWConfig(lr=1e-3, max_norm=None),
                "scheduler": WarmUpDecayConfig(),
            },
        },
    ),
    description="LVSM trained on many synthetic scenes, from nothing or from other weights.",
)
