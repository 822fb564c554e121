"""The method `rayzer`."""

from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.dataparsers.estimated import (  # pyright: ignore[reportMissingImports]
    EstimatedDataParserConfig,
)
from fm3d_plugins.estimators.rayzer.estimator import Rayzer
from fm3d_plugins.one_pass.trainer import OnePassTrainerConfig
from fm3d_plugins.rayzer.datamanager import RayzerDataManagerConfig
from fm3d_plugins.rayzer.model import RayzerModelConfig
from fm3d_plugins.rayzer.pipeline import RayzerPipelineConfig
from fm3d_plugins.training import ViewerConfig

method = MethodSpecification(
    config=OnePassTrainerConfig(
        method_name="rayzer",
        pipeline=RayzerPipelineConfig(
            datamanager=RayzerDataManagerConfig(
                # Every third photo is held out: 8 of 24, as in the paper.
                dataparser=EstimatedDataParserConfig(estimator=Rayzer(), eval_interval=3),
                cache_images_type="uint8",
            ),
            model=RayzerModelConfig(),
        ),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="RayZer: views and latent cameras of photos in order, learned without poses.",
)
