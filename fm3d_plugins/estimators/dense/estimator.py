"""What estimators by dense networks share: their options, and the way from depth to a scene."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.errors import listed
from fm3d_plugins.estimators.base import RefinementOption
from fm3d_plugins.estimators.dense.cameras import (
    DenseCameras,
    known_cameras,
    respect_known,
    settle_cameras,
)
from fm3d_plugins.estimators.dense.points import PointOptions, points_from_views
from fm3d_plugins.estimators.matching.feature_kinds import FeaturesOption
from fm3d_plugins.estimators.network_weights import NetworkEstimator
from fm3d_plugins.estimators.stages import Stages
from fm3d_plugins.files import kind_of
from fm3d_plugins.geometry.cameras import equal_cameras
from fm3d_plugins.geometry.known_cameras import KnownCameras
from fm3d_plugins.io.posed_scenes import read_posed_scene
from fm3d_plugins.memory import available_memory
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.progress import say
from fm3d_plugins.scene import SceneGeometry, Tracks
from fm3d_plugins.view_depth import ViewDepth

LOW_CONFIDENCE = 0.1
"""Median confidence (1 - 1/c, so c of 1.1) of a photo below which the user is warned."""


@dataclass(frozen=True)
class DenseEstimator(PointOptions, NetworkEstimator):
    """Cameras, depth and points by a network. Subclasses add what only theirs has."""

    camera: Literal["auto", "shared", "per-photo"] = "auto"
    """Which photos share one focal length: those that agree in size and EXIF; all; none."""
    focal_length: float | None = None
    """Known focal length in pixels of the largest of the given photos, by whose longer side that
    of each follows; None: as the network sees it."""
    known_cameras: Path | None = None
    """Posed scene (transforms.json or COLMAP folder) with cameras of some or all photos, which
    are kept as they are; all else is aligned to them."""
    use_known_poses: bool = True
    """Otherwise only the intrinsics of known_cameras count."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the matrices; auto: bfloat16 where the device is fast at it."""
    refine: RefinementOption = "auto"
    """Make cameras exact by matches between the photos, and judge them. auto, map: what the network
    says of them counts as well; free: it does not, where photos are many; off: as the network
    sees them."""
    if_rejected: Literal["sfm", "keep"] = "sfm"
    """What becomes of cameras that --refine rejects: sfm puts its own in their place, without
    depth, if it finds most of the photos; keep leaves all as the network says."""
    features: FeaturesOption = "sift"
    """What --refine matches photos by: sift; or, through kornia, a network's features (disk or
    aliked) by LightGlue."""
    drop_sky: bool = True
    """Leave out the depth of smooth, bright areas that hang from a photo's upper border."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a device."""
    memory_gib: float | None = None
    """Memory that may be used, GiB; None: what is free on the device."""

    def estimate(self, photos: PhotoSet) -> SceneGeometry:
        """Find a camera and a depth map for every photo, and points.

        Raises:
            ValueError: As `find_cameras`, or no pixel can become a point.
        """
        scene = self.find_cameras(photos)
        return self.with_points(scene, range(len(scene)))

    def with_points(self, scene: SceneGeometry, views: Sequence[int]) -> SceneGeometry:
        """The scene with points of these views' pixels, and those that were there already.

        Raises:
            ValueError: An option makes no sense, or no pixel is left.
        """
        self.expect_ranges({})
        seen = scene.seen_from(views)
        if scene.depth is None or self._is_contradicted(scene):
            return seen
        with Stages().stage("Making points", total=len(views)) as report:
            found = points_from_views(scene, views, self, report)
        return found.added_to(seen)

    def _is_contradicted(self, scene: SceneGeometry) -> bool:
        """Whether matches say that depth is too far off for points; says so."""
        from fm3d_plugins.estimators.refinement.refine import DEPTH_ERROR, REPORT

        error = scene.provenance.get(REPORT, {}).get(DEPTH_ERROR)
        if error is None or self.max_depth_error is None or error <= self.max_depth_error:
            return False
        say(
            f"Depth is off by {error:.0%} where matches tell it (median), more than "
            f"{self.max_depth_error:.0%}: points are those of the matches alone "
            "(--max-depth-error)."
        )
        return True

    def point_options(self) -> dict:
        """What `with_points` depends on besides its arguments, as JSON values."""
        return {entry.name: getattr(self, entry.name) for entry in fields(PointOptions)}

    def identity(self) -> dict:
        """What `find_cameras` depends on besides the photos, as JSON values."""
        identity = super().identity()
        options = identity["options"]
        for name in ("memory_gib", *self.point_options()):
            del options[name]
        if self.known_cameras is not None:
            options["known_cameras"] = digest_of_scene(self.known_cameras)
        return identity

    def expect_ranges(self, more: Mapping[str, tuple[float | int, float | int]]) -> None:
        """Refuse senseless numbers by name.

        Args:
            more: Least and largest value of options that only the subclass has.

        Raises:
            ValueError: An option is out of its range, or two contradict each other.
        """
        ranges: dict[str, tuple[float | int, float | int]] = {
            "max_points": (1, float("inf")),
            "memory_gib": (0.1, float("inf")),
            "focal_length": (1, float("inf")),
            "confidence_percentile": (0, 100),
            "min_confidence": (0, 1),
            "depth_tolerance": (0, 1),
            "max_depth_error": (0, float("inf")),
            "consistent_views": (0, 6),
            **more,
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value}. Expected a number from {low} to {high}.")
        if self.focal_length is not None and self.known_cameras is not None:
            raise ValueError(
                "Both focal_length and known_cameras are given. Expected one of them, as both say "
                "what the focal length is. Leave one out."
            )

    def read_known(self, photos: PhotoSet, sizes: Sequence[tuple[int, int]]) -> KnownCameras | None:
        """The cameras that the user gives, if any.

        Raises:
            ValueError: They cannot be read, or belong to other photos.
        """
        if self.known_cameras is None:
            return None
        scene = read_posed_scene(self.known_cameras)
        names = [photo.name for photo in photos]
        return known_cameras(scene, names, sizes, str(self.known_cameras))

    def budget(self, device: torch.device) -> int:
        """Bytes that may be used."""
        return int(self.memory_gib * 2**30) if self.memory_gib else available_memory(device)

    def settled_cameras(
        self,
        world_from_camera: Float[Tensor, "view 4 4"],
        focals: Float[Tensor, " view"],
        sizes: Sequence[tuple[int, int]],
        groups: Sequence[int],
        known: KnownCameras | None,
    ) -> DenseCameras:
        """Cameras in photo pixels, with shared focal lengths and what the user knows of them."""
        cameras = settle_cameras(world_from_camera, focals, sizes, groups, self.focal_length)
        if known is None:
            return cameras
        return respect_known(cameras, known, use_poses=self.use_known_poses)

    def scene(
        self,
        photos: PhotoSet,
        groups: Sequence[int],
        cameras: DenseCameras,
        depth: ViewDepth,
        provenance: Mapping[str, object],
    ) -> SceneGeometry:
        """All of it as a scene without points, of which one line is said, and one more to warn."""
        none = torch.zeros(0, dtype=torch.long)
        scene = SceneGeometry(
            names=tuple(photo.name for photo in photos),
            image_sizes=torch.tensor([(photo.width, photo.height) for photo in photos]),
            world_from_camera=cameras.world_from_camera,
            intrinsics=cameras.intrinsics,
            distortion=cameras.distortion,
            # Given ones may differ within a group.
            camera_index=equal_cameras(
                torch.tensor(groups), cameras.intrinsics, cameras.distortion
            ),
            points=torch.zeros(0, 3),
            point_colors=torch.zeros(0, 3, dtype=torch.uint8),
            point_confidence=torch.zeros(0),
            tracks=Tracks(none, none, torch.zeros(0, 2, dtype=torch.float64)),
            depth=depth,
            provenance=self.identity() | dict(provenance),
        )
        _say(self.name, scene, depth)
        for note in cameras.notes:
            say(note)
        return scene


