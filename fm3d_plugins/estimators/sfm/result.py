"""What came of structure from motion: the scene, and a line about it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.errors import listed
from fm3d_plugins.estimators.matching.sparse_points import sparse_points
from fm3d_plugins.estimators.matching.working_photos import WorkingPhoto
from fm3d_plugins.estimators.sfm.attempts import GOOD_SHARE, Search
from fm3d_plugins.estimators.sfm.lenses import (
    LARGEST_FOCAL_DEVIATION,
    RATIO,
    SAID_FOCAL_DEVIATION,
    unsure_focals,
)
from fm3d_plugins.estimators.sfm.look_alikes import Doubt, Matches
from fm3d_plugins.geometry.cameras import resize_intrinsics
from fm3d_plugins.geometry.poses import rotation_angle_degrees
from fm3d_plugins.photos.photo import Photo
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.progress import say
from fm3d_plugins.scene import SceneGeometry

FINE = "by fine features, in a second look"
IN_ORDER = (
    "by photos near each other in the order of their names, for all matches contradict each other: "
    "parts that look alike. Name photos in the order in which they were taken around"
)
UNRELIABLE = (
    "Parts may look alike from several sides, or move. Take 20 photos or more all around, named in "
    "order; lay something distinct beside the thing; mask what does not move with it (README.md)"
)

FEW_POINTS = 80
"""Points that a photo sees, in the median, below which its camera is not sure: things of 60 came
out with AUC@5 of 0.25 to 0.86, though nothing contradicted their cameras, and others above 0.9."""

LITTLE_MOTION, MUCH_TURN = 0.1, 30.0
"""Spread of the cameras over their distance to what they see, and degrees between two of them.
Below the one and beyond the other photos are as of one place: of ten that were, a focal length 9 %
too long made 0.07. A walk straight on has 0.2, and a pair of photos of one thing turns little."""


@dataclass(frozen=True)
class Found:
    """Photos joined by some matches."""

    working: list[WorkingPhoto]
    groups: list[int]
    """The camera of each photo."""
    matches: Matches
    search: Search
    doubt: Doubt | None
    """What speaks against the cameras, or their number."""
    basis: str
    """What they were joined by, if not by all matches of ordinary features."""
    focal_deviation: float | None = None
    """Standard deviation of the focal length's logarithm, of cameras that are adjusted already."""

    @property
    def num_joined(self) -> int:
        """Photos with a camera."""
        return self.search.num_joined

    @property
    def is_sure(self) -> bool:
        """Whether nothing speaks against the cameras, and their photos see enough."""
        return self.doubt is None and points_seen(self.search.best) >= FEW_POINTS


def points_seen(model: SparseModel | None) -> float:
    """By a photo of a model, in the median."""
    if model is None:
        return 0.0
    return float(np.median(np.bincount(model.track_view, minlength=len(model))))


def tells_more(found: Found, first: Found) -> bool:
    """Whether a second look found more than the first: photos, or else points."""
    if found.doubt is not None:
        return False
    seen = tuple((one.num_joined, points_seen(one.search.best)) for one in (found, first))
    return first.doubt is not None or seen[0] > seen[1]


def scene_of(
    photos: PhotoSet,
    working: Sequence[WorkingPhoto],
    groups: Sequence[int],
    model: SparseModel,
    provenance: dict,
) -> SceneGeometry:
    """The model in pixels of the upright photos."""
    views = [working[row] for row in model.image_index]
    scale = torch.tensor([[1 / view.scale] * 2 for view in views], dtype=torch.float64)
    sparse = sparse_points(model, views)
    registered = set(model.image_index.tolist())
    return SceneGeometry(
        names=tuple(view.photo.name for view in views),
        image_sizes=torch.tensor([[view.photo.width, view.photo.height] for view in views]),
        world_from_camera=torch.from_numpy(model.world_from_camera),
        intrinsics=resize_intrinsics(torch.from_numpy(model.intrinsics), scale),
        distortion=torch.from_numpy(model.distortion),
        camera_index=torch.tensor([groups[row] for row in model.image_index]),
        points=torch.from_numpy(model.points),
        point_colors=sparse.colors,
        point_confidence=sparse.confidence,
        tracks=sparse.tracks,
        unregistered=tuple(photo.name for row, photo in enumerate(photos) if row not in registered),
        provenance=provenance,
    )


def say_result(scene: SceneGeometry, found: Found) -> None:
    """One line about the result, with the names of the photos that got no camera."""
    total = len(scene) + len(scene.unregistered)
    error = scene.provenance["mean_reprojection_error"]
    line = f"sfm: {len(scene)} of {total} photos, {len(scene.points)} points, {error:.2f} px"
    tried = found.search.tried
    if len(tried) > 1:
        line += f"; attempts: {', '.join(tried)} photos"
    if len(scene) < total / 2:
        line += ". Less than half of the photos hang together: the rest is missing from the scene"
    why = found.doubt
    if why is not None and (why.is_of_cameras or len(scene) >= GOOD_SHARE * total):
        line += f". Do not rely on these cameras: {why}. {UNRELIABLE}"
    elif found.basis:
        line += f". Joined {found.basis}"
    assert scene.tracks is not None
    seen = float(torch.bincount(scene.tracks.view_index, minlength=len(scene)).double().median())
    if seen < FEW_POINTS:
        line += (
            f". A photo sees {seen:.0f} points only: cameras may be several degrees off. Take "
            "larger or sharper photos, or lay something with texture beside the thing, "
            "to turn with it"
        )
    motion, turn = _motion(scene), _turn(scene)
    if motion < LITTLE_MOTION and turn > MUCH_TURN:
        line += (
            f". Cameras turn by {turn:.0f} degrees, but move by no more than {motion:.0%} of the "
            "distance to what they see, as of photos from one place: do not rely on depth and "
            "focal length. Move from photo to photo, do not only turn"
        )
    if scene.unregistered:
        line += f". Not registered: {', '.join(scene.unregistered)}"
    say(f"{line}.")


