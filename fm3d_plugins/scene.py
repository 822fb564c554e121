"""`SceneGeometry`: what an estimator hands to a dataparser, a file or another estimator."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

FORMAT = "fm3d-scene-1"


@dataclass(frozen=True)
class Tracks:
    """Which pixel of which view sees which point, one row per observation."""

    point_index: Int[Tensor, " observation"]
    """Row in `SceneGeometry.points`."""
    view_index: Int[Tensor, " observation"]
    """Row in `SceneGeometry.names`."""
    pixels: Float[Tensor, "observation 2"]
    """x, y in pixels of the upright photo; the centre of the first pixel is (0.5, 0.5)."""


@dataclass(frozen=True)
class SceneGeometry:
    """Cameras and points of one scene. CPU tensors; OpenCV cameras; upright photos' pixels.

    Only views with a camera are listed; photos that got none are named in `unregistered`.
    """

    names: tuple[str, ...]
    """File name of each view's photo."""
    image_sizes: Int[Tensor, "view 2"]
    """Width and height of each upright photo, pixels."""
    world_from_camera: Float[Tensor, "view 4 4"]
    """Rigid transforms, x right, y down, z forward."""
    intrinsics: Float[Tensor, "view 3 3"]
    """Pinhole matrices in pixels."""
    distortion: Float[Tensor, "view 6"]
    """k1, k2, k3, k4, p1, p2 of the OpenCV model in nerfstudio's order; zeros for a pinhole."""
    camera_index: Int[Tensor, " view"]
    """Views with equal index share one physical camera, that is intrinsics and distortion."""
    points: Float[Tensor, "point 3"]
    """World frame."""
    point_colors: UInt8[Tensor, "point 3"]
    point_confidence: Float[Tensor, " point"]
    """In [0, 1]; higher is surer. What it measures is the estimator's to say."""
    tracks: Tracks | None = None
    scale: Literal["metric", "relative", "latent"] = "relative"
    """Metres; an arbitrary unit; or a space that only the network that made it understands."""
    unregistered: tuple[str, ...] = ()
    """Photos for which no camera was found."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Estimator, options, versions, seconds: JSON values only."""

    def __post_init__(self) -> None:
        """Refuse what no later stage could use.

        Raises:
            ValueError: Counts disagree, or a camera is not finite, or a focal length is not > 0.
        """
        views, points = len(self.names), len(self.points)
        for name in ("image_sizes", "world_from_camera", "intrinsics", "distortion"):
            _expect_rows(name, getattr(self, name), views)
        _expect_rows("camera_index", self.camera_index, views)
        _expect_rows("point_colors", self.point_colors, points)
        _expect_rows("point_confidence", self.point_confidence, points)
        _expect_usable_cameras(self)

    def __len__(self) -> int:
        return len(self.names)

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        from safetensors.torch import save

        from fm3d_plugins.io.atomic import atomic_write

        tensors = {
            entry.name: getattr(self, entry.name).contiguous()
            for entry in fields(self)
            if isinstance(getattr(self, entry.name), Tensor)
        }
        if self.tracks is not None:
            for entry in fields(self.tracks):
                tensors[f"tracks.{entry.name}"] = getattr(self.tracks, entry.name).contiguous()
        header = {
            "format": FORMAT,
            "names": self.names,
            "unregistered": self.unregistered,
            "scale": self.scale,
            "provenance": dict(self.provenance),
        }
        with atomic_write(path) as temporary:
            temporary.write_bytes(save(tensors, {"scene": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path) -> "SceneGeometry":
        """Read what `save` wrote.

        Raises:
            ValueError: The file is not a scene of this format.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("scene", "{}"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} cannot be read as a scene: {error}. Expected a file written by "
                "SceneGeometry.save. Delete it, and it is computed anew."
            ) from error
        if header.get("format") != FORMAT:
            raise ValueError(
                f"{path} has the format {header.get('format')!r}, expected {FORMAT!r}. "
                "Delete it, and it is computed anew."
            )
        tracked = {key[7:]: tensors.pop(key) for key in list(tensors) if key.startswith("tracks.")}
        return cls(
            names=tuple(header["names"]),
            unregistered=tuple(header["unregistered"]),
            scale=header["scale"],
            provenance=header["provenance"],
            tracks=Tracks(**tracked) if tracked else None,
            **tensors,
        )


def _expect_rows(name: str, tensor: Tensor, rows: int) -> None:
    if len(tensor) != rows:
        raise ValueError(
            f"SceneGeometry.{name} has {len(tensor)} rows, expected {rows} (one per "
            f"{'point' if name.startswith('point') else 'view'}). Build it from matching lists."
        )


def _expect_usable_cameras(scene: SceneGeometry) -> None:
    finite = (
        scene.world_from_camera.isfinite().all(-1).all(-1)
        & scene.intrinsics.isfinite().all(-1).all(-1)
        & scene.distortion.isfinite().all(-1)
    )
    focal = scene.intrinsics[:, (0, 1), (0, 1)]
    for usable, what in (
        (finite, "a camera that is not finite"),
        (focal.gt(0).all(-1), "focal <= 0"),
    ):
        if not bool(torch.all(usable)):
            wrong = [
                name for name, good in zip(scene.names, usable.tolist(), strict=True) if not good
            ]
            raise ValueError(
                f"{len(wrong)} of {len(scene)} views have {what}: {', '.join(wrong[:5])}. "
                "Expected finite poses and positive focal lengths. Drop these views or "
                "estimate them again."
            )
