"""The points of a posed scene: read by our own readers, and whole before anyone uses them."""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from nerfstudio.data.dataparsers.base_dataparser import (
    DataParserConfig,
    DataparserOutputs,
)
from nerfstudio.data.dataparsers.blender_dataparser import Blender
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from nerfstudio.data.dataparsers.scannet_dataparser import ScanNet
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.geometry.alignment import Similarity, align_cameras
from fm3d_plugins.geometry.poses import (
    invert,
    pose_from_rotation_translation,
    rotation_from_quaternion_wxyz,
    so3_log,
)
from fm3d_plugins.io.colmap_files import ColmapModel, largest_model, read_model, read_points
from fm3d_plugins.io.ply import read_ply
from fm3d_plugins.io.transforms import GREY
from fm3d_plugins.nerfstudio_cameras import world_from_cameras
from fm3d_plugins.parsed_scenes import FisheyeColmapParser
from fm3d_plugins.progress import say

POINTS, COLORS = "points3D_xyz", "points3D_rgb"
"""Keys of a dataparser's metadata: [N, 3] in the frame of the cameras, and [N, 3] uint8."""


COLMAP_FOLDERS = ("colmap/sparse/0", "sparse/0", "colmap")
"""Where a scene in nerfstudio's format may have a COLMAP model."""

MOST_CAMERA_SHIFT, MOST_CAMERA_TURN = 0.01, 1.0
"""Share of the cameras' extent, and degrees, by which a model's cameras may be off a scene's: its
points then are too."""

NO_EXTENT = 1e6
"""Scale from which positions differ by rounding alone."""


def use_own_parser(config: DataParserConfig) -> None:
    """Put this package's parser in the place of nerfstudio's, which it extends.

    It reads points by this package's readers and takes all fisheye lenses. Open3D, which
    nerfstudio 1.1.5 asks, turns float colours in [0, 1] to black and gives no rows for none;
    nerfstudio's COLMAP reader fails where there are no points.
    """
    config._target = _OWN.get(config._target, config._target)


def settle_points(metadata: dict[str, Any]) -> None:
    """Bring a dataparser's points into one form, in place: [N, 3], finite, with colours in bytes.

    Without any point both keys are taken out. Points without colours become grey. Points that are
    not finite are left out, of every `points3D_*` with a row for each.

    Raises:
        ValueError: Points are not [N, 3], or colours are not one of red, green and blue for each.
    """
    points, colors = metadata.pop(POINTS, None), metadata.pop(COLORS, None)
    if points is None or points.numel() == 0:
        return
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(
            f"The scene's points are {list(points.shape)}. Expected [N, 3]: x, y and z of each. "
            "Correct the dataparser, or leave its points out."
        )
    if colors is None or colors.numel() == 0:
        CONSOLE.print(f"The scene's {len(points)} points have no colours: they start grey.")
    metadata[POINTS], metadata[COLORS] = points.float(), byte_colors(colors, len(points))
    is_finite = metadata[POINTS].isfinite().all(-1)
    if not bool(is_finite.all()):
        CONSOLE.print(f"{int((~is_finite).sum())} points are not finite and are left out.")
        for name, values in metadata.items():
            if name.startswith("points3D_") and isinstance(values, Tensor) and len(values):
                metadata[name] = values[is_finite] if len(values) == len(is_finite) else values
        if not bool(is_finite.any()):
            del metadata[POINTS], metadata[COLORS]


def byte_colors(colors: Shaped[Tensor, "..."] | None, count: int) -> UInt8[Tensor, "point 3"]:
    """Colours of so many points as bytes; grey where there are none.

    Args:
        colors: [N, 3], whole numbers in [0, 255], or fractions in [0, 1] (in [0, 255] where one is
            above 1).

    Raises:
        ValueError: Another shape, or numbers outside of that.
    """
    if colors is None or colors.numel() == 0:
        return torch.full((count, 3), GREY, dtype=torch.uint8)
    if colors.dtype == torch.uint8 and colors.shape == (count, 3):
        return colors
    values = colors.double()
    lowest, highest = float(values.min()), float(values.max())
    if colors.shape != (count, 3) or not (lowest >= 0 and highest <= 255):
        raise ValueError(
            f"The colours of {count} points are {list(colors.shape)} numbers in "
            f"[{lowest:g}, {highest:g}]. Expected [{count}, 3] in [0, 255], or fractions in "
            "[0, 1]. Correct the scene's points, or leave their colours out."
        )
    if colors.is_floating_point() and highest <= 1:
        values = values * 255
    return values.round().to(torch.uint8)


def _placed(
    points: Float[Tensor, "point 3"],
    colors: UInt8[Tensor, "point 3"] | None,
    transform: Float[Tensor, "rows 4"],
    scale: float,
) -> dict[str, Tensor]:
    """Metadata of points after they are brought into the frame of the cameras."""
    rows = transform[:3].double()
    return _metadata((points.double() @ rows[:, :3].T + rows[:, 3]) * scale, colors)


def _metadata(
    points: Float[Tensor, "point 3"], colors: UInt8[Tensor, "point 3"] | None
) -> dict[str, Tensor]:
    """Of points in the frame of the cameras; nothing without points."""
    if not len(points):
        return {}
    return {POINTS: points.float(), **({} if colors is None else {COLORS: colors})}


