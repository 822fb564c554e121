"""Folders of COLMAP scenes: a model in `sparse/0`, `sparse` or the like, photos in `images`.

Formats: colmap.github.io/format.html. Of a dense workspace (`image_undistorter`, then
`patch_match_stereo`) the depth is `stereo/depth_maps/NAME.geometric.bin`, z in units of the model.
How far away things are is told by the model's points where there are observations.
"""

from collections.abc import Iterator, Set
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.data.layouts.layout import Layout, Where
from fm3d_plugins.data.scenes import CapturedScene, DepthFile
from fm3d_plugins.files import is_file
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.io.colmap import read_colmap
from fm3d_plugins.io.posed_scenes import colmap_model
from fm3d_plugins.io.raw_depth import read_colmap_depth
from fm3d_plugins.scene import SceneGeometry

_PHOTOS = "images"


def _find(folder: Path, names: Set[str]) -> list[Path]:
    has_model = names & {"sparse", "colmap", "images.bin", "images.txt"}
    return [folder] if has_model and colmap_model(folder, tell=False) else []


def read_colmap_scene(folder: Path, where: Where) -> Iterator[CapturedScene]:
    """The largest model of a folder."""
    model = colmap_model(folder, tell=False)
    if model is None:
        raise FileNotFoundError(f"{folder} holds no COLMAP model. Expected one in sparse/0.")
    scene = read_colmap(model)
    photos = [folder / _PHOTOS / name for name in scene.names]
    maps = [folder / "stereo" / "depth_maps" / f"{name}.geometric.bin" for name in scene.names]
    depths = tuple(DepthFile(path, read_colmap_depth) if is_file(path) else None for path in maps)
    chosen, downscale = where.scaled(photos, scene.image_sizes.double())
    yield CapturedScene(
        name=where.scene_name(folder),
        photos=chosen,
        world_from_camera=scene.world_from_camera,
        intrinsics=scene.intrinsics,
        source=model,
        sizes=scene.image_sizes.double(),
        downscale=downscale,
        distortion=scene.distortion if bool(scene.distortion.any()) else None,
        depths=depths if any(depths) else (),
        typical_depth=_median_depths(scene),
    )


def _median_depths(scene: SceneGeometry) -> Float[Tensor, " view"] | None:
    """Of the points that each view sees; none where some view sees none."""
    tracks = scene.tracks
    if tracks is None:
        return None
    camera_from_world = invert(scene.world_from_camera)[tracks.view_index.long()]
    points = scene.points[tracks.point_index.long(), None]
    z = transform_points(camera_from_world, points)[:, 0, 2]
    each = [z[tracks.view_index == view] for view in range(len(scene))]
    if not all(len(depths) and float(depths.median()) > 0 for depths in each):
        return None
    return torch.stack([depths.median() for depths in each])


COLMAP = Layout("COLMAP", _find, read_colmap_scene)
