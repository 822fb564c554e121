"""Sizes of networks as text, for checkpoints of other sizes than the published ones."""

import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from fm3d_plugins.files import naming_damage, parse_json

Sizes = TypeVar("Sizes")

LARGEST, DEEPEST = 1 << 20, 1000
"""Of widths and counts, and of blocks one after another: more than any network has."""

SIZES_EXPECTED = "Expected a checkpoint whose metadata, if any, tell its network's sizes."


TRAINED_WITH = "trained_with"
"""Entry of a safetensors file's metadata that holds `TrainedWith`."""


@dataclass(frozen=True)
class TrainedWith:
    """The images that weights of other sizes than the published ones were trained with."""

    image_size: int
    """Longer side of the largest, pixels."""
    num_views: int
    """Of a scene, seen together."""


def stored_text(path: Path, key: str) -> str | None:
    """An entry of a safetensors file's metadata; None for other files and without it.

    Raises:
        ValueError: The file is damaged.
    """
    if path.suffix != ".safetensors":
        return None
    from safetensors import safe_open

    with naming_damage(path, SIZES_EXPECTED), safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get(key)


def sizes_from_text(text: str, key: str, read: Callable[[dict[str, Any]], Sizes]) -> Sizes:
    """What a network's `to_text` wrote, back again.

    Args:
        key: The metadata's entry, for messages.
        read: Makes sizes of the JSON object.

    Raises:
        ValueError: The text is no JSON object, or names sizes that there are not.
    """
    try:
        content = parse_json(text)
        if not isinstance(content, dict):
            raise TypeError(f"it is {content!r}, no object")
        return read(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"The metadata {key!r} of the checkpoint cannot be used: {error}. Expected JSON with "
            "the network's sizes, as `to_text` in its module `configuration` writes it. Write it "
            "anew, or choose another checkpoint."
        ) from error


def stored_sizes(path: Path, key: str, kind: type[Sizes]) -> Sizes | None:
    """The dataclass of sizes that a safetensors file's metadata holds under a key, or none.

    Raises:
        ValueError: The file is damaged, or as `sizes_from_text`.
    """
    text = stored_text(path, key)
    if text is None:
        return None
    with naming_damage(path, SIZES_EXPECTED):
        return sizes_from_text(text, key, lambda values: kind(**checked_fields(kind, values)))


def to_text(sizes: Any) -> str:
    """A dataclass of sizes as `stored_sizes` reads it."""
    return json.dumps(asdict(sizes))


def checked_fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a dataclass of sizes from plain values, checked against its fields' types.

    Raises:
        KeyError: A value is of no field.
        TypeError: A value is of another type.
        ValueError: A value is one that no network has.
    """
    hints = get_type_hints(kind)
    unknown = set(values) - {entry.name for entry in fields(kind)}
    if unknown:
        raise KeyError(f"{kind.__name__} has no size {sorted(unknown)[0]!r}")
    return {name: _value(hints[name], value, name) for name, value in values.items()}


def _value(hint: Any, value: Any, name: str) -> Any:
    if is_dataclass(hint):
        return hint(**checked_fields(hint, value))  # type: ignore[operator, arg-type]
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(get_args(hint)):
            raise TypeError(f"{name} is {value!r}, expected {len(get_args(hint))} values")
        items = [_value(kind, item, name) for kind, item in zip(get_args(hint), value, strict=True)]
        return tuple(items)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise TypeError(f"{name} is {value!r}, expected one of {', '.join(get_args(hint))}")
        return value
    kinds = get_args(hint) if get_origin(hint) is types.UnionType else (hint,)
    allowed = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, allowed) or isinstance(value, bool) != (hint is bool):
        raise TypeError(f"{name} is {value!r}, expected {' or '.join(k.__name__ for k in kinds)}")
    most = DEEPEST if "depth" in name else LARGEST
    if kinds == (int,) and not 0 <= value <= most:
        raise ValueError(f"{name} is {value}, expected a number from 0 to {most}")
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{name} is not a number")
    return value
