"""`SceneGeometry` from and to nerfstudio's transforms.json.

Its poses are `world_from_camera` with OpenGL axes. The points of `ply_file_path` lie in the same
world. Tracks have no place in the file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.files import is_file, read_json
from fm3d_plugins.geometry.cameras import (
    equal_cameras,
    intrinsics_matrix,
    opencv_from_opengl,
    opengl_from_opencv,
)
from fm3d_plugins.geometry.lenses import Lens
from fm3d_plugins.io.ply import PointCloud, read_ply
from fm3d_plugins.io.scene_checks import (
    naming_its_path,
    require_exportable,
    require_fine_positions,
    require_photos,
)
from fm3d_plugins.io.transforms_fields import (
    DISTORTION,
    PINHOLE,
    REMEDY,
    SIZE,
    cameras_of,
    lenses_of,
    load,
    names_of,
    require_parsed_by_nerfstudio,
    require_perspective,
    require_usable_rest,
    rigid_matrices,
)
from fm3d_plugins.scene import SceneGeometry

MOST_CAMERAS = 1 << 31
GREY = 128
"""Colour of points whose file tells none."""


@dataclass(frozen=True)
class FrameFiles:
    """Where a transforms.json says that the files of one view are."""

    photo: Path
    mask: Path | None
    depth: Path | None


def write_transforms(
    scene: SceneGeometry,
    path: Path,
    *,
    file_paths: Mapping[str, str] | None = None,
    mask_paths: Mapping[str, str] | None = None,
    depth_file_paths: Mapping[str, str] | None = None,
    depth_confidence_paths: Mapping[str, str] | None = None,
    ply_file_path: str | None = None,
    allow_latent: bool = False,
) -> None:
    """Write transforms.json, atomically.

    Intrinsics stand once at the top if all views share one camera, otherwise in every frame.

    Args:
        file_paths: Each photo's path by its name, relative to the file or absolute, with forward
            slashes; `images/<name>` if not given.
        mask_paths: Likewise the masks, of all photos or of none.
        depth_file_paths: Likewise the depth maps.
        depth_confidence_paths: Likewise their confidences; nerfstudio passes over them.
        ply_file_path: The point cloud that nerfstudio starts from, relative to the file; write it
            first, with `write_ply`.
        allow_latent: Write a scene whose space only a network understands.

    Raises:
        FileNotFoundError: The point cloud has not been written.
        ValueError: Skew, equal names, a latent scene, or paths for some views only.
    """
    require_exportable(scene, path, allow_latent)
    files = {
        "file_path": file_paths or {name: f"images/{name}" for name in scene.names},
        "mask_path": mask_paths,
        "depth_file_path": depth_file_paths,
        "depth_confidence_path": depth_confidence_paths,
    }
    _require_complete(scene, path, files, ply_file_path)
    content = _content(scene, files, ply_file_path)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


@naming_its_path
def read_transforms(
    path: Path, *, require_images: bool = True, with_points: bool = True
) -> SceneGeometry:
    """Read a transforms.json, in float64, with the points of its `ply_file_path` if it has one.

    Views are named by their path below the folder that all photos have in common. Points without
    colour are grey, points without confidence have 1.

    Args:
        path: The file, or the folder that holds it.
        require_images: Require every photo to exist at the size that the file states.
        with_points: Read the point cloud; without, it may be absent.

    Raises:
        FileNotFoundError: The file, its point cloud, or photos are absent.
        ValueError: A field is missing, empty, not finite, or not what it should be.
    """
    path = path / "transforms.json" if path.is_dir() else path
    meta, frames = load(path)
    lenses = lenses_of(path, meta, frames)
    scene = _scene(path, meta, frames, lenses, require_images, with_points)
    require_perspective(path, lenses, frames)
    return scene


def _scene(
    path: Path,
    meta: dict[str, Any],
    frames: list[dict[str, Any]],
    lenses: list[Lens],
    require_images: bool,
    with_points: bool = True,
) -> SceneGeometry:
    """What the file says, whatever its lenses; coefficients are those of each frame's lens."""
    names = names_of(path, frames)
    cameras = cameras_of(path, meta, frames, lenses)
    require_usable_rest(path, meta, frames)
    if require_images:
        photos = [path.parent / frame["file_path"] for frame in frames]
        sizes = [(int(width), int(height)) for width, height in cameras[:, :2].tolist()]
        require_photos(dict(zip(names, photos, strict=True)), sizes, path)
    matrices = rigid_matrices(path, frames)
    cloud = _points(path, meta if with_points else {})
    points = cloud.points.double()
    return SceneGeometry(
        names=names,
        image_sizes=cameras[:, :2].long(),
        world_from_camera=opencv_from_opengl(matrices),
        intrinsics=intrinsics_matrix(*cameras[:, 2:6].unbind(-1)),
        distortion=cameras[:, 6:],
        camera_index=_camera_index(path, frames, cameras),
        points=points,
        point_colors=points.new_full(points.shape, GREY, dtype=torch.uint8)
        if cloud.colors is None
        else cloud.colors,
        point_confidence=points.new_ones(len(points))
        if cloud.confidence is None
        else cloud.confidence,
        **_own_fields(path, meta),
    )


