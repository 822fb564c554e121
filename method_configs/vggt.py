"""The method `vggt`."""

from fm3d_plugins.estimators.vggt.estimator import Vggt
from fm3d_plugins.method_configs.one_pass import (  # pyright: ignore[reportMissingImports]
    geometry_method,
)
from fm3d_plugins.vggt.pipeline import VggtPipelineConfig

method = geometry_method(
    # What the network says is the result here, right or wrong.
    Vggt(max_depth_error=None, if_rejected="keep"),
    VggtPipelineConfig(),
    "VGGT: cameras, depth and points of photos in one forward pass.",
)
