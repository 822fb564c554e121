"""Cameras that are known beforehand and kept as they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class KnownCameras:
    """Whatever is known, by the photo's row; any subset of each."""

    world_from_camera: Mapping[int, Float[Tensor, "4 4"]] = field(default_factory=dict)
    """OpenCV axes. Two with different centres also fix the unit."""
    intrinsics: Mapping[int, Float[Tensor, "3 3"]] = field(default_factory=dict)
    """In pixels, the corner of the first at (0, 0)."""
    distortion: Mapping[int, Float[Tensor, "6"]] = field(default_factory=dict)
    """k1, k2, k3, k4, p1, p2 of those whose intrinsics are known."""