def estimator_of(path: Path) -> str | None:
    """Name of the estimator that found the cameras of a file of `write_transforms`.

    None of other files; they are not checked here.

    Args:
        path: The file, or the folder that may hold it.
    """
    path = path / "transforms.json" if path.is_dir() else path
    if path.name != "transforms.json" or not path.is_file():
        return None
    try:
        match read_json(path):
            case {"fm3d": {"provenance": {"estimator": str(name)}}}:
                return name
    except (OSError, ValueError):
        pass
    return None


@naming_its_path
def check_transforms(path: Path, *, require_images: bool = True) -> None:
    """Refuse what `read_transforms` would refuse, but take every lens that nerfstudio knows; and
    what its parser does not read.

    Raises:
        FileNotFoundError, ValueError: As `read_transforms`; positions far from the origin, a byte
            order mark, masks or depth maps of some frames only.
    """
    meta, frames = load(path)
    scene = _scene(path, meta, frames, lenses_of(path, meta, frames), require_images)
    require_fine_positions(path, scene.world_from_camera[:, :3, 3])
    require_parsed_by_nerfstudio(path, frames)


def read_frame_files(path: Path, *, require_files: bool = True) -> dict[str, FrameFiles]:
    """The files of each view, by the names that `read_transforms` gives the views.

    Args:
        require_files: Require all of them to exist.

    Raises:
        FileNotFoundError: The file, or files that it lists, are absent.
        ValueError: A path is missing or empty.
    """
    path = path / "transforms.json" if path.is_dir() else path
    meta, frames = load(path)
    found: dict[str, FrameFiles] = {}
    names = names_of(path, frames)
    require_usable_rest(path, meta, frames)
    for name, frame in zip(names, frames, strict=True):
        photo, mask, depth = (
            path.parent / frame[key] if frame.get(key) else None
            for key in ("file_path", "mask_path", "depth_file_path")
        )
        found[name] = FrameFiles(photo or path.parent, mask, depth)
    if not require_files:
        return found
    listed = [file for files in found.values() for file in (files.photo, files.mask, files.depth)]
    missing = [str(file) for file in listed if file is not None and not is_file(file)]
    if missing:
        raise FileNotFoundError(
            f"{path} lists {len(missing)} files that are absent: {', '.join(missing)}. Expected "
            "photos, masks and depth maps relative to the file. Restore them or drop the frames."
        )
    return found


def _content(
    scene: SceneGeometry,
    files: Mapping[str, Mapping[str, str] | None],
    ply_file_path: str | None,
) -> dict[str, Any]:
    """The file's JSON object."""
    poses = opengl_from_opencv(scene.world_from_camera.double()) + 0.0  # no minus zeros
    is_shared = bool((scene.camera_index == scene.camera_index[:1]).all())
    content: dict[str, Any] = {"camera_model": "OPENCV"}
    if is_shared:
        content |= _camera_fields(scene, 0)
    # Stated because nerfstudio assumes another one where a COLMAP model lies beside the file.
    content["applied_transform"] = torch.eye(4)[:3].tolist()
    if ply_file_path is not None:
        content["ply_file_path"] = ply_file_path
    content["fm3d"] = {
        "scale": scene.scale,
        "unregistered": scene.unregistered,
        "provenance": dict(scene.provenance),
    }
    content["frames"] = [
        {key: paths[name] for key, paths in files.items() if paths}
        | ({} if is_shared else _camera_fields(scene, view))
        | {"camera_index": int(scene.camera_index[view]), "transform_matrix": matrix}
        for view, (name, matrix) in enumerate(zip(scene.names, poses.tolist(), strict=True))
    ]
    return content


