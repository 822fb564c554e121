"""The method `vggt`."""

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.dataparsers.estimated import (  # pyright: ignore[reportMissingImports]
    EstimatedDataParserConfig,
)
from fm3d_plugins.estimators.vggt import Vggt
from fm3d_plugins.feedforward.trainer import FeedForwardTrainerConfig
from fm3d_plugins.vggt.datamanager import VggtDataManagerConfig
from fm3d_plugins.vggt.model import VggtModelConfig
from fm3d_plugins.vggt.pipeline import VggtPipelineConfig

method = MethodSpecification(
    config=FeedForwardTrainerConfig(
        method_name="vggt",
        pipeline=VggtPipelineConfig(
            datamanager=VggtDataManagerConfig(
                dataparser=EstimatedDataParserConfig(estimator=Vggt()),
                cache_images_type="uint8",
            ),
            model=VggtModelConfig(),
        ),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="VGGT: cameras, depth and points of photos in one forward pass.",
)
