"""`SceneGeometry`: what an estimator hands to a dataparser, a file or another estimator."""

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fm3d_plugins.errors import listed
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.view_depth import ViewDepth

FORMAT = "fm3d-scene-3"

SCALES = ("metric", "relative", "latent")

LARGEST_SIDE, LARGEST_FOCAL = 1_000_000, 1e9
"""Pixels; no camera has more. A principal point and coefficients of a lens stay below, too."""

LEAST_FOCAL = 1e-3
"""Share of the longer side; no pinhole sees 179.9 degrees."""

FARTHEST = 1e15
"""Scene units from the origin; squares of more have no room in single precision."""

_ROWS = {
    "image_sizes": ((2,), "iu"),
    "world_from_camera": ((4, 4), "f"),
    "intrinsics": ((3, 3), "f"),
    "distortion": ((6,), "f"),
    "camera_index": ((), "iu"),
    "camera_confidence": ((), "f"),
    "points": ((3,), "f"),
    "point_colors": ((3,), "u"),
    "point_confidence": ((), "f"),
    "depth": (None, "f"),
    "point_index": ((), "iu"),
    "view_index": ((), "iu"),
    "pixels": ((2,), "f"),
}
"""Shape of each row, and kind of number as NumPy names it: integer, unsigned (8 bits), float."""

_ROUNDING, _ROUNDING_OF_ONES = 1e-2, 1e-6
"""Of rotations in single precision, with room; and of a pose's last row, which is 0, 0, 0, 1."""

_DAMAGES = (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError)
"""What a file may raise that was written by another program, or by none."""


@dataclass(frozen=True)
class Tracks:
    """Which pixel of which view sees which point, one row per observation."""

    point_index: Int[Tensor, " observation"]
    """Row in `SceneGeometry.points`."""
    view_index: Int[Tensor, " observation"]
    """Row in `SceneGeometry.names`."""
    pixels: Float[Tensor, "observation 2"]
    """x, y in pixels of the upright photo; the centre of the first pixel is (0.5, 0.5)."""

    def __repr__(self) -> str:
        """What there is, in one line."""
        return f"Tracks({len(self.view_index)} observations)"


