"""The recipe that methods which train a network share."""

from fm3d_plugins.network_training.datamanager import ManySceneDataManagerConfig
from fm3d_plugins.network_training.model import NetworkModelConfig
from fm3d_plugins.network_training.optimizers import MuonConfig, WarmUpDecayConfig
from fm3d_plugins.network_training.pipeline import NetworkPipelineConfig
from fm3d_plugins.network_training.trainer import DRAWN_ROOMS, NetworkTrainerConfig
from fm3d_plugins.one_pass.views.optimizer import MatrixAdamWConfig


def trained(
    name: str,
    datamanager: ManySceneDataManagerConfig,
    model: NetworkModelConfig,
    *,
    matrix_rate: float,
    other_rate: float,
    skip_norm: float = 5.0,
) -> NetworkTrainerConfig:
    """A run of a network on synthetic rooms: Muon for its matrices, AdamW for all else.

    Args:
        matrix_rate, other_rate: Highest learning rates.
        skip_norm: Steps with larger gradients change nothing.
    """
    others = MatrixAdamWConfig(lr=other_rate, max_norm=None)
    return NetworkTrainerConfig(
        method_name=name,
        experiment_name=DRAWN_ROOMS,
        skip_norm=skip_norm,
        pipeline=NetworkPipelineConfig(datamanager=datamanager, model=model),
        optimizers={
            "matrices": {"optimizer": MuonConfig(lr=matrix_rate), "scheduler": WarmUpDecayConfig()},
            "others": {"optimizer": others, "scheduler": WarmUpDecayConfig()},
        },
    )
