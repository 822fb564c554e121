"""Sizes of a VGGT as text, for checkpoints of other sizes than the published one."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fm3d_plugins.cell_matching.path import MatchingConfig
from fm3d_plugins.nn.sizes import checked_fields, sizes_from_text
from fm3d_plugins.vggt.aggregator import AggregatorConfig
from fm3d_plugins.vggt.camera_head import CameraHeadConfig
from fm3d_plugins.vggt.dense_head import DenseHeadConfig
from fm3d_plugins.vggt.track_head import TrackHeadConfig

METADATA_KEY = "vggt_config"
"""Entry of a safetensors file's metadata. Without it a checkpoint has the published size."""

PARTS: Mapping[str, type] = {
    "aggregator": AggregatorConfig,
    "camera": CameraHeadConfig,
    "depth": DenseHeadConfig,
    "points": DenseHeadConfig,
    "tracks": TrackHeadConfig,
    "matching": MatchingConfig,
}
"""Arguments of `VGGT`."""


def to_text(parts: Mapping[str, Any]) -> str:
    """JSON of `VGGT`'s arguments; None for a head that does not exist.

    Args:
        parts: Config dataclasses by the names in `PARTS`.
    """
    return json.dumps(
        {name: None if part is None else asdict(part) for name, part in parts.items()}
    )


def from_text(text: str) -> dict[str, Any]:
    """`VGGT`'s arguments from what `to_text` wrote.

    Raises:
        ValueError: The text is no JSON, or names parts or sizes that there are not.
    """
    return sizes_from_text(text, METADATA_KEY, _parts)


def _parts(content: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(content) - set(PARTS)
    if unknown:
        raise KeyError(f"there is no part {sorted(unknown)[0]!r} among {', '.join(PARTS)}")
    return {
        name: None if values is None else PARTS[name](**checked_fields(PARTS[name], values))
        for name, values in content.items()
    }
