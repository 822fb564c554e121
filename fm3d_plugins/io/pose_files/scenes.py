"""transforms.json and COLMAP models as pose files, by the readers that scenes have."""

from pathlib import Path

from fm3d_plugins.io.colmap import read_colmap
from fm3d_plugins.io.pose_files.posed_photos import PosedPhotos
from fm3d_plugins.io.pose_files.reading import files_in, is_transforms, json_or_none
from fm3d_plugins.io.posed_scenes import colmap_model
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.scene import SceneGeometry

LOOKED_FOR_TRANSFORMS = "nerfstudio: transforms.json (a JSON file with frames and their file_path)"
LOOKED_FOR_COLMAP = "COLMAP: images.bin or images.txt, also in sparse/0 and colmap/sparse/0"


def find_transforms(path: Path) -> tuple[Path, ...]:
    """The file, and the point cloud that it names."""
    for file in files_in(path, (".",), ("transforms.json",)):
        document = json_or_none(file)
        # A file of this very name is damaged rather than something else.
        if not is_transforms(document) and file.name != "transforms.json":
            continue
        cloud = document.get("ply_file_path") if isinstance(document, dict) else None
        is_named = isinstance(cloud, str) and cloud.isprintable() and cloud
        return (file, file.parent / str(cloud)) if is_named else (file,)
    return ()


def read_transforms_file(files: tuple[Path, ...]) -> PosedPhotos:
    """Its perspective cameras and points.

    Raises:
        ValueError, OSError: As `read_transforms`, or its space is latent.
    """
    scene = read_transforms(files[0], require_images=False)
    if scene.scale == "latent":
        raise ValueError(
            f"{files[0]} lies in a latent space, which only the network that made it understands. "
            "Expected real cameras. Give those of another estimator."
        )
    return _of_scene(scene)


def find_colmap(path: Path) -> tuple[Path, ...]:
    """The three files of a model, of the largest of several in a folder `sparse`."""
    is_part = path.is_file() and path.stem in ("cameras", "images", "points3D")
    folder = colmap_model(path.parent if is_part else path, tell=False)
    if folder is None:
        return ()
    suffix = ".bin" if (folder / "images.bin").is_file() else ".txt"
    return tuple(folder / f"{name}{suffix}" for name in ("images", "cameras", "points3D"))


def read_colmap_model(files: tuple[Path, ...]) -> PosedPhotos:
    """Its cameras, points and tracks.

    Raises:
        ValueError, OSError: As `read_colmap`.
    """
    return _of_scene(read_colmap(files[0].parent))


def _of_scene(scene: SceneGeometry) -> PosedPhotos:
    intrinsics = scene.intrinsics.double()
    return PosedPhotos(
        names=scene.names,
        world_from_camera=scene.world_from_camera.double(),
        focals=intrinsics[:, (0, 1), (0, 1)],
        principal_points=intrinsics[:, :2, 2],
        image_sizes=scene.image_sizes.long(),
        distortion=scene.distortion.double(),
        inverse_radial=intrinsics.new_zeros(len(scene)),
        camera_index=scene.camera_index.long(),
        points=scene.points.double(),
        point_colors=scene.point_colors,
        point_confidence=scene.point_confidence.double().clamp(0, 1),
        tracks=scene.tracks,
        scale="metric" if scene.scale == "metric" else "relative",
        without_pose=scene.unregistered,
    )
