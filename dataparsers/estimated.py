"""Photos without poses as a nerfstudio dataparser: an estimator finds the cameras.

One class serves every estimator. Those of other installed packages (entry-point group
`fm3d_plugins.estimators`) become dataparsers too, while nerfstudio collects its own.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from nerfstudio.cameras import camera_utils
from nerfstudio.data.dataparsers.base_dataparser import (
    DataParser,
    DataParserConfig,
    DataparserOutputs,
)
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.data.utils.dataparsers_utils import (
    get_train_eval_split_all,
    get_train_eval_split_filename,
    get_train_eval_split_fraction,
    get_train_eval_split_interval,
)
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.cache_folder import cache_folder
from fm3d_plugins.camera_optimization.camera_optimizer import TRACKS
from fm3d_plugins.camera_optimization.track_anchors import PhotoTracks
from fm3d_plugins.camera_photos import CAMERA_CONFIDENCE
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.estimators.base import Estimator, estimator_class, estimator_names
from fm3d_plugins.estimators.cache import estimated, points_cached
from fm3d_plugins.estimators.dust3r.estimator import Dust3r
from fm3d_plugins.estimators.given.estimator import Given
from fm3d_plugins.estimators.rayzer.estimator import Rayzer
from fm3d_plugins.estimators.sfm.estimator import Sfm
from fm3d_plugins.estimators.vggt.estimator import Vggt
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.cameras import distort, normalize, opengl_from_opencv, straight
from fm3d_plugins.io.depth_files import depth_digest, write_depth_maps
from fm3d_plugins.nerfstudio_cameras import cameras_of_scene, dataparser_frame
from fm3d_plugins.nerfstudio_commands import require_device_of_method
from fm3d_plugins.photo_datamanager import LATENT_CAMERAS
from fm3d_plugins.photos.photo_set import PhotoSet, require_photos
from fm3d_plugins.scene import SceneGeometry

LENS_ERROR = 0.1
"""Pixels by which a ray may miss the pixel that it was found for."""


@dataclass
class EstimatedDataParserConfig(DataParserConfig):
    """Photos to cameras and points, as nerfstudio wants them."""

    _target: type = field(default_factory=lambda: EstimatedDataParser)
    data: Path = Path()
    """Folder of photos (or one that holds them in `images` or `photos`)."""
    estimator: Estimator = field(default_factory=Sfm)
    """What finds the cameras, with its options."""
    scale_factor: float = 1.0
    """How much to scale the camera origins by."""
    scene_scale: float = 1.0
    """Half the side of the scene box, after scaling."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "up"
    """How to turn the scene upright."""
    center_method: Literal["poses", "focus", "none"] = "poses"
    """What to put at the origin."""
    auto_scale_poses: bool = True
    """Scale the camera positions to fit into a box from -1 to 1."""
    eval_mode: Literal["fraction", "filename", "interval", "all"] = "interval"
    """Which photos are held out: a fraction, those with train/eval in their names, every
    eval_interval-th, or none (all are used for both)."""
    train_split_fraction: float = 0.9
    """Share of the photos to train on; only with eval_mode fraction."""
    eval_interval: int = 8
    """Photos from one held-out photo to the next; only with eval_mode interval."""
    max_points: int | None = None
    """No more points than this, the most confident first; None: all that the estimator gives."""
    skip_unreadable: bool = False
    """Leave out photos that cannot be read, with a warning, instead of stopping."""
    cache_dir: Path | None = None
    """Where estimates are kept. None: FM3D_CACHE_DIR or the user's cache folder."""

    weights: str | None = None
    """Of an estimator by a network, the same as --estimator.weights: published ones by name
    (`fm3d weights list`), or a file or folder."""

    def __post_init__(self) -> None:
        """Hand weights on to the estimator, which alone remembers them."""
        if self.weights is not None and hasattr(self.estimator, "weights"):
            options: dict[str, Any] = {"weights": self.weights}
            self.estimator, self.weights = replace(self.estimator, **options), None

    def check_input(self, data: Path) -> None:
        """Refuse a folder without photos, and weights that cannot be had, or are of no use.

        Raises:
            ValueError, OSError: One of these.
        """
        if self.weights is not None:
            raise ValueError(
                f"--weights {self.weights} was given to {self.estimator.name}, which is no "
                "network. Expected none. Leave --weights out, or name vggt, dust3r or rayzer."
            )
        require_photos(data)
        self.estimator.check_weights()


