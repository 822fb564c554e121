"""`SceneGeometry` from and to COLMAP models.

COLMAP's poses are `camera_from_world` with OpenCV axes and its pixel (0, 0) is the corner of the
first pixel, both as here; only the layout differs.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.atomic import atomic_directory
from fm3d_plugins.geometry.cameras import denormalize, distort, normalize, undistort
from fm3d_plugins.geometry.lenses import LENSES
from fm3d_plugins.geometry.poses import (
    invert,
    pose_from_rotation_translation,
    quaternion_wxyz_from_rotation,
    rotation_from_quaternion_wxyz,
    transform_points,
)
from fm3d_plugins.io.colmap_files import (
    CAMERA_MODELS,
    ColmapCamera,
    ColmapImage,
    ColmapModel,
    UnsupportedCameraError,
    calibration,
    read_model,
    unsupported,
    write_model,
)
from fm3d_plugins.io.scene_checks import (
    naming_its_path,
    require_exportable,
    require_fine_positions,
    require_photos,
)
from fm3d_plugins.photos.photo import READ_SUFFIXES
from fm3d_plugins.progress import say
from fm3d_plugins.scene import SceneGeometry, Tracks

LENS_ERROR = 0.05
"""Pixels by which a lens that stands for another may be off."""


class LensError(ValueError):
    """A lens that no model of COLMAP's can hold."""


def write_colmap(
    scene: SceneGeometry,
    folder: Path,
    *,
    overwrite: bool = False,
    allow_latent: bool = False,
) -> None:
    """Write a binary model into a folder, which appears complete or not at all.

    Cameras become PINHOLE, OPENCV or FULL_OPENCV, the first that holds their distortion. No model
    of COLMAP has k4: k1 to k3 are fitted to it within the photo, where that is exact to
    `LENS_ERROR`. Image names are the photos' file names, so COLMAP's image folder is the photos'
    folder.

    Args:
        overwrite: Replace a folder that this package wrote.
        allow_latent: Write a scene whose space only a network understands.

    Raises:
        FileExistsError: The folder holds something and `overwrite` is not set, or holds what this
            package did not write.
        LensError: k1 to k3 cannot stand for a camera's k4.
        ValueError: The scene has what the format cannot hold: skew, equal names, views that share a
            camera but not its intrinsics.
    """
    require_exportable(scene, folder, allow_latent)
    model = _model_from_scene(scene, folder)
    with atomic_directory(folder, overwrite) as temporary:
        write_model(model, temporary)


def write_colmap_or_say(scene: SceneGeometry, folder: Path) -> None:
    """`write_colmap`, but a lens that COLMAP has no model for costs a line and the model alone.

    Raises:
        FileExistsError, ValueError: As `write_colmap`, of all but lenses.
    """
    try:
        write_colmap(scene, folder)
    except LensError as error:
        say(f"{folder} is not written: {error}", "yellow")


@naming_its_path
def read_colmap(folder: Path, photos_folder: Path | None = None) -> SceneGeometry:
    """Read a binary or text model, in float64; rigs and frames are not needed.

    Views come in the order of their image identifiers. Confidence is 1 / (1 + reprojection error
    in pixels), and 1 where the error is unknown. Observations without a 3D point are left out.

    Args:
        photos_folder: Where the image names lead. If given, the photos must be there at the
            cameras' size, and photos that the model does not name are listed as unregistered.

    Raises:
        FileNotFoundError: The model or photos are absent.
        ValueError: The model is damaged, empty, inconsistent, or has another kind of camera.
    """
    model, unregistered = _checked(folder, photos_folder)
    _require_models(model, folder, CAMERA_MODELS)
    return _scene_from_model(model, folder, unregistered)


def _scene_from_model(
    model: ColmapModel, folder: Path, unregistered: tuple[str, ...] = ()
) -> SceneGeometry:
    """What the model says; of fisheye lenses, too, whose coefficients are then those of a fisheye.

    Raises:
        ValueError: There can be no such scene.
    """
    images = [model.images[key] for key in sorted(model.images)]
    cameras = [model.cameras[image.camera_id] for image in images]
    calibrations = [calibration(camera.model, camera.parameters) for camera in cameras]
    numbering = {camera_id: index for index, camera_id in enumerate(sorted(model.cameras))}
    errors = torch.from_numpy(model.errors.copy())
    return SceneGeometry(
        names=tuple(image.name for image in images),
        image_sizes=torch.tensor([(camera.width, camera.height) for camera in cameras]),
        world_from_camera=_world_from_camera(images),
        intrinsics=torch.from_numpy(np.stack([matrix for matrix, _ in calibrations])),
        distortion=torch.from_numpy(np.stack([lens for _, lens in calibrations])),
        camera_index=torch.tensor([numbering[image.camera_id] for image in images]),
        points=torch.from_numpy(model.xyz.copy()),
        point_colors=torch.from_numpy(model.rgb.copy()),
        point_confidence=1 / (1 + errors.clamp(min=0)),
        tracks=_tracks_from_images(images, model.point_ids, folder),
        unregistered=unregistered,
        provenance={"source": "COLMAP model"},
    )