@dataclass(frozen=True)
class SceneGeometry:
    """Cameras and points of one scene. CPU tensors; OpenCV cameras; upright photos' pixels.

    Only views with a camera are listed; photos that got none are named in `unregistered`.
    """

    names: tuple[str, ...]
    """File name of each view's photo, or its path below the photos' folder, with forward slashes.
    Outputs are named by it: it leads nowhere else and is the only one."""
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
    depth: ViewDepth | None = None
    """What each view sees how far away, where the estimator tells."""
    scale: Literal["metric", "relative", "latent"] = "relative"
    """Metres; an arbitrary unit; or a space that only the network that made it understands."""
    camera_confidence: Float[Tensor, " view"] | None = None
    """In (0, 1], where it is known: 1 / (1 + s²) for a pose whose standard deviation moves its
    photo by s pixels."""
    unregistered: tuple[str, ...] = ()
    """Photos for which no camera was found."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Estimator, options, versions, seconds: JSON values only."""

    def __post_init__(self) -> None:
        """Refuse what no later stage could use.

        Raises:
            ValueError: A name leads out of its folder, is empty or there twice; counts, shapes or
                types disagree; a photo has no pixel; a camera or point is not finite, or a focal
                length is not > 0; tracks name points or views that are not there.
        """
        _expect_safe_names((*self.names, *self.unregistered))
        views, points = len(self.names), len(self.points)
        cameras = ("image_sizes", "world_from_camera", "intrinsics", "distortion", "camera_index")
        for name in cameras:
            _expect_rows(name, getattr(self, name), views)
        for name in ("points", "point_colors", "point_confidence"):
            _expect_rows(name, getattr(self, name), points)
        if self.camera_confidence is not None:
            _expect_rows("camera_confidence", self.camera_confidence, views)
        if self.depth is not None:
            _expect_rows("depth", self.depth.depth, views)
        if self.tracks is not None:
            _expect_usable_tracks(self.tracks, views, points)
        _expect_usable_cameras(self)
        _expect_usable_points(self)
        if self.scale not in SCALES:
            raise ValueError(f"SceneGeometry.scale is {self.scale!r}; expected one of {SCALES}.")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        """What there is, in one line; the tensors themselves are attributes."""
        parts = [
            f"{len(self)} views",
            f"{len(self.camera_index.unique())} cameras",
            f"{len(self.points)} points",
            f"scale {self.scale}",
        ]
        if self.depth is not None:
            parts.append(f"depth {list(self.depth.depth.shape)}")
        if self.tracks is not None:
            parts.append(f"{len(self.tracks.view_index)} observations")
        if self.unregistered:
            parts.append(f"{len(self.unregistered)} photos without a camera")
        if isinstance(self.provenance.get("estimator"), str):
            parts.append(f"by {self.provenance['estimator']}")
        return f"SceneGeometry({', '.join(parts)})"

    def seen_from(self, views: Iterable[int]) -> "SceneGeometry":
        """The scene with only the points that one of these views sees; all if it does not tell."""
        if self.tracks is None:
            return self
        chosen = torch.isin(self.tracks.view_index, torch.tensor(list(views), dtype=torch.long))
        is_seen = torch.zeros(len(self.points), dtype=torch.bool)
        is_seen[self.tracks.point_index[chosen]] = True
        kept = is_seen[self.tracks.point_index]
        new_row = is_seen.cumsum(0) - 1
        return replace(
            self,
            points=self.points[is_seen],
            point_colors=self.point_colors[is_seen],
            point_confidence=self.point_confidence[is_seen],
            tracks=Tracks(
                new_row[self.tracks.point_index[kept]],
                self.tracks.view_index[kept],
                self.tracks.pixels[kept],
            ),
        )

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        from safetensors.torch import save_file

        from fm3d_plugins.atomic import atomic_write
        from fm3d_plugins.disk_space import require_room

        tensors: dict[str, Tensor] = {}
        _collect(self, "", tensors)
        header = {
            "format": FORMAT,
            "names": self.names,
            "unregistered": self.unregistered,
            "scale": self.scale,
            "provenance": dict(self.provenance),
        }
        needed = sum(each.numel() * each.element_size() for each in tensors.values())
        require_room(path.parent, needed, path.name)
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, {"scene": json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> "SceneGeometry":
        """Read what `save` wrote.

        Raises:
            ValueError: The file is not a scene of this format.
            OSError: There is no such file, or it is a pipe or a device.
        """
        from safetensors import SafetensorError, safe_open

        from fm3d_plugins.files import parse_json, require_regular

        require_regular(path)
        try:
            with safe_open(path, framework="pt") as file:
                header = parse_json((file.metadata() or {}).get("scene", "{}"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if header.get("format") == FORMAT:
                return cls._of(header, tensors)
        except (SafetensorError, OSError, *_DAMAGES) as error:
            raise ValueError(
                f"{path} cannot be read as a scene: {error}. Expected a file written by "
                "SceneGeometry.save. Delete it, and it is computed anew."
            ) from error
        raise ValueError(
            f"{path} has the format {header.get('format')!r}, expected {FORMAT!r}. "
            "Delete it, and it is computed anew."
        )

    @classmethod
    def _of(cls, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> "SceneGeometry":
        tracked, placed = _taken(tensors, "tracks."), _taken(tensors, "depth.map_from_photo.")
        depth = _taken(tensors, "depth.")
        for name in ("names", "unregistered"):
            if not isinstance(header[name], list):
                raise ValueError(f"{name} is no list")
        if not isinstance(header["provenance"], dict):
            raise ValueError("provenance is no object")
        scene = cls(
            names=tuple(header["names"]),
            unregistered=tuple(header["unregistered"]),
            scale=header["scale"],
            provenance=header["provenance"],
            tracks=Tracks(**tracked) if tracked else None,
            depth=ViewDepth(**depth, map_from_photo=PixelMap(**placed)) if depth else None,
            **tensors,
        )
        _expect_estimate(scene)
        return scene


def _collect(part: Any, prefix: str, tensors: dict[str, Tensor]) -> None:
    """Every tensor of a dataclass and of those within it, by its path."""
    for entry in fields(part):
        value = getattr(part, entry.name)
        if isinstance(value, Tensor):
            tensors[prefix + entry.name] = value.contiguous()
        elif is_dataclass(value):
            _collect(value, f"{prefix}{entry.name}.", tensors)


def _expect_estimate(scene: SceneGeometry) -> None:
    """What every estimate is besides, and a file need not be: rigid, and of known confidence."""
    rotation = scene.world_from_camera[:, :3, :3].double()
    off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs()
    bottom = scene.world_from_camera[:, 3].double() - torch.tensor([0.0, 0, 0, 1])
    if bool((off > _ROUNDING).any() | (bottom.abs() > _ROUNDING_OF_ONES).any()):
        raise ValueError("poses are not rigid")
    if bool((rotation.det() < 0).any()):
        raise ValueError("poses are mirrored")
    for confidence in (scene.point_confidence, scene.camera_confidence):
        if confidence is not None and not bool(((confidence >= 0) & (confidence <= 1)).all()):
            raise ValueError("confidences lie outside 0 to 1")


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take out the tensors of one part of a scene, by their names within it."""
    return {
        key.removeprefix(prefix): tensors.pop(key)
        for key in list(tensors)
        if key.startswith(prefix)
    }


def _expect_safe_names(names: tuple[str, ...]) -> None:
    """Refuse names by which something could be written outside of the folder that is meant."""
    faults = [f"{name!r} {fault}" for name in names if (fault := _fault_of_name(name))]
    if not faults:
        counts = Counter(posixpath.normpath(name) for name in names)
        faults = [f"{name!r} is there {count} times" for name, count in counts.items() if count > 1]
    if faults:
        raise ValueError(
            f"{len(faults)} of {len(names)} names of photos cannot be used: {listed(faults)}. "
            "Expected a file name or a path below one folder for each photo, all of them "
            "different. Rename the photos, or correct the file that names them."
        )


def _fault_of_name(name: str) -> str | None:
    if not isinstance(name, str):
        return "is no text"
    if "\0" in name:
        return "holds a NUL character"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return "holds characters that no file's name has"
    if posixpath.isabs(name) or PurePath(name).is_absolute() or PurePath(name).drive:
        return "is an absolute path"
    # Whatever the system: what is written here may be read on another.
    if ".." in re.split(r"[/\\]", name):
        return "leads out of its folder by `..`"
    return "is empty" if posixpath.normpath(name) == "." else None


def _expect_rows(name: str, tensor: Tensor, rows: int) -> None:
    shape, kinds = _ROWS[name]
    kind = "f" if tensor.is_floating_point() else "u" if tensor.dtype == torch.uint8 else "i"
    is_shaped = tensor.ndim > 0 and shape in (None, tuple(tensor.shape[1:]))
    if not is_shaped or kind not in kinds or tensor.dtype == torch.bool or tensor.is_complex():
        raise ValueError(
            f"SceneGeometry.{name} is {tensor.dtype} of shape {list(tensor.shape)}; expected rows "
            f"of {'any shape' if shape is None else list(shape)}, of kind {kinds}. Build it anew."
        )
    if len(tensor) != rows:
        raise ValueError(
            f"SceneGeometry.{name} has {len(tensor)} rows, expected {rows} (one per "
            f"{'point' if name.startswith('point') else 'view'}). Build it from matching lists."
        )


def _expect_usable_tracks(tracks: Tracks, views: int, points: int) -> None:
    for name in ("point_index", "view_index", "pixels"):
        _expect_rows(name, getattr(tracks, name), len(tracks.pixels))
    for name, index, count in (
        ("points", tracks.point_index, points),
        ("views", tracks.view_index, views),
    ):
        wrong = (index < 0) | (index >= count)
        if bool(wrong.any()):
            raise ValueError(
                f"{int(wrong.sum())} of {len(index)} observations are of {name} that are not there "
                f"(such as {int(index[wrong][0])} of {count}). Build the tracks with the scene."
            )
    if not bool((tracks.pixels.abs() <= FARTHEST).all()):
        raise ValueError(
            f"Observations lie at pixels that are not finite, or above {FARTHEST:g}. Drop them."
        )


def _expect_usable_points(scene: SceneGeometry) -> None:
    for name in ("points", "point_confidence"):
        usable = getattr(scene, name).abs() <= FARTHEST  # Not a number fails, too.
        if not bool(usable.all()):
            raise ValueError(
                f"SceneGeometry.{name} has {int((~usable).sum())} of {usable.numel()} numbers that "
                f"are not finite, or above {FARTHEST:g}. Drop these points."
            )


def _expect_usable_cameras(scene: SceneGeometry) -> None:
    lens = torch.cat([scene.intrinsics.flatten(1), scene.distortion], dim=1)
    finite = lens.isfinite().all(1) & scene.world_from_camera.isfinite().flatten(1).all(1)
    focal = scene.intrinsics[:, (0, 1), (0, 1)]
    longest = scene.image_sizes.amax(1, keepdim=True)
    for usable, what in (
        (finite, "a camera that is not finite"),
        (focal.gt(0).all(-1), "focal <= 0"),
        (focal.lt(LARGEST_FOCAL).all(-1), f"focal >= {LARGEST_FOCAL:g}"),
        (
            ((scene.image_sizes > 0) & (scene.image_sizes <= LARGEST_SIDE)).all(-1),
            f"a size that is not of 1 to {LARGEST_SIDE} pixels",
        ),
        (
            (focal >= LEAST_FOCAL * longest).all(-1),
            f"focal < {LEAST_FOCAL:g} of the longer side",
        ),
        (
            (lens.abs() <= LARGEST_FOCAL).all(-1),
            f"a principal point or a lens with numbers above {LARGEST_FOCAL:g}",
        ),
        (
            (scene.world_from_camera.abs() <= FARTHEST).flatten(1).all(-1),
            f"a pose with numbers above {FARTHEST:g}",
        ),
    ):
        if not bool(torch.all(usable)):
            wrong = [
                name for name, good in zip(scene.names, usable.tolist(), strict=True) if not good
            ]
            raise ValueError(
                f"{len(wrong)} of {len(scene)} views have {what}: {listed(wrong)}. "
                "Expected finite poses, positive focal lengths and sizes. Drop these views or "
                "estimate them again."
            )
