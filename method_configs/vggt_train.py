"""The method `vggt-train`: VGGT's network trained on many scenes."""

from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.data.filters import SceneFilters
from fm3d_plugins.method_configs.network_training import (  # pyright: ignore[reportMissingImports]
    trained,
)
from fm3d_plugins.network_training.datamanager import ManySceneDataManagerConfig
from fm3d_plugins.synthetic_rooms.endless.rooms import RoomOptions
from fm3d_plugins.vggt.training import VggtTrainingModelConfig

method = MethodSpecification(
    config=trained(
        "vggt-train",
        ManySceneDataManagerConfig(
            patch_size=8,
            filters=SceneFilters(require_depth=True),
            image_sizes=(64,),
            size_shares=(1.0,),
            # Mean motion in the image tells rotations in pans and walks; in arcs it is about 0.
            rooms=RoomOptions(arcs=0.4, walks=0.3, pans=0.3),
        ),
        VggtTrainingModelConfig(ema_decay=0.995, default_steps=2400),
        matrix_rate=4e-3,
        other_rate=1e-3,
        # Those of the first steps are large, and scaled down.
        skip_norm=1000.0,
    ),
    description="VGGT trained on many synthetic scenes, from nothing or from other weights.",
)