class EstimatedDataParser(DataParser):
    """Runs the estimator once and keeps its result in memory and on disk.

    Held-out photos take part in estimating cameras, so that theirs are known too; points are those
    that training photos see. (Points of tracks, those of `sfm` and a few of `dust3r`, that held-out
    photos see as well have the mean colour of all photos that see them.) `metadata` holds
    `points3D_xyz` [N, 3] (the frame of the cameras), `points3D_rgb` [N, 3] uint8 and
    `points3D_confidence` [N]. An estimator that gives depth adds, one per photo of the split,
    `depth_filenames` (.npy, z-depth over exactly the photo, 0 where unknown), their
    `depth_unit_scale_factor` and `depth_confidence_filenames` (.npy in [0, 1]): value * factor *
    dataparser_scale is depth in the frame of the cameras. One whose cameras are refined adds their
    `camera_confidence` [V] in (0, 1]. One that knows which photos show a point in which pixel adds
    `tracks`, the `PhotoTracks` of the split.
    """

    config: EstimatedDataParserConfig

    def __init__(self, config: EstimatedDataParserConfig) -> None:
        super().__init__(config)
        with one_line_errors():
            require_device_of_method()
        self.downscale_factor = 1  # Tools set it; photos keep their size here.
        self._memo: tuple[PhotoSet, SceneGeometry] | None = None

    def _generate_dataparser_outputs(self, split: str = "train", **_) -> DataparserOutputs:
        with one_line_errors():
            photos, scene = self._estimated()
            return self._outputs(photos, scene, split)

    def scene(self) -> SceneGeometry:
        """All photos with a camera, whatever their split, as the estimator found them."""
        return self._estimated()[1]

    def _estimated(self) -> tuple[PhotoSet, SceneGeometry]:
        if self._memo is None:
            config = self.config
            photos, scene = estimated(
                config.data,
                config.estimator,
                skip_unreadable=config.skip_unreadable,
                cache_dir=config.cache_dir,
            )
            train = self._split_rows(scene.names, "train").tolist()
            self._memo = (
                photos,
                points_cached(config.estimator, photos, scene, train, config.cache_dir),
            )
        return self._memo

    def _outputs(self, photos: PhotoSet, scene: SceneGeometry, split: str) -> DataparserOutputs:
        config = self.config
        oriented, transform = camera_utils.auto_orient_and_center_poses(
            opengl_from_opencv(scene.world_from_camera).float(),
            method=config.orientation_method,
            center_method=config.center_method,
        )
        scale = config.scale_factor
        extent = float(oriented[:, :3, 3].abs().max())
        if config.auto_scale_poses and extent > 0:  # A single camera has no extent.
            scale /= extent
        frame = dataparser_frame(transform, scale)
        cameras = cameras_of_scene(scene, frame.apply_to_pose(scene.world_from_camera.double()))
        rows = torch.from_numpy(self._split_rows(scene.names, split))
        files = photos.plain_files(self._copies_folder(photos), scene.names)
        masks = photos.mask_files(self._copies_folder(photos) / "masks", scene.names)
        kept = _most_confident_points(scene, config.max_points)
        half = config.scene_scale
        return DataparserOutputs(
            image_filenames=[files[scene.names[row]] for row in rows],
            cameras=cameras[rows],
            scene_box=SceneBox(aabb=torch.tensor([[-half] * 3, [half] * 3])),
            mask_filenames=[masks[scene.names[row]] for row in rows] if masks else None,
            dataparser_transform=transform,
            dataparser_scale=scale,
            metadata={
                "points3D_xyz": frame.apply(scene.points[kept].double()).float(),
                "points3D_rgb": scene.point_colors[kept],
                "points3D_confidence": scene.point_confidence[kept].float(),
                LATENT_CAMERAS: scene.scale == "latent",
                **_confidence_metadata(scene, rows),
                **_track_metadata(scene, rows, frame),
                **self._depth_metadata(scene, rows),
            },
        )

    def _depth_metadata(self, scene: SceneGeometry, rows: Tensor) -> dict[str, Any]:
        """Depth files of some views, in the cache; nothing for a scene without depth."""
        if scene.depth is None:
            return {}
        name = f"{self.config.estimator.name}-{depth_digest(scene)}"
        files = write_depth_maps(scene, cache_folder(self.config.cache_dir) / "depth" / name)
        names = [scene.names[row] for row in rows]
        return {
            "depth_filenames": [files.depths[name] for name in names],
            "depth_unit_scale_factor": 1.0,
            "depth_confidence_filenames": [files.confidences[name] for name in names],
        }

    def _split_rows(self, names: tuple[str, ...], split: str) -> np.ndarray:
        """Rows of the scene that belong to a split, by nerfstudio's own rules."""
        config = self.config
        files = [Path(name) for name in names]
        if config.eval_mode == "fraction":
            train, held_out = get_train_eval_split_fraction(files, config.train_split_fraction)
        elif config.eval_mode == "filename":
            train, held_out = get_train_eval_split_filename(files)
        elif config.eval_mode == "interval":
            train, held_out = get_train_eval_split_interval(files, config.eval_interval)
        else:
            train, held_out = get_train_eval_split_all(files)
        rows = np.asarray(train if split == "train" else held_out, dtype=np.int64)
        return rows if len(rows) else np.arange(len(names))

    def _copies_folder(self, photos: PhotoSet) -> Path:
        return cache_folder(self.config.cache_dir) / "photos" / photos.digest


