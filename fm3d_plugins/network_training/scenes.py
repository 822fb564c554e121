"""Scenes of a batch one by one, as losses see them that are no means over pixels."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def each_scene(batch: T) -> Iterator[T]:
    """A dataclass of each scene's part of its tensors, whose first axis is the scenes'; it stays.

    Lists are those of such tensors. What is none stays none.
    """
    values: dict[str, Any] = {each.name: getattr(batch, each.name) for each in fields(batch)}  # type: ignore[arg-type]
    count = next(len(value) for value in values.values() if isinstance(value, Tensor))
    for scene in range(count):
        own = {name: _part(value, slice(scene, scene + 1)) for name, value in values.items()}
        yield replace(batch, **own)  # type: ignore[type-var]


def _part(value: Any, scene: slice) -> Any:
    if isinstance(value, list):
        return [_part(each, scene) for each in value]
    return value[scene] if isinstance(value, Tensor) else value
