"""What nerfstudio's dataparsers pass over, added to what they say of a scene."""

from copy import deepcopy
from typing import Any

from jaxtyping import Int
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from fm3d_plugins.nerfstudio_cameras import image_sizes

FULL_SIZES = "full_sizes"
"""Key of metadata: [V, 2] int, width and height of each photo before it was scaled down into the
file that is read. The cameras' focal lengths and principal points are those of it, divided by
`DOWNSCALE`; where absent, nothing was scaled down."""

DOWNSCALE = "downscale"
"""Key of metadata: by how much."""


def completed(outputs: DataparserOutputs, dataparser: Any, split: str) -> DataparserOutputs:
    """A dataparser's outputs, in place, with what this package asks for besides.

    A parser that reads copies of the photos (`images_2`) divides its cameras' sizes and rounds
    them; programs that make copies round in other ways. So the undivided sizes are added.

    Args:
        dataparser: After it has parsed.
        split: That the outputs are of.
    """
    factor = downscale_factor(dataparser)
    if factor > 1 and FULL_SIZES not in outputs.metadata:
        outputs.metadata[FULL_SIZES] = _full_sizes(dataparser, split)
        outputs.metadata[DOWNSCALE] = factor
    return outputs


def downscale_factor(dataparser: Any) -> int:
    """By how much the copies are smaller that a parser of nerfstudio's has decided to read."""
    for name in ("downscale_factor", "_downscale_factor"):
        factor = getattr(dataparser, name, None)
        if factor is not None:
            return int(factor)
    return 1


def _full_sizes(dataparser: Any, split: str) -> Int[Tensor, "view 2"]:
    """Sizes of the cameras when nothing is scaled down: asked of a copy of the parser."""
    whole = deepcopy(dataparser)
    for name in ("downscale_factor", "_downscale_factor"):
        if hasattr(whole, name):
            setattr(whole, name, 1)
    if hasattr(whole.config, "load_3D_points"):
        whole.config.load_3D_points = False
    return image_sizes(whole.get_dataparser_outputs(split=split).cameras).long()