def _require_complete(
    scene: SceneGeometry,
    path: Path,
    files: Mapping[str, Mapping[str, str] | None],
    ply_file_path: str | None,
) -> None:
    """Raise where the file would name photos for some views only, or no written point cloud."""
    for key, paths in files.items():
        missing = [name for name in scene.names if paths is not None and name not in paths]
        if missing:
            raise ValueError(
                f"{key} is given for {len(paths or ())} photos but not for {', '.join(missing)}; "
                "expected it for all views or none. Give the rest or leave it out."
            )
    if ply_file_path is not None and not (path.parent / ply_file_path).is_file():
        raise FileNotFoundError(
            f"{path.parent / ply_file_path} is absent; expected the point cloud that {path.name} "
            "is to name. Write it first, with `write_ply`."
        )


def _camera_fields(scene: SceneGeometry, view: int) -> dict[str, Any]:
    """Size, intrinsics and distortion of one view by nerfstudio's names."""
    fx, _, cx, _, fy, cy, *_ = scene.intrinsics[view].double().flatten().tolist()
    numbers = (*scene.image_sizes[view].tolist(), fx, fy, cx, cy)
    distortion = scene.distortion[view].double().tolist()
    return dict(zip((*SIZE, *PINHOLE, *DISTORTION), (*numbers, *distortion), strict=True))


def _points(path: Path, meta: Mapping[str, Any]) -> PointCloud:
    """The point cloud that the file names; an empty one if it names none."""
    if not meta.get("ply_file_path"):
        return PointCloud(torch.empty(0, 3))
    ply_path = path.parent / str(meta["ply_file_path"])
    if not is_file(ply_path):
        raise FileNotFoundError(
            f"{path} names the point cloud {ply_path}, which is absent. Expected a PLY file. "
            "Restore it, or remove `ply_file_path` from the file."
        )
    return read_ply(ply_path)


def _camera_index(
    path: Path, frames: list[dict[str, Any]], cameras: Float[Tensor, "view number"]
) -> Int[Tensor, " view"]:
    """The file's own numbering if it has one; otherwise equal cameras count as one."""
    stated = [frame.get("camera_index") for frame in frames]
    numbers = [number for number in stated if isinstance(number, int)]
    if len(numbers) < len(frames):
        return equal_cameras(cameras)
    if not all(0 <= number < MOST_CAMERAS for number in numbers):
        raise ValueError(
            f"{path} has the camera_index {min(numbers)} to {max(numbers)}; expected numbers from "
            f"0 to {MOST_CAMERAS - 1}. {REMEDY}"
        )
    return torch.tensor(numbers)


def _own_fields(path: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Scale, unregistered photos and provenance, which only files of this package state."""
    ours = meta.get("fm3d", {"provenance": {"source": "transforms.json"}})
    scale = ours.get("scale", "relative") if isinstance(ours, dict) else ours
    unregistered, provenance = (
        ours.get(key, kind()) if isinstance(ours, dict) else kind()
        for key, kind in (("unregistered", list), ("provenance", dict))
    )
    if not isinstance(unregistered, list) or not isinstance(provenance, dict):
        raise ValueError(
            f"{path}: unregistered and provenance under `fm3d` are {unregistered!r:.80} and "
            f"{provenance!r:.80}; expected a list and an object. {REMEDY}"
        )
    if scale not in ("metric", "relative", "latent"):
        raise ValueError(
            f"{path}: scale is {scale!r} under `fm3d`; expected metric, relative or latent. "
            f"{REMEDY}"
        )
    return {
        "scale": scale,
        "unregistered": tuple(unregistered),
        "provenance": provenance,
    }