@naming_its_path
def check_colmap(folder: Path, photos_folder: Path | None = None) -> None:
    """Refuse what `read_colmap` would refuse, but take the lenses that nerfstudio's parser takes.

    Raises:
        FileNotFoundError, ValueError: As `read_colmap`; positions far from the origin.
    """
    model, _ = _checked(folder, photos_folder)
    _require_models(model, folder, [name for lens in LENSES for name in lens.colmap_models])
    kinds = {lens.name for lens in LENSES for c in model.cameras.values()
             if c.model in lens.colmap_models}  # fmt: skip
    if len(kinds) > 1:
        raise ValueError(
            f"{folder} mixes cameras with {' and '.join(sorted(kinds))} lenses, which nerfstudio's "
            "COLMAP parser does not. Expected one kind. Convert the model to transforms.json, with "
            "`camera_model` in every frame."
        )
    scene = _scene_from_model(model, folder)
    require_fine_positions(folder, scene.world_from_camera[:, :3, 3])


def _checked(folder: Path, photos_folder: Path | None) -> tuple[ColmapModel, tuple[str, ...]]:
    """The model, in agreement with its photos, and photos that it does not name."""
    model = read_model(folder)
    _require_consistent(model, folder)
    if photos_folder is None:
        return model, ()
    images = [model.images[key] for key in sorted(model.images)]
    cameras = [model.cameras[image.camera_id] for image in images]
    sizes = [(camera.width, camera.height) for camera in cameras]
    require_photos({i.name: photos_folder / i.name for i in images}, sizes, folder / "images")
    named = {image.name for image in images}
    return model, tuple(sorted(_photo_names(photos_folder) - named))


def _require_models(model: ColmapModel, folder: Path, expected: Collection[str]) -> None:
    """Raise UnsupportedCameraError where an image's camera has another model."""
    used = {image.camera_id for image in model.images.values()}
    for camera_id in sorted(used):
        found = model.cameras[camera_id].model
        if found not in expected:
            is_binary = (folder / "cameras.bin").is_file()
            path = folder / ("cameras.bin" if is_binary else "cameras.txt")
            error = unsupported(camera_id, found, expected)
            raise UnsupportedCameraError(f"{path}: {error}")


def _require_consistent(model: ColmapModel, folder: Path) -> None:
    """Raise ValueError where there is no image, or images name absent cameras."""
    if not model.images:
        raise ValueError(
            f"{folder} holds a COLMAP model without images; expected at least one registered "
            "image. Choose another model of the reconstruction or run it again."
        )
    strangers = {image.camera_id for image in model.images.values()} - set(model.cameras)
    if strangers:
        raise ValueError(
            f"{folder}: images refer to the cameras {sorted(strangers)}, which the cameras file "
            "does not list. Expected all three files from one model. Export it anew."
        )


def _world_from_camera(images: Sequence[ColmapImage]) -> Float[Tensor, "view 4 4"]:
    quaternions = torch.tensor([image.quaternion_wxyz for image in images], dtype=torch.float64)
    translations = torch.tensor([image.translation for image in images], dtype=torch.float64)
    rotations = rotation_from_quaternion_wxyz(quaternions)
    return invert(pose_from_rotation_translation(rotations, translations))


def _tracks_from_images(
    images: Sequence[ColmapImage], point_ids: np.ndarray, folder: Path
) -> Tracks | None:
    """All observations that have a point, by view; none if there are none."""
    ids = np.concatenate([image.point_ids for image in images])
    pixels = np.concatenate([image.pixels for image in images])
    views = np.repeat(np.arange(len(images)), [len(image.point_ids) for image in images])
    seen = ids >= 0
    if not seen.any():
        return None
    order = np.argsort(point_ids, kind="stable")
    rank = np.searchsorted(point_ids, ids[seen], sorter=order).clip(max=len(order) - 1)
    rows = order[rank] if len(order) else np.full(len(rank), -1)
    known = point_ids[rows] == ids[seen] if len(order) else np.zeros(len(rank), dtype=bool)
    if not known.all():
        raise ValueError(
            f"{folder}: {int((~known).sum())} observations refer to points that the points3D file "
            f"does not list (first: {ids[seen][~known][0]}). Expected all three files from one "
            "model. Export it anew."
        )
    return Tracks(
        point_index=torch.from_numpy(rows),
        view_index=torch.from_numpy(views[seen]),
        pixels=torch.from_numpy(pixels[seen]),
    )


