"""All that a feed-forward run found, as files in the frame and unit of its input."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from fm3d_plugins.camera_optimization.export import run_cameras
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.io.colmap import write_colmap_or_say
from fm3d_plugins.io.depth_files import NERFSTUDIO_UNIT, read_map, write_map
from fm3d_plugins.io.ply import write_ply
from fm3d_plugins.io.transforms import write_transforms
from fm3d_plugins.one_pass.geometry.pipeline import GeometryPipeline
from fm3d_plugins.parsed_scenes import input_frame
from fm3d_plugins.scene import SceneGeometry

POINTS = "points.ply"
"""File of the exported points."""


def write_run(
    pipeline: GeometryPipeline, folder: Path, provenance: Mapping[str, Any], least_confidence: float
) -> SceneGeometry:
    """Write points.ply, transforms.json, colmap/sparse/0, depth/ and depth_confidence/.

    Points are those of the training photos; cameras and depth maps those of all photos. Photos are
    named by absolute paths. The folder is a scene that `nerfstudio-data` reads.

    Args:
        folder: Exists and is empty.
        provenance: JSON values to record with the cameras.
        least_confidence: Points below it are left out; 0: none.

    Returns:
        The cameras and points that were written.

    Raises:
        ValueError: No point has that confidence, or a depth map cannot be read.
    """
    cameras = run_cameras(pipeline, provenance)
    manager = pipeline.datamanager
    train = manager.train_dataparser_outputs
    held_out = manager.dataparser.get_dataparser_outputs(split=manager.test_split)
    scene = _with_points(cameras.scene, pipeline, train, least_confidence)
    write_ply(folder / POINTS, scene.points, scene.point_colors, confidence=scene.point_confidence)
    write_colmap_or_say(scene, folder / "colmap" / "sparse" / "0")
    names = {file: name for name, file in cameras.files.items()}
    depths: dict[str, str] = {}
    confidences: dict[str, str] = {}
    for outputs in (train, held_out):
        _write_maps(outputs, names, folder, depths, confidences)
    write_transforms(
        scene,
        folder / "transforms.json",
        file_paths={name: file.as_posix() for name, file in cameras.files.items()},
        depth_file_paths=depths or None,
        depth_confidence_paths=confidences or None,
        ply_file_path=POINTS,
    )
    return scene


def confident_points(
    pipeline: GeometryPipeline, input_from_scene: Similarity, path: Path, least_confidence: float
) -> int:
    """Write the points alone, of at least a confidence; returns how many.

    Raises:
        ValueError: No point has that confidence.
    """
    is_kept = _is_confident(pipeline, least_confidence)
    model = pipeline.model
    points = input_from_scene.apply(model.splat_means.cpu()[is_kept].double()).float()
    confidence = model.splat_confidence.cpu()[is_kept].float()
    write_ply(path, points, model.splat_colors.cpu()[is_kept], confidence=confidence)
    return len(points)


def _is_confident(pipeline: GeometryPipeline, least_confidence: float) -> Bool[Tensor, " point"]:
    model = pipeline.model
    is_kept = (model.splat_confidence >= least_confidence).cpu()
    if not bool(is_kept.any()):
        raise ValueError(
            f"None of the {len(is_kept)} points has a confidence of at least {least_confidence}; "
            f"the surest has {float(model.splat_confidence.max()):.3f}. Ask for less with "
            "--min-confidence."
        )
    return is_kept


def _with_points(
    scene: SceneGeometry,
    pipeline: GeometryPipeline,
    outputs: DataparserOutputs,
    least_confidence: float,
) -> SceneGeometry:
    model, is_kept = pipeline.model, _is_confident(pipeline, least_confidence)
    frame = input_frame(outputs, pipeline.datamanager.dataparser)
    return replace(
        scene,
        points=frame.inverse().apply(model.splat_means.cpu()[is_kept].double()).float(),
        point_colors=model.splat_colors.cpu()[is_kept],
        point_confidence=model.splat_confidence.cpu()[is_kept].float(),
    )


def _write_maps(
    outputs: DataparserOutputs,
    names: Mapping[Path, str],
    folder: Path,
    depths: dict[str, str],
    confidences: dict[str, str],
) -> None:
    """Write the maps of a split, and note them by their photos' names."""
    metadata = outputs.metadata
    unit = float(metadata.get("depth_unit_scale_factor") or 1.0) / NERFSTUDIO_UNIT
    for key, kind, paths, factor in (
        ("depth_filenames", "depth", depths, unit),
        ("depth_confidence_filenames", "depth_confidence", confidences, 1.0),
    ):
        files = metadata.get(key) or ()
        for photo, file in zip(outputs.image_filenames, files, strict=bool(files)):
            name = names[Path(photo).resolve()]
            paths[name] = f"{kind}/{name}.npy"
            write_map(folder / paths[name], torch.from_numpy(read_map(file)) * factor)
