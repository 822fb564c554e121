"""The method `dust3r-train`: DUSt3R's network trained on many scenes."""

from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.data.filters import SceneFilters
from fm3d_plugins.dust3r.training import Dust3rTrainingModelConfig
from fm3d_plugins.method_configs.network_training import (  # pyright: ignore[reportMissingImports]
    trained,
)
from fm3d_plugins.network_training.datamanager import ManySceneDataManagerConfig

method = MethodSpecification(
    config=trained(
        "dust3r-train",
        ManySceneDataManagerConfig(
            patch_size=8,
            filters=SceneFilters(require_depth=True),
            image_sizes=(64,),
            size_shares=(1.0,),
            scenes_per_step=32,
            views_per_scene=2,
        ),
        Dust3rTrainingModelConfig(),
        matrix_rate=4e-3,
        other_rate=1e-3,
    ),
    description="DUSt3R trained on many synthetic pairs, from nothing or from other weights.",
)
