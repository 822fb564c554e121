"""The method `rayzer-train`: RayZer's network trained on many scenes."""

from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.data.filters import SceneFilters
from fm3d_plugins.method_configs.network_training import (  # pyright: ignore[reportMissingImports]
    trained,
)
from fm3d_plugins.network_training.datamanager import ManySceneDataManagerConfig
from fm3d_plugins.rayzer.training import RayzerTrainingModelConfig
from fm3d_plugins.synthetic_rooms.endless.rooms import RoomOptions

method = MethodSpecification(
    config=trained(
        "rayzer-train",
        ManySceneDataManagerConfig(
            patch_size=4,
            views_per_scene=5,
            filters=SceneFilters(require_depth=True),
            image_sizes=(32, 48),
            size_shares=(0.8, 0.2),
            # The network's positions of patches are right on square images alone.
            aspects=(1.0,),
            rooms=RoomOptions(arcs=0.4, walks=0.3, pans=0.3),
        ),
        RayzerTrainingModelConfig(ema_decay=0.99, default_steps=2000),
        matrix_rate=4e-3,
        other_rate=1e-3,
        # Those of the first steps are large, and scaled down.
        skip_norm=1000.0,
    ),
    description="RayZer trained on many synthetic scenes, with a warm start or from photos alone.",
)
