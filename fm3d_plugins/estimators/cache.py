"""Estimates on disk, found again by what they were made from."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock
from nerfstudio.utils.rich_utils import CONSOLE

from fm3d_plugins.cache_folder import cache_folder
from fm3d_plugins.estimators.base import Estimator
from fm3d_plugins.estimators.matching.found_once import finding_once
from fm3d_plugins.photos.photo_set import PhotoSet, find_photos
from fm3d_plugins.progress import say, track
from fm3d_plugins.scene import FORMAT, SceneGeometry

MOST_PHOTOS = 0.75
"""Of all photos, for which `sfm` must find cameras to stand in the place of rejected ones."""


def cache_key(estimator: Estimator, photos: PhotoSet) -> str:
    """A hash of photos, estimator, options, package version and file format."""
    made_from = {
        "photos": photos.digest,
        "package": version("fm3d-plugins"),
        "format": FORMAT,
        **estimator.identity(),
    }
    return content_hash(made_from)


def estimated(
    data: str | Path,
    estimator: Estimator,
    *,
    skip_unreadable: bool = False,
    cache_dir: Path | None = None,
) -> tuple[PhotoSet, SceneGeometry]:
    """The photos of a folder and their cameras; what is odd about them is said.

    Raises:
        ValueError: Photos cannot be read, or the estimator finds nothing usable.
        OSError: The folder holds no photo, or the cache folder cannot be written.
    """
    photos = find_photos(data, skip_unreadable=skip_unreadable, progress=track)
    for warning in photos.warnings:
        CONSOLE.print(f"Warning: {warning}", style="yellow", markup=False)
    estimator.check_features()
    with finding_once():
        cameras = cameras_cached(estimator, photos, cache_dir)
        scene = refined_cached(estimator, photos, cameras, cache_dir)
    if scene.unregistered:
        CONSOLE.print(
            f"No camera was found for {len(scene.unregistered)} of {len(photos)} photos, which "
            f"are left out: {', '.join(scene.unregistered)}",
            style="yellow",
            markup=False,
        )
    return photos, scene


def cameras_cached(
    estimator: Estimator, photos: PhotoSet, cache_dir: Path | None = None
) -> SceneGeometry:
    """`Estimator.find_cameras`: read when it was made before, otherwise made and kept.

    Processes that want the same estimate at once wait for the first (so do the ranks of a
    distributed run). A file that cannot be read, or is not of exactly these photos, is made anew,
    with a line.

    Raises:
        ValueError: The estimator finds nothing usable, or names other photos than it was given.
        OSError: The cache folder cannot be written.
    """
    name = f"{estimator.name}-{cache_key(estimator, photos)}"
    return _kept(
        name,
        lambda: _complete(estimator.find_cameras(photos), photos),
        lambda scene: _expect_photos(scene, photos),
        cache_dir,
    )


def refined_cached(
    estimator: Estimator, photos: PhotoSet, scene: SceneGeometry, cache_dir: Path | None = None
) -> SceneGeometry:
    """The scene refined as the estimator's option `refine` says, and what came of it, said.

    Where its cameras are rejected, those of `sfm` stand in their place if they are of most photos
    and the estimator has nothing against it; otherwise they stay as they are. Kept likewise.

    Args:
        scene: Of `cameras_cached`.
    """
    mode = estimator.refinement
    if mode == "off" or len(scene) < 2 or scene.scale == "latent":
        return scene
    from fm3d_plugins.estimators.refinement.refine import (
        VERSION,
        is_rejected,
        refine,
        said,
        with_depth,
    )
    from fm3d_plugins.estimators.sfm.estimator import Sfm

    in_its_place = Sfm(features=estimator.matched_by)
    made_from = [cache_key(estimator, photos), mode, VERSION, in_its_place.identity()]
    made_from += ["tracks"] if estimator.refines_by_tracks else []
    made_from += [] if estimator.has_stand_in else ["kept"]

    def make() -> SceneGeometry:
        found = refine(
            scene,
            photos,
            "free" if mode == "free" else "map",
            features=estimator.matched_by,
            uses_tracks=estimator.refines_by_tracks,
        )
        say(said(found), "yellow" if is_rejected(found) else None)
        if is_rejected(found) and estimator.has_stand_in:
            found = _from_matches_alone(photos, found, in_its_place, cache_dir)
        elif is_rejected(found) and not estimator.is_by_matches:
            found = _left(found, "sfm was not asked (if_rejected is keep)")
        # Depth is in the file of the cameras.
        return replace(found, depth=None)

    found = _kept(
        f"{estimator.name}-refined-{content_hash(made_from)}",
        make,
        lambda made: _expect_photos(made, photos),
        cache_dir,
    )
    return with_depth(found, scene.depth)


def points_cached(
    estimator: Estimator,
    photos: PhotoSet,
    scene: SceneGeometry,
    views: Sequence[int],
    cache_dir: Path | None = None,
) -> SceneGeometry:
    """`Estimator.with_points`; kept likewise where points are made of depth.

    Args:
        scene: Of `cameras_cached`.
        views: Rows of the scene.
    """
    if scene.depth is None:
        return estimator.with_points(scene, views)
    made_from = [cache_key(estimator, photos), estimator.point_options(), list(views)]
    if estimator.refinement != "off":
        made_from += [estimator.refinement, estimator.matched_by, estimator.refines_by_tracks]
        made_from += [] if estimator.has_stand_in else ["kept"]
    name = f"{estimator.name}-points-{content_hash(made_from)}"
    made = _kept(
        name,
        # Depth is in the file of the cameras.
        lambda: replace(estimator.with_points(scene, views), depth=None),
        lambda made: _expect_cameras(made, scene),
        cache_dir,
    )
    return replace(made, depth=scene.depth)


def _from_matches_alone(
    photos: PhotoSet, rejected: SceneGeometry, sfm: Estimator, cache_dir: Path | None
) -> SceneGeometry:
    """The scene of `sfm` if it has a camera for most photos, else the one that was rejected."""
    from fm3d_plugins.estimators.refinement.refine import REPORT

    try:
        found = cameras_cached(sfm, photos, cache_dir)
    except ValueError as error:
        why = str(error).splitlines()[0]
    else:
        if len(found) >= MOST_PHOTOS * len(photos):
            lost = rejected.scale == "metric" and found.scale != "metric"
            say(
                f"The cameras of sfm stand in their place ({len(found)} of {len(photos)} photos)"
                + (", in no known unit: the metres are gone." if lost else ".")
            )
            told = {
                **rejected.provenance,
                "sfm": found.provenance,
                REPORT: {**rejected.provenance[REPORT], "used": "sfm"},
            }
            return replace(found, provenance=told)
        why = f"sfm found {len(found)} of {len(photos)} photos"
    return _left(rejected, why)


def _left(rejected: SceneGeometry, why: str) -> SceneGeometry:
    """The rejected scene, with a line that nothing took its place."""
    from fm3d_plugins.estimators.refinement.refine import REPORT

    say(f"The cameras stay as they were, unverified: {why}", "yellow")
    report = {**rejected.provenance[REPORT], "used": "prior"}
    return replace(rejected, provenance={**rejected.provenance, REPORT: report})


def _complete(scene: SceneGeometry, photos: PhotoSet) -> SceneGeometry:
    """The scene, which names every photo: those without a camera as unregistered."""
    named = {*scene.names, *scene.unregistered}
    lacking = tuple(photo.name for photo in photos if photo.name not in named)
    complete = replace(scene, unregistered=scene.unregistered + lacking) if lacking else scene
    _expect_photos(complete, photos)
    return complete


def _expect_photos(scene: SceneGeometry, photos: PhotoSet) -> None:
    """Raise ValueError where a scene is not of exactly these photos, at their sizes."""
    asked = {photo.name: (photo.width, photo.height) for photo in photos}
    named = {*scene.names, *scene.unregistered}
    if named != set(asked):
        raise ValueError(
            f"The scene names {len(named)} photos, of which {len(named - set(asked))} are not "
            f"among the {len(asked)} that it was asked for, and {len(set(asked) - named)} of those "
            f"are not in it (such as {min(named ^ set(asked))!r})."
        )
    for name, size in zip(scene.names, scene.image_sizes.tolist(), strict=True):
        if tuple(size) != asked[name]:
            raise ValueError(
                f"The scene has {name} at {size[0]} x {size[1]} pixels; the photo has "
                f"{asked[name][0]} x {asked[name][1]}."
            )


def _expect_cameras(made: SceneGeometry, scene: SceneGeometry) -> None:
    """Raise ValueError where points were made for other cameras: those were made anew since."""
    same = (made.names, made.unregistered) == (scene.names, scene.unregistered) and all(
        torch.equal(getattr(made, name), getattr(scene, name))
        for name in ("image_sizes", "world_from_camera", "intrinsics", "distortion")
    )
    if not same:
        raise ValueError("The points belong to other cameras than those of the scene.")


def _kept(
    name: str,
    make: Callable[[], SceneGeometry],
    check: Callable[[SceneGeometry], None],
    cache_dir: Path | None,
) -> SceneGeometry:
    """A scene of the cache if it can be read and `check` raises no ValueError, else a new one."""
    folder = cache_folder(cache_dir) / "scenes"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"The cache folder {folder} cannot be made ({error.strerror}). Expected a folder that "
            "can be written. Choose another with --cache-dir or FM3D_CACHE_DIR."
        ) from error
    path = folder / f"{name}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            try:
                scene = SceneGeometry.load(path)
                check(scene)
            except ValueError as error:
                say(f"{path} is not used and made anew: {error}", "yellow")
            else:
                CONSOLE.print(f"{len(scene)} cameras read from {path}", markup=False)
                return scene
        scene = make()
        scene.save(path)
    return scene


def content_hash(made_from: object) -> str:
    """Of all that something was made from, in JSON's types: its name on disk."""
    text = json.dumps(made_from, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