def _points_beside(scene: Path, outputs: DataparserOutputs) -> dict[str, Tensor]:
    """Metadata of the points of a scene's COLMAP model, if its cameras are those of the scene.

    Says why there are none.
    """
    folder = next((scene / path for path in COLMAP_FOLDERS if (scene / path).is_dir()), None)
    if folder is None:
        say(f"{scene} has no points: no `ply_file_path`, and no COLMAP model.", style="yellow")
        return {}
    try:
        folder = largest_model(folder)
        model = read_model(folder)
    except (ValueError, OSError) as error:
        say(f"The points of {folder} are left out: {error}", style="yellow")
        return {}
    outputs_from_model, misfit = _similarity(model, outputs)
    if outputs_from_model is None:
        say(f"The points of {folder} are left out: {misfit}.", style="yellow")
        return {}
    points = outputs_from_model.apply(torch.from_numpy(model.xyz.copy()))
    return _metadata(points, torch.from_numpy(model.rgb.copy()))


def _similarity(model: ColmapModel, outputs: DataparserOutputs) -> tuple[Similarity | None, str]:
    """From a model's frame into that of a scene with the same cameras, or why there is none.

    Programs turn and scale scenes as they write them, and not all say how. Photos are the same by
    name.
    """
    cameras = {Path(image.name).name: image for image in model.images.values()}
    names = [Path(file).name for file in outputs.image_filenames]
    rows = [row for row, name in enumerate(names) if name in cameras]
    if len(set(names)) < len(names) or len(cameras) < len(model.images):
        return None, "photos in several folders have the same name"
    if len(rows) < 2:
        return None, f"its cameras are of other photos ({len(rows)} of {len(names)} are the same)"
    same = [cameras[names[row]] for row in rows]
    quaternions = torch.tensor([image.quaternion_wxyz for image in same], dtype=torch.float64)
    translations = torch.tensor([image.translation for image in same], dtype=torch.float64)
    rotations = rotation_from_quaternion_wxyz(quaternions)
    own = invert(pose_from_rotation_translation(rotations, translations))
    wanted = world_from_cameras(outputs.cameras)[rows].double()
    similarity = align_cameras(own, wanted)
    found = similarity.apply_to_pose(own)
    extent = (wanted[:, :3, 3] - wanted[:, :3, 3].mean(0)).norm(dim=-1).max().clamp_min(1e-9)
    shift = float((found[:, :3, 3] - wanted[:, :3, 3]).norm(dim=-1).median() / extent)
    turns = so3_log(found[:, :3, :3] @ wanted[:, :3, :3].mT).norm(dim=-1)
    degrees = math.degrees(float(turns.median()))
    if shift <= MOST_CAMERA_SHIFT and degrees <= MOST_CAMERA_TURN:
        return similarity, ""
    return None, (
        f"its cameras are not those of the scene (their median shift is {100 * shift:.1f} % of the "
        f"extent, their turn {degrees:.1f} degrees)"
    )


class _OfAnyExtent:
    """Stands before a parser of nerfstudio's, which divides by the extent of the cameras.

    Where all are in one place the scale stays as it is.
    """

    config: Any

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        parse: Any = super()._generate_dataparser_outputs  # type: ignore[misc] (a mixin)
        try:
            outputs = parse(split, **kwargs)
            if not self.config.auto_scale_poses or outputs.dataparser_scale < NO_EXTENT:
                return outputs
        except ZeroDivisionError:
            pass
        self.config.auto_scale_poses = False
        CONSOLE.print("All cameras are in one place: the scene keeps its scale, and has no depth.")
        return parse(split, **kwargs)


class _Nerfstudio(_OfAnyExtent, Nerfstudio):
    """`ply_file_path` of transforms.json, or the COLMAP model beside it."""

    # nerfstudio asks on the terminal whether it may write a PLY of that model, and into the scene.
    prompted_user = True
    create_pc = False

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        outputs = super()._generate_dataparser_outputs(split, **kwargs)
        # One held-out camera tells no frame, and none needs points.
        is_needed = self.config.load_3D_points and split == "train"
        if is_needed and POINTS not in outputs.metadata:
            data = self.config.data
            scene = data.parent if data.suffix == ".json" else data
            outputs.metadata.update(_points_beside(scene, outputs))
        return outputs

    def _load_3D_points(self, ply_file_path: Path, transform_matrix, scale_factor):
        cloud = read_ply(ply_file_path)
        return _placed(cloud.points, cloud.colors, transform_matrix, scale_factor)


class _ScanNet(ScanNet):
    """The scan's mesh."""

    def _load_3D_points(self, ply_file_path: Path, transform_matrix, scale_factor, points_color):
        cloud = read_ply(ply_file_path)
        colors = cloud.colors if points_color else None
        return _placed(cloud.points, colors, transform_matrix, scale_factor)


class _Blender(Blender):
    """`ply_path` of the options."""

    def _load_3D_points(self, ply_file_path: Path):
        cloud = read_ply(ply_file_path)
        return _placed(cloud.points, cloud.colors, torch.eye(4), self.config.scale_factor)


class _Colmap(_OfAnyExtent, FisheyeColmapParser):
    """points3D of the model."""

    def _load_3D_points(self, colmap_path: Path, transform_matrix, scale_factor):
        table = read_points(colmap_path)
        if len(table) and self.config.max_2D_matches_per_3D_point != 0:
            return super()._load_3D_points(colmap_path, transform_matrix, scale_factor)
        points, colors = (
            torch.from_numpy(table["xyz"].copy()),
            torch.from_numpy(table["rgb"].copy()),
        )
        return _placed(points, colors, transform_matrix, scale_factor)


_OWN: dict[type, type] = {
    Nerfstudio: _Nerfstudio,
    ScanNet: _ScanNet,
    Blender: _Blender,
    ColmapDataParser: _Colmap,
}
