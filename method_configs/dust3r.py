"""The method `dust3r`."""

from fm3d_plugins.dust3r.pipeline import Dust3rPipelineConfig
from fm3d_plugins.estimators.dust3r.estimator import Dust3r
from fm3d_plugins.method_configs.one_pass import (  # pyright: ignore[reportMissingImports]
    geometry_method,
)

method = geometry_method(
    # What the network says is the result here, right or wrong.
    Dust3r(max_depth_error=None, if_rejected="keep"),
    Dust3rPipelineConfig(),
    "DUSt3R: cameras, depth and points of photos from pairs, aligned.",
)