def _photo_names(folder: Path) -> set[str]:
    """Files that look like photos, relative to their folder."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in READ_SUFFIXES and not path.name.startswith(".")
    }


def _model_from_scene(scene: SceneGeometry, folder: Path) -> ColmapModel:
    camera_from_world = invert(scene.world_from_camera.double())
    quaternions = quaternion_wxyz_from_rotation(camera_from_world[:, :3, :3]).tolist()
    translations = camera_from_world[:, :3, 3].tolist()
    observations = _observations_by_view(scene)
    numbers, camera_rows = scene.camera_index.unique(return_inverse=True)
    images = {
        view + 1: ColmapImage(
            name=scene.names[view],
            camera_id=int(camera_rows[view]) + 1,
            quaternion_wxyz=tuple(quaternions[view]),
            translation=tuple(translations[view]),
            pixels=observations[view][0],
            point_ids=observations[view][1],
        )
        for view in range(len(scene))
    }
    cameras = {
        row + 1: _camera_of_view(scene, int((camera_rows == row).nonzero()[0]), folder)
        for row in range(len(numbers))
    }
    return ColmapModel(
        cameras=cameras,
        images=images,
        point_ids=np.arange(1, len(scene.points) + 1),
        xyz=scene.points.double().numpy(),
        rgb=scene.point_colors.numpy(),
        errors=mean_reprojection_errors(scene).numpy(),
    )


def _camera_of_view(scene: SceneGeometry, view: int, folder: Path) -> ColmapCamera:
    """The camera of one view, and of all that share it."""
    fx, _, cx, _, fy, cy, *_ = scene.intrinsics[view].double().flatten().tolist()
    k1, k2, k3, k4, p1, p2 = scene.distortion[view].double().tolist()
    if k4:
        added, error = _in_place_of_k4(scene, view)
        if not error <= LENS_ERROR:
            raise LensError(
                f"the distortion k4 = {k4:g} of {scene.names[view]} fits no lens of COLMAP's: k1 "
                f"to k3 in its place are {error:.2f} px off. Expected {LENS_ERROR} px or less. Use "
                "transforms.json, or undistort the photos."
            )
        k1, k2, k3 = (own + more for own, more in zip((k1, k2, k3), added, strict=True))
    model, parameters = "PINHOLE", (fx, fy, cx, cy)
    if k3:
        model, parameters = "FULL_OPENCV", (*parameters, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0)
    elif k1 or k2 or p1 or p2:
        model, parameters = "OPENCV", (*parameters, k1, k2, p1, p2)
    width, height = scene.image_sizes[view].tolist()
    return ColmapCamera(model, width, height, parameters)


def _in_place_of_k4(scene: SceneGeometry, view: int) -> tuple[list[float], float]:
    """What is added to k1, k2, k3 of a view in place of its k4, and by how many pixels it is off.

    Least squares over the radii of the photo.
    """
    width, height = scene.image_sizes[view].tolist()
    intrinsics, lens = scene.intrinsics[view].double(), scene.distortion[view].double()
    corners = torch.tensor([(0, 0), (width, 0), (0, height), (width, height)]).double()
    radius = float(undistort(normalize(corners, intrinsics), lens).norm(dim=-1).max())
    radii = np.linspace(0, radius, 200)
    powers = np.stack([radii**3, radii**5, radii**7], axis=-1)
    bent = float(lens[3]) * radii**9
    added = np.linalg.lstsq(powers, bent, rcond=None)[0]
    focal = float(intrinsics.diagonal()[:2].max())
    return added.tolist(), focal * float(np.abs(powers @ added - bent).max())


def _observations_by_view(scene: SceneGeometry) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pixels and point identifiers (row + 1) of each view's observations."""
    tracks = scene.tracks
    if tracks is None:
        return [(np.empty((0, 2)), np.empty(0, np.int64))] * len(scene)
    order = tracks.view_index.argsort(stable=True)
    counts = tracks.view_index.bincount(minlength=len(scene)).tolist()
    pixels = tracks.pixels[order].double().split(counts)
    point_ids = (tracks.point_index[order].long() + 1).split(counts)
    return [(a.numpy(), b.numpy()) for a, b in zip(pixels, point_ids, strict=True)]


def mean_reprojection_errors(scene: SceneGeometry) -> Float[Tensor, " point"]:
    """Mean distance in pixels between each point's observations and projections; -1 if unseen."""
    errors = torch.full((len(scene.points),), -1.0, dtype=torch.float64)
    if scene.tracks is None:
        return errors
    point, view = scene.tracks.point_index.long(), scene.tracks.view_index.long()
    camera_from_world = invert(scene.world_from_camera.double())[view]
    points_camera = transform_points(camera_from_world, scene.points.double()[point, None])
    normalized = points_camera[..., :2] / points_camera[..., 2:]
    distorted = distort(normalized, scene.distortion.double()[view])
    pixels = denormalize(distorted, scene.intrinsics.double()[view]).squeeze(1)
    distance = (pixels - scene.tracks.pixels.double()).norm(dim=-1)
    count = point.bincount(minlength=len(errors))
    total = point.bincount(weights=distance, minlength=len(errors))
    return torch.where(count > 0, total / count.clamp(min=1), errors)