def _motion(scene: SceneGeometry) -> float:
    """Spread of the cameras over their median distance to the points that they see."""
    assert scene.tracks is not None
    centers = scene.world_from_camera[:, :3, 3]
    seen = scene.points[scene.tracks.point_index].to(centers)
    distances = (seen - centers[scene.tracks.view_index]).norm(dim=-1)
    spread = (centers - centers.mean(0)).norm(dim=-1).max()
    return float(spread / distances.median())


def _turn(scene: SceneGeometry) -> float:
    """Degrees between the two cameras that differ most, one of them the first."""
    rotations = scene.world_from_camera[:, :3, :3]
    return float(rotation_angle_degrees(rotations[:1].expand_as(rotations), rotations).max())


def say_guessed_focal(focal: float) -> None:
    """One line about two photos' focal length, pixels, that nothing tells."""
    say(
        "sfm: neither EXIF nor these photos tell the focal length. It is a guess "
        f"({focal:.0f} px), and angles and depths are off as it is. Add photos from other places."
    )


def say_unsure_focals(
    model: SparseModel,
    working: Sequence[WorkingPhoto],
    groups: Sequence[int],
    deviation: float | None = None,
) -> None:
    """One line where neither EXIF nor the photos tell a focal length well.

    Args:
        deviation: Of its logarithm, where it is known; of a model of one camera.
    """
    known = {groups[row] for row, one in enumerate(working) if one.photo.focal_prior}
    if known.issuperset(groups):
        return
    if deviation is None:
        found = unsure_focals(model, groups)
    else:
        found = {groups[0]: deviation} if deviation > SAID_FOCAL_DEVIATION else {}
    unsure = {group: each for group, each in found.items() if group not in known}
    if not unsure:
        return
    group = max(unsure, key=unsure.__getitem__)
    rows = model.image_index.tolist()
    view = [groups[row] for row in rows].index(group)
    focal = model.intrinsics[view, 0, 0] / working[rows[view]].scale
    is_finite = math.isfinite(unsure[group])
    surely = f"{100 * unsure[group]:.1f} %" if is_finite else "any size"
    hardly = "hardly tell" if unsure[group] > LARGEST_FOCAL_DEVIATION else "do not tell exactly"
    say(
        f"sfm: these photos {hardly} the focal length of {len(unsure)} of their cameras "
        f"({focal:.0f} px with a standard deviation of {surely}; twice as much is usual), and "
        "depths are as far off. Add photos from nearer and other places, or with EXIF."
    )


def say_asked_lens(lens: str, fault: str | None, missing: Sequence[str]) -> None:
    """One line about a lens that was asked for, if it is not to be relied on.

    Args:
        fault: What shows that its model cannot be right.
        missing: Numbers of it that the photos do not tell.
    """
    if fault is not None:
        say(
            f"sfm: --camera-model {lens} ended at {fault}, which is not believed: "
            "cameras keep the lens with which photos joined. Use --camera-model auto."
        )
    elif missing:
        held = " Both focal lengths are kept equal." if RATIO in missing else ""
        say(
            f"sfm: these photos do not tell {', '.join(missing)} of --camera-model "
            f"{lens}: do not rely on them, nor on what goes with them.{held} "
            "--camera-model auto leaves them out."
        )


def too_few(
    photos: PhotoSet, search: Search, matches: Matches, needed: int, ideas: str
) -> ValueError:
    """What is told where fewer photos than needed could be joined."""
    total, joined = len(photos), len(search.best) if search.best is not None else 0
    matched = {row for pair in matches for row in pair}
    lonely = [photo.name for row, photo in enumerate(photos) if row not in matched]
    found_out = [f"pairs with enough matches: {len(matches)}"]
    if lonely:
        found_out.append(f"no match at all: {listed(lonely, 10)}")
    blank = [photo.name for photo in photos if _is_masked_out(photo)]
    if blank:
        found_out.append(f"masks that leave nothing (0 is left out): {listed(blank, 10)}")
    if search.faults:
        found_out.append(f"discarded: {listed(search.faults, 3)}")
    return ValueError(
        f"sfm could join {joined} of {total} photos of {photos.folder} "
        f"({'; '.join(found_out)}). Expected at least {needed}. {ideas}"
    )


def _is_masked_out(photo: Photo) -> bool:
    keep = photo.usable_pixels(photo.open())
    return keep is not None and not keep.any()


def advice(
    photos: PhotoSet, max_image_size: int, camera: str, mapper: str, is_exhaustive: bool
) -> str:
    """What to try, leaving out what is already so.

    Args:
        max_image_size, camera, mapper: Of the estimator.
        is_exhaustive: All photos were compared with all.
    """
    ideas = [
        "take more photos, each overlapping the last by two thirds, moving rather than turning,"
        " sharp, of things with texture that do not move or shine"
    ]
    if max(max(photo.width, photo.height) for photo in photos) > max_image_size:
        ideas.append(f"set max_image_size above {max_image_size}")
    if not is_exhaustive:
        ideas.append("set matching to exhaustive")
    if camera != "per-photo":
        ideas.append("set camera to per-photo if the photos come from several cameras or zooms")
    ideas.append(f"set mapper to {'global' if mapper == 'incremental' else 'incremental'}")
    return f"Try: {'; '.join(ideas)}."
