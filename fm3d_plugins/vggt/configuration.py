"""Sizes of a VGGT as text, for checkpoints of other sizes than the published one."""

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

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
    try:
        content = json.loads(text)
        unknown = set(content) - set(PARTS)
        if unknown:
            raise KeyError(f"there is no part {sorted(unknown)[0]!r}")
        return {name: _part(PARTS[name], values) for name, values in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"The metadata {METADATA_KEY!r} of the checkpoint cannot be used: {error}. Expected "
            f"JSON with the sizes of {', '.join(PARTS)}. Write it with "
            "fm3d_plugins.vggt.configuration.to_text."
        ) from error


def _part(kind: type, values: Mapping[str, Any] | None) -> Any:
    """A config dataclass from plain values, checked against its fields' types."""
    if values is None:
        return None
    hints = get_type_hints(kind)
    unknown = set(values) - {entry.name for entry in fields(kind)}
    if unknown:
        raise KeyError(f"{kind.__name__} has no size {sorted(unknown)[0]!r}")
    return kind(**{name: _value(hints[name], value, name) for name, value in values.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    if is_dataclass(hint):
        return _part(hint, value)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        items = [_value(kind, item, name) for kind, item in zip(get_args(hint), value, strict=True)]
        return tuple(items)
    kinds = get_args(hint) if get_origin(hint) in (types.UnionType,) else (hint,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected {' or '.join(k.__name__ for k in kinds)}")
    return value
