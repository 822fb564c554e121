"""`fm3d process <estimator>`: a folder of photos becomes a posed scene on disk."""

import shlex
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import tyro

from fm3d_plugins.cli.options import run_with_options
from fm3d_plugins.estimators.base import Estimator, estimator_class, estimator_names
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.scene import SceneGeometry


def run(arguments: Sequence[str]) -> None:
    """Parse `<estimator> --data … --output-dir …` and process.

    Raises:
        ValueError: No such estimator, or it finds nothing usable.
        OSError: Photos are absent, or the output cannot be written.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    name, *rest = arguments
    command = partial(process, estimator=estimator_class(name)())
    run_with_options(command, f"fm3d process {name}", rest)


def _usage() -> str:
    return (
        "usage: fm3d process ESTIMATOR --data FOLDER --output-dir FOLDER ...\n\n"
        f"estimators: {', '.join(estimator_names())}\n"
        "fm3d process ESTIMATOR --help lists the options of one."
    )


def process(
    estimator: tyro.conf.OmitArgPrefixes[Estimator],
    data: Path,
    output_dir: Path,
    *,
    overwrite: bool = False,
    skip_unreadable: bool = False,
    cache_dir: Path | None = None,
) -> SceneGeometry:
    """Find cameras and points for a folder of photos, and write them as a posed scene.

    The output holds transforms.json (nerfstudio), colmap/sparse/0 (COLMAP, binary),
    sparse_pc.ply and the upright photos in images/. An estimator that gives depth adds depth/
    (z-depth, thousandths of a scene unit) and depth_confidence/ (0 to 1), as .npy.

    Args:
        estimator: Options of the estimator.
        data: Folder of photos.
        output_dir: Folder to write; must not exist, or be empty.
        overwrite: Replace the output folder if this command wrote it before. Folders with files of
            your own, and the photos' folder, stay.
        skip_unreadable: Leave out photos that cannot be read, instead of stopping.
        cache_dir: Where estimates are kept; default FM3D_CACHE_DIR or the user's cache folder.

    Raises:
        FileExistsError: `output_dir` is not empty and `overwrite` is False, or holds what would be
            lost; said before the work.
        ValueError: Photos cannot be read, or the estimator finds nothing usable.
    """
    from fm3d_plugins.atomic import atomic_directory
    from fm3d_plugins.estimators.cache import estimated, points_cached
    from fm3d_plugins.progress import say

    inputs = [Path(data).expanduser(), *_named_files(estimator)]
    with atomic_directory(Path(output_dir), overwrite, inputs) as folder:
        photos, scene = estimated(
            data, estimator, skip_unreadable=skip_unreadable, cache_dir=cache_dir
        )
        # Those that links lead to.
        inputs += [photo.path for photo in photos]
        scene = points_cached(estimator, photos, scene, range(len(scene)), cache_dir)
        write_scene(scene, photos, folder)
    points = f"{len(scene.points)} points"
    say(f"{len(scene)} of {len(photos)} photos and {points} are in {output_dir}")
    say(f"Next: {shlex.join(['ns-train', '3dgs', '--data', str(output_dir)])}")
    return scene


def _named_files(estimator: Estimator) -> list[Path]:
    """Files and folders that an estimator's options name."""
    values = [Path(value) for value in vars(estimator).values() if isinstance(value, str | Path)]
    return [path for path in values if path.parts and path.exists()]


def write_scene(scene: SceneGeometry, photos: PhotoSet, folder: Path) -> None:
    """Write photos, transforms.json, a COLMAP model, a point cloud and, where the scene has it,
    depth with its confidence into an empty folder."""
    from fm3d_plugins.io.colmap import write_colmap_or_say
    from fm3d_plugins.io.depth_files import NERFSTUDIO_UNIT, write_depth_maps
    from fm3d_plugins.io.ply import write_ply
    from fm3d_plugins.io.transforms import write_transforms

    images = folder / "images"
    images.mkdir()
    for name, file in photos.plain_files(images, scene.names).items():
        if file.parent != images:
            shutil.copyfile(file, images / name)
    masks = {name: f"masks/{name}.png" for name in photos.mask_files(folder / "masks", scene.names)}
    write_ply(
        folder / "sparse_pc.ply",
        scene.points,
        scene.point_colors,
        confidence=scene.point_confidence,
    )
    depths = confidences = None
    if scene.depth is not None:
        maps = write_depth_maps(scene, folder, unit=NERFSTUDIO_UNIT)
        depths, confidences = (
            {name: file.relative_to(folder).as_posix() for name, file in files.items()}
            for files in (maps.depths, maps.confidences)
        )
    write_colmap_or_say(scene, folder / "colmap" / "sparse" / "0")
    write_transforms(
        scene,
        folder / "transforms.json",
        ply_file_path="sparse_pc.ply",
        mask_paths=masks or None,
        depth_file_paths=depths,
        depth_confidence_paths=confidences,
    )
