"""Depth and confidence maps of a scene as one .npy file per photo, each over exactly its photo."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.scene import SceneGeometry

NERFSTUDIO_UNIT = 1e-3
"""Scene units per unit of a depth file, as `nerfstudio-data` takes it unless told otherwise."""


@dataclass(frozen=True)
class DepthMapFiles:
    """Where the maps of each view are, by the name of its photo. Arrays of [rows, columns]."""

    depths: Mapping[str, Path]
    """z-depth; 0 where it is unknown."""
    confidences: Mapping[str, Path]
    """In [0, 1]."""


def write_depth_maps(scene: SceneGeometry, folder: Path, *, unit: float = 1.0) -> DepthMapFiles:
    """Write depth/<photo>.npy and depth_confidence/<photo>.npy; files that exist are kept.

    Maps keep the estimator's resolution, but cover exactly their photo: readers stretch a map over
    it. Depth is in half precision where the scene's is and the unit is 1, else in single.

    Args:
        scene: With depth.
        unit: Scene units per unit of the depth files.

    Raises:
        ValueError: The scene has no depth.
    """
    if scene.depth is None:
        raise ValueError(
            "Depth maps of a scene without depth were to be written. Expected an estimator that "
            "gives depth. Choose one, or leave the maps out."
        )
    depths, confidences = {}, {}
    for view, name in enumerate(scene.names):
        depths[name] = folder / "depth" / f"{name}.npy"
        confidences[name] = folder / "depth_confidence" / f"{name}.npy"
        if depths[name].exists() and confidences[name].exists():
            continue
        width, height = scene.image_sizes[view].tolist()
        shape = scene.depth.frame_shape(view, (width, height))
        depth, confidence = scene.depth.in_photo_frame(view, (width, height), shape)
        write_map(depths[name], depth if unit == 1.0 else depth.float() / unit)
        write_map(confidences[name], confidence)
    return DepthMapFiles(depths, confidences)


def write_map(path: Path, values: Float[Tensor, "rows columns"]) -> None:
    """Write one .npy file, atomically, in half precision where the values are."""
    values = values if values.dtype == torch.float16 else values.float()
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, values.detach().cpu().numpy())


def depth_digest(scene: SceneGeometry) -> str:
    """A hash of all that `write_depth_maps` depends on, to tell estimates of the same photos apart.

    The same photos and options can give other depths: on another device, or made anew.
    """
    assert scene.depth is not None
    total = hashlib.blake2b(digest_size=16)
    total.update("\0".join(scene.names).encode())
    for tensor in (
        scene.image_sizes,
        scene.depth.depth,
        scene.depth.confidence,
        scene.depth.map_from_photo.scale,
        scene.depth.map_from_photo.offset,
    ):
        total.update(f"{list(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()