def _confidence_metadata(scene: SceneGeometry, rows: Tensor) -> dict[str, Tensor]:
    """How sure the cameras of some views are, where the scene tells."""
    if scene.camera_confidence is None:
        return {}
    return {CAMERA_CONFIDENCE: scene.camera_confidence[rows].float()}


def _track_metadata(scene: SceneGeometry, rows: Tensor, frame: Similarity) -> dict[str, Any]:
    """Points that two views or more show, where the scene tells, in the frame of the cameras."""
    tracks = scene.tracks
    if tracks is None:
        return {}
    row_of_view = torch.full((len(scene),), -1)
    row_of_view[rows] = torch.arange(len(rows))
    view, point = tracks.view_index.long(), tracks.point_index.long()
    rays = torch.empty(len(view), 2, dtype=torch.float64)
    is_usable = row_of_view[view] >= 0
    for one in view.unique().tolist():
        seen = view == one
        matrix, lens = scene.intrinsics[one].double(), scene.distortion[one].double()
        normalized = normalize(tracks.pixels[seen].double(), matrix)
        rays[seen] = straight(tracks.pixels[seen].double(), matrix, lens)
        # Where the lens's polynomial folds back, no ray leads to the pixel.
        off = (distort(rays[seen], lens) - normalized).norm(dim=-1) * matrix[0, 0]
        is_usable[seen] &= off < LENS_ERROR
    shown = torch.stack([point, view])[:, is_usable].unique(dim=1)[0]
    counts = torch.bincount(shown, minlength=len(scene.points))
    kept = is_usable & (counts[point] > 1)
    if not bool(kept.any()):
        return {}
    used, new_point = point[kept].unique(return_inverse=True)
    points = frame.apply(scene.points[used].double()).float()
    return {TRACKS: PhotoTracks(points, new_point, row_of_view[view[kept]], rays[kept].float())}


def _most_confident_points(scene: SceneGeometry, limit: int | None) -> Int[Tensor, " kept"]:
    """Rows of at most `limit` distinct points, the most confident ones, in their order.

    Splatfacto takes the logarithm of the distance to the nearest points, so none may be doubled.
    """
    distinct = np.unique(scene.points.numpy(), axis=0, return_index=True)[1]
    rows = torch.from_numpy(np.sort(distinct))
    if limit is not None and len(rows) > limit:
        rows = rows[scene.point_confidence[rows].topk(limit).indices].sort().values
    return rows


def _specification(estimator: Estimator) -> DataParserSpecification:
    return DataParserSpecification(
        config=EstimatedDataParserConfig(estimator=estimator),
        description=(type(estimator).__doc__ or "").split("\n")[0],
    )


sfm = _specification(Sfm())
vggt = _specification(Vggt())
dust3r = _specification(Dust3r())
rayzer = _specification(Rayzer())
given = _specification(Given())


def _register_foreign_estimators() -> None:
    """Put estimators of other packages beside nerfstudio's own dataparsers.

    nerfstudio collects dataparsers from entry points of its own group only, and joins them with
    its table `dataparsers`. That table is complete, and not yet in use, while this module is
    loaded as an entry point. A package that cannot be imported is named and passed over: one
    failing import would otherwise stop every ns-* command.
    """
    registry = sys.modules.get("nerfstudio.configs.dataparser_configs")
    table = getattr(registry, "dataparsers", None)
    if table is None or hasattr(registry, "all_dataparsers"):
        return
    for name in estimator_names():
        if isinstance(globals().get(name), DataParserSpecification):
            continue  # This module's own.
        try:
            table[name] = _specification(estimator_class(name)()).config
        except Exception as error:  # Another package's code may raise anything.
            message = f"The estimator {name} cannot be loaded and is left out: {error}"
            CONSOLE.print(message, style="yellow", markup=False)


_register_foreign_estimators()
