"""Cameras that another program found, as an estimator: poses in files to a scene."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
import tyro

from fm3d_plugins.errors import listed
from fm3d_plugins.estimators.base import Estimator, Refinement, RefinementOption
from fm3d_plugins.estimators.camera_groups import camera_groups
from fm3d_plugins.estimators.given.fitting import Fitted, fitted_cameras, fitted_tracks
from fm3d_plugins.estimators.given.matching import match_names
from fm3d_plugins.estimators.given.positions import laid_onto, moved, require_spread
from fm3d_plugins.estimators.matching.feature_kinds import FeaturesOption
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.cameras import equal_cameras
from fm3d_plugins.io.pose_files.formats import PoseFiles, find_pose_files
from fm3d_plugins.io.pose_files.gps import Positions
from fm3d_plugins.io.pose_files.posed_photos import PosedPhotos, printable
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.progress import say
from fm3d_plugins.scene import SceneGeometry

FARTHEST = 1000.0
"""Distance of the cameras from the origin over their extent beyond which single precision, which
comes after, would round them: the origin is moved among them."""


@dataclass(frozen=True)
class Given(Estimator):
    """Cameras from files: transforms.json, COLMAP, Metashape, Bundler, NVM, apps of phones.

    Photos without a pose are left out and named. Points of the files are kept. Positions in EXIF
    alone are no cameras: those come from `sfm` then, and the positions lay them in metres.
    """

    name: ClassVar[str] = "given"

    poses: Annotated[Path | None, tyro.conf.arg(prefix_name=False)] = None
    """File or folder with the poses of all or some photos; required. What it is, is found from what
    it holds: transforms.json, a COLMAP model, Metashape's cameras.xml, bundle.out with list.txt,
    *.nvm, exports of Polycam, Record3D and ARKit, or photos with GPS positions in their EXIF."""
    camera: Literal["auto", "shared", "per-photo"] = "auto"
    """Which photos share one focal length and lens: those to which the file gives equal ones; all
    (their median); none."""
    refine: RefinementOption = "auto"
    """Make cameras exact by matches between the photos, and judge them. auto, map: what the file
    says of them counts as well; free: it does not, where photos are many; off: as in the file.
    With EXIF positions, auto is off."""

    features: FeaturesOption = "sift"
    """What photos are matched by: sift; or, through kornia, a network's features (disk, aliked) by
    LightGlue."""

    def estimate(self, photos: PhotoSet) -> SceneGeometry:
        """The cameras of the photos that have a pose, and the points of the file.

        Raises:
            ValueError: `poses` is not given or holds none; no photo, or several, have the name of
                a pose; photos have another shape than their cameras.
            OSError: Files are absent or cannot be read.
        """
        found = self._pose_files()
        if found.others:
            say(f"{found.path} also holds {listed(found.others)}: give that path to take it.")
        source = f"{found.files[0]} ({found.format.name})"
        prior = found.read()
        matched = match_names([photo.path for photo in photos], prior.names, source)
        if matched.unused:
            names = printable([prior.names[row] for row in matched.unused])
            say(f"{len(names)} of {len(prior.names)} poses have no photo: {listed(names)}")
        if isinstance(prior, Positions):
            return self._by_positions(photos, prior, matched.pose_of, source)
        cameras = fitted_cameras(prior, photos.photos, matched.pose_of, source)
        scene = self._scene(photos, prior, matched.pose_of, cameras)
        say(
            f"given: {len(scene)} of {len(photos)} photos have a pose in {source}, "
            f"{len(scene.points)} points"
        )
        provenance = self.identity() | {"format": found.format.name}
        return _near_origin(replace(scene, provenance=provenance))

    @property
    def refinement(self) -> Refinement:
        """How the cameras are refined: those that `sfm` finds beside positions, only if asked."""
        return "off" if self.refine == "auto" and self.is_by_matches else self.refine

    @property
    def is_by_matches(self) -> bool:
        """Whether the files tell positions alone, so that `sfm` finds the cameras."""
        return self._pose_files().format.name == "EXIF GPS"

    def identity(self) -> dict:
        """Options and what the pose files hold, wherever they lie, as JSON values."""
        identity = super().identity()
        found = self._pose_files()
        identity["options"]["poses"] = found.digest()
        return identity | ({"sfm": self._sfm().identity()} if self.is_by_matches else {})

    def _sfm(self) -> Estimator:
        from fm3d_plugins.estimators.sfm.estimator import Sfm

        return Sfm(camera=self.camera, features=self.features)

    def _pose_files(self) -> PoseFiles:
        if self.poses is None:
            raise ValueError(
                "`given` takes cameras from files, but none are given. Expected --poses with a "
                "file or folder of poses. Use `sfm` for photos without any."
            )
        return find_pose_files(Path(self.poses).expanduser())

    def _by_positions(
        self, photos: PhotoSet, positions: Positions, pose_of: dict[int, int], source: str
    ) -> SceneGeometry:
        require_spread(positions, source)
        say(f"given: {source} tells positions, no directions: sfm finds the cameras.")
        scene = self._sfm().find_cameras(photos)
        laid = laid_onto(scene, positions, pose_of, [photo.name for photo in photos])
        provenance = self.identity() | {"format": "EXIF GPS", "sfm": dict(scene.provenance)}
        return replace(laid, provenance=provenance)

    def _scene(
        self,
        photos: PhotoSet,
        prior: PosedPhotos,
        pose_of: dict[int, int],
        fitted: dict[int, Fitted],
    ) -> SceneGeometry:
        rows = sorted(pose_of)
        chosen = [photos.photos[row] for row in rows]
        poses = [pose_of[row] for row in rows]
        cameras = [fitted[row] for row in rows]
        sizes = torch.tensor([(photo.width, photo.height) for photo in chosen])
        intrinsics = torch.stack([camera.intrinsics for camera in cameras])
        distortion = torch.stack([camera.distortion for camera in cameras])
        groups = equal_cameras(prior.camera_index[poses], sizes, intrinsics, distortion)
        if self.camera != "auto":
            groups = torch.tensor(camera_groups(chosen, self.camera))
        if self.camera == "shared":
            intrinsics = intrinsics.median(0).values.expand_as(intrinsics).contiguous()
            distortion = distortion.median(0).values.expand_as(distortion).contiguous()
        return SceneGeometry(
            names=tuple(photo.name for photo in chosen),
            image_sizes=sizes,
            world_from_camera=torch.stack([camera.world_from_camera for camera in cameras]),
            intrinsics=intrinsics,
            distortion=distortion,
            camera_index=groups,
            points=prior.points,
            point_colors=prior.point_colors,
            point_confidence=prior.point_confidence,
            tracks=fitted_tracks(
                prior, {pose: (view, cameras[view]) for view, pose in enumerate(poses)}
            ),
            scale=prior.scale,
            unregistered=_without(photos, rows),
        )


def _without(photos: PhotoSet, rows: Sequence[int]) -> tuple[str, ...]:
    has_pose = set(rows)
    return tuple(photo.name for row, photo in enumerate(photos) if row not in has_pose)


def _near_origin(scene: SceneGeometry) -> SceneGeometry:
    """The scene, moved to its cameras where it lies very far from the origin; a line says so."""
    centers = scene.world_from_camera[:, :3, 3].double()
    middle = centers.mean(0)
    extent = float((centers - middle).norm(dim=-1).max())
    if float(middle.norm()) <= FARTHEST * max(extent, 1.0):
        return scene
    say(
        f"The cameras lie {float(middle.norm()):.4g} units from their origin, which is "
        f"moved to ({', '.join(f'{value:.3f}' for value in middle.tolist())})."
    )
    one = torch.ones((), dtype=torch.float64)
    shift = Similarity(one, torch.eye(3, dtype=torch.float64), -middle)
    provenance = {**scene.provenance, "origin": middle.tolist()}
    return replace(moved(scene, shift), provenance=provenance)
