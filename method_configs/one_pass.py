"""What the methods that find geometry in one go have in common as specifications."""

from dataclasses import replace

from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.dataparsers.estimated import (  # pyright: ignore[reportMissingImports]
    EstimatedDataParserConfig,
)
from fm3d_plugins.estimators.base import Estimator
from fm3d_plugins.one_pass.geometry.pipeline import GeometryPipelineConfig
from fm3d_plugins.one_pass.trainer import OnePassTrainerConfig


def geometry_method(
    estimator: Estimator, pipeline: GeometryPipelineConfig, description: str
) -> MethodSpecification:
    """A method whose result is what an estimator with depth says of the photos.

    Args:
        pipeline: The method's own; its dataparser is set here.
    """
    datamanager = replace(
        pipeline.datamanager,
        dataparser=EstimatedDataParserConfig(estimator=estimator),
        cache_images_type="uint8",
    )
    return MethodSpecification(
        config=OnePassTrainerConfig(
            method_name=estimator.name,
            pipeline=replace(pipeline, datamanager=datamanager),
            vis="viewer",
        ),
        description=description,
    )