def digest_of_scene(path: Path) -> str:
    """A hash of the files that tell of cameras in a file or folder."""
    total = hashlib.blake2b(digest_size=16)
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in files:
        if file.suffix in (".json", ".bin", ".txt") and kind_of(file) == "a file":
            total.update(file.read_bytes())
    return total.hexdigest()


def _median_confidence(confidence: Float[Tensor, "rows columns"]) -> float:
    known = confidence[confidence > 0].float()
    return float(known.median()) if len(known) else 0.0


def _say(name: str, scene: SceneGeometry, depth: ViewDepth) -> None:
    medians = [_median_confidence(values) for values in depth.confidence]
    focals = sorted({round(float(matrix[0, 0]), 1) for matrix in scene.intrinsics})
    shown = f"{focals[0]:g}" if len(focals) == 1 else f"{focals[0]:g} to {focals[-1]:g}"
    say(
        f"{name}: {len(scene)} photos, focal length {shown} px, "
        f"median confidence {sorted(medians)[len(medians) // 2]:.2f} (0 to 1)."
    )
    low = [name for name, value in zip(scene.names, medians, strict=True) if value < LOW_CONFIDENCE]
    if low:
        say(
            f"{name} is unsure of {len(low)} photos, which may not overlap with the others or "
            f"show things that move: {listed(low, 10)}",
            "yellow",
        )
