"""The method `lvsm-train`: LVSM's network trained on many scenes."""

from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.lvsm.training import LvsmTrainingModelConfig
from fm3d_plugins.method_configs.network_training import (  # pyright: ignore[reportMissingImports]
    trained,
)
from fm3d_plugins.network_training.datamanager import ManySceneDataManagerConfig

method = MethodSpecification(
    config=trained(
        "lvsm-train",
        ManySceneDataManagerConfig(
            patch_size=4,
            image_sizes=(32, 48, 64),
            size_shares=(0.7, 0.15, 0.15),
        ),
        LvsmTrainingModelConfig(),
        matrix_rate=4e-3,
        other_rate=1e-3,
    ),
    description="LVSM trained on many synthetic scenes, from nothing or from other weights.",
)
