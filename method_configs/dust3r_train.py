"""The method `dust3r-train`: DUSt3R's network trained on many scenes."""

from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.data.filters import SceneFilters
from fm3d_plugins.dust3r.losses import LossConfig
from fm3d_plugins.dust3r.training import Dust3rTrainingModelConfig
from fm3d_plugins.method_configs.network_training import (  # pyright: ignore[reportMissingImports]
    trained,
)
from fm3d_plugins.network_training.datamanager import ManySceneDataManagerConfig
from fm3d_plugins.synthetic_rooms.endless.rooms import RoomOptions

method = MethodSpecification(
    config=trained(
        "dust3r-train",
        ManySceneDataManagerConfig(
            patch_size=8,
            filters=SceneFilters(require_depth=True),
            image_sizes=(48, 64),
            size_shares=(0.4, 0.6),
            scenes_per_step=24,
            views_per_scene=2,
            # As for vggt-train: arcs alone tell little of rotations.
            rooms=RoomOptions(arcs=0.4, walks=0.3, pans=0.3),
        ),
        # The best confidence is this over an error, and none is below 1: with the published 0.2
        # all pixels of a network whose errors are 0.2 are of one confidence.
        Dust3rTrainingModelConfig(
            ema_decay=0.99, default_steps=2000, losses=LossConfig(confidence_weight=1.0)
        ),
        matrix_rate=4e-3,
        other_rate=1e-3,
        # Those of the first steps are large, and scaled down.
        skip_norm=1000.0,
    ),
    description="DUSt3R trained on many synthetic pairs, from nothing or from other weights.",
)
