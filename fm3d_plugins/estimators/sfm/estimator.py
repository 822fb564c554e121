"""Classical structure from motion: SIFT, verified matches, COLMAP's mappers, no weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar, Literal

import numpy as np
import torch

from fm3d_plugins.backends.pycolmap.database import write_database
from fm3d_plugins.backends.pycolmap.mapping import refine_apart, refine_model
from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.backends.pycolmap.verification import CameraGuess, VerifiedMatches
from fm3d_plugins.disk_space import temporary_folder
from fm3d_plugins.errors import listed
from fm3d_plugins.estimators.base import Estimator, RefinementOption
from fm3d_plugins.estimators.camera_groups import camera_groups
from fm3d_plugins.estimators.matching.feature_kinds import FeaturesOption, features_identity
from fm3d_plugins.estimators.matching.image_pairs import (
    exhaustive_pairs,
    sequential_pairs,
    similar_pairs,
)
from fm3d_plugins.estimators.matching.photo_matches import camera_guess, match_photos
from fm3d_plugins.estimators.matching.sparse_points import sparse_points
from fm3d_plugins.estimators.matching.working_photos import WorkingPhoto, all_cores, find_features
from fm3d_plugins.estimators.sfm.attempts import Search, implausibility
from fm3d_plugins.estimators.sfm.lenses import refine_by_evidence, untold, with_told_focal
from fm3d_plugins.estimators.sfm.zooms import (
    explains_more,
    odd_rows,
    parted_by_zoom,
    relative_focals,
    told_zooms,
)
from fm3d_plugins.estimators.stages import Stages
from fm3d_plugins.geometry.cameras import resize_intrinsics
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.progress import say
from fm3d_plugins.scene import SceneGeometry

VERSION = 2
"""Of what is computed here: kept results of another one are made anew."""

EXHAUSTIVE_UP_TO = 80
"""Photos; more of them are matched along their order and by their looks only."""

SIMILAR_NEIGHBOURS = 20
"""Photos that each of very many photos is matched with because they look alike."""


Matches = Mapping[tuple[int, int], VerifiedMatches]


@dataclass(frozen=True)
class Sfm(Estimator):
    """Cameras and points by pycolmap, on the CPU.

    `point_confidence` is (1 - 2^(1 - n)) / (1 + e²) for a point that n photos see with a mean
    reprojection error of e pixels (of the photos as they were worked on, see `max_image_size`).
    """

    name: ClassVar[str] = "sfm"

    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """Which photos are compared: all with all; each with its neighbours in name order; or (auto) all with all up to 80 photos, and neighbours and photos that look alike beyond."""  # noqa: E501
    overlap: int = 10
    """Neighbours in name order that each photo is compared with when not all are."""
    mapper: Literal["incremental", "global"] = "incremental"
    """Join photo after photo, or solve for all cameras at once (faster for hundreds of photos)."""
    camera: Literal["auto", "shared", "per-photo"] = "auto"
    """Which photos share one focal length and lens: those that agree in size, EXIF and, as found from the photos, zoom; all; none."""  # noqa: E501
    camera_model: Literal[
        "auto", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"
    ] = "auto"
    """Lens model. Auto: SIMPLE_RADIAL, and for cameras that took at least 8 photos as many of OPENCV's numbers as the photos tell."""  # noqa: E501
    max_image_size: int = 1600
    """Longest side in pixels at which features are sought; larger photos are scaled down."""
    features: FeaturesOption = "sift"
    """What photos are matched by: sift; or, through kornia, a network's features (disk, aliked) by LightGlue."""  # noqa: E501
    max_features: int = 8192
    """Most features per photo; of disk and aliked there are 2048 at most."""
    retries: bool = True
    """Try again with lower demands when fewer than 90 % of the photos join the model."""
    min_registered: float = 0.25
    """Share of the photos that must get a camera (never fewer than 3 photos, or 2 of 2)."""
    refine: RefinementOption = "off"
    """Adjust cameras once more, by all matches and with judgement: map (or auto) or free; off."""
    seed: int = 0
    """Seed of all random choices."""
    num_threads: int | None = None
    """Threads for features and matches; all cores by default. The result does not depend on it."""

    def identity(self) -> dict:
        """Everything besides the photos that the result depends on, as JSON values."""
        identity = super().identity()
        del identity["options"]["num_threads"]
        made_by = {"version": VERSION, "pycolmap": version("pycolmap")}
        return identity | made_by | features_identity(self.features)

    @property
    def is_by_matches(self) -> bool:
        """They do."""
        return True

    def estimate(self, photos: PhotoSet) -> SceneGeometry:
        """Find a camera for as many photos as possible, and points.

        Raises:
            ValueError: Too few photos, or too few of them overlap; the message says what to try.
        """
        self._expect_usable(photos)
        groups = camera_groups(photos.photos, self.camera)
        stages = Stages()
        with temporary_folder("sfm") as folder:
            working = self._find_features(photos, stages)
            matches = self._match(working, stages)
            search = self._search(working, groups, matches, folder, "Joining photos", stages)
            groups, search = self._parted_by_zoom(working, groups, matches, search, stages)
            model = self._enough(photos, search, matches)
            with stages.stage("Adjusting cameras", total=1) as report:
                model = self._adjusted(model, working, groups, search)
                report(1)
        scene = _scene(photos, working, groups, model, self._provenance(model, search, stages))
        _say(scene, search)
        return scene

    def _expect_usable(self, photos: PhotoSet) -> None:
        if len(photos) < 2:
            raise ValueError(
                f"{photos.folder} holds {len(photos)} photo. Expected at least 2 that overlap, "
                "better 20 or more: depth comes from seeing the same thing from several places. "
                "Add photos taken from other places."
            )
        least = {"overlap": 1, "max_image_size": 64, "max_features": 1, "num_threads": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"{name} is {value}. Expected {bound} or more.")
        if not 0 <= self.min_registered <= 1:
            raise ValueError(
                f"min_registered is {self.min_registered}. Expected a share from 0 to 1."
            )

    def _threads(self) -> int:
        return self.num_threads or all_cores()

    def _find_features(self, photos: PhotoSet, stages: Stages) -> list[WorkingPhoto]:
        with stages.stage("Finding features", total=len(photos)) as report:
            return find_features(
                photos.photos,
                max_features=self.max_features,
                max_image_size=self.max_image_size,
                num_threads=self._threads(),
                report=report,
                kind=self.features,
            )

    def _guess(self, one: WorkingPhoto, num_photos: int) -> CameraGuess:
        return camera_guess(one, self._first_lens(num_photos))

    def _match(self, working: list[WorkingPhoto], stages: Stages) -> Matches:
        pairs = self._pairs([one.features.descriptors for one in working])
        with stages.stage("Matching photos", total=len(pairs)) as report:
            return match_photos(
                working, pairs, seed=self.seed, num_threads=self._threads(), report=report
            )

    def _first_lens(self, num_photos: int) -> str:
        """The lens model with which a camera that took so many photos is first estimated.

        While photos join, a single one seldom tells its lens distortion: ten photos by ten people
        (sacre_coeur) are all joined without, and three to eight of them with. Nor does it ever
        have more numbers than a focal length and k1: among few photos they go anywhere.
        """
        if self.camera_model in ("SIMPLE_PINHOLE", "PINHOLE"):
            return "SIMPLE_PINHOLE"
        asked = self.camera_model != "auto"
        return "SIMPLE_RADIAL" if asked or num_photos > 1 else "SIMPLE_PINHOLE"

    def _pairs(self, descriptors: Sequence[np.ndarray]) -> list[tuple[int, int]]:
        count = len(descriptors)
        is_small = self.matching == "auto" and count <= EXHAUSTIVE_UP_TO
        if self.matching == "exhaustive" or is_small:
            return exhaustive_pairs(count)
        near = sequential_pairs(count, self.overlap)
        if self.matching == "sequential":
            return near
        return sorted({*near, *similar_pairs(descriptors, SIMILAR_NEIGHBOURS, self.seed)})

    def _search(
        self,
        working: list[WorkingPhoto],
        groups: Sequence[int],
        matches: Matches,
        folder: Path,
        stage: str,
        stages: Stages,
        guesses: Sequence[CameraGuess] | None = None,
    ) -> Search:
        """Models of photos that share cameras by `groups`."""
        if guesses is None:
            numbers = range(max(groups) + 1)
            guesses = [self._guess(working[groups.index(n)], groups.count(n)) for n in numbers]
        place = Path(mkdtemp(dir=folder))
        keypoints = [one.features.keypoints for one in working]
        write_database(place / "scene.db", guesses, groups, keypoints, matches)
        reachable = {row for pair in matches for row in pair}
        knows_focal = all(one.photo.focal_prior is not None for one in working)
        search = Search(
            database=place / "scene.db",
            folder=place,
            image_sizes=[(one.width, one.height) for one in working],
            num_reachable=len(reachable),
            seed=self.seed,
        )
        with stages.stage(stage, total=len(working)) as report:
            if reachable and self.mapper == "global":
                search.solve_globally(knows_focal=knows_focal)
            elif reachable:
                search.climb(with_retries=self.retries, knows_focal=knows_focal, report=report)
            report(len(search.best) if search.best is not None else 0)
        return search

    def _parted_by_zoom(
        self,
        working: list[WorkingPhoto],
        groups: list[int],
        matches: Matches,
        together: Search,
        stages: Stages,
    ) -> tuple[list[int], Search]:
        """Cameras by zoom where the photos of one are found to have several; else as they are.

        What photos themselves say of their focal length is asked of the model in which they share
        cameras, and where it says that they differ, or lacks photos, of one in which they do not.
        """
        sizes, best, folder = together.image_sizes, together.best, together.folder.parent
        count = len(working)
        if self.camera != "auto" or len(set(groups)) == count or count < 3:
            return groups, together
        focals: dict[int, float] = {}
        if best is not None:
            with stages.stage("Looking for zooms", total=1) as report:
                focals = relative_focals(refine_apart(best, together.folder / "focals"), sizes)
                report(1)
            all_there = len(best) == together.num_reachable
            if all_there and parted_by_zoom(focals, groups) == groups:
                return groups, together
        guesses = [
            self._guess(one, groups.count(group))
            for one, group in zip(working, groups, strict=True)
        ]
        alone = self._search(
            working, range(count), matches, folder, "Measuring zooms", stages, guesses
        )
        if alone.best is None:
            return groups, together
        parted = parted_by_zoom(focals | relative_focals(alone.best, sizes), groups)
        if parted == groups:
            return groups, together
        found = self._search(working, parted, matches, folder, "Joining by zoom", stages)
        keypoints = [one.features.keypoints for one in working]
        odd = odd_rows(groups, parted)
        if found.best is None or not explains_more(found.best, best, odd, keypoints):
            return groups, together
        say(told_zooms(found.best, [one.scale for one in working], groups, parted))
        return parted, found

    def _adjusted(
        self, model: SparseModel, working: list[WorkingPhoto], groups: Sequence[int], search: Search
    ) -> SparseModel:
        """The model adjusted once more with its last lens; says what is not to be relied on."""
        place, sizes = search.folder / "refined", search.image_sizes
        if search.holds_focal:
            guessed = [row for row in model.image_index if not working[row].photo.focal_prior]
            told = with_told_focal(model, groups, sizes, place) if guessed else model
            if told is None:
                say(
                    "sfm: neither EXIF nor these photos tell the focal length. It is a guess "
                    f"({model.intrinsics[0, 0, 0] / working[0].scale:.0f} px), and angles and "
                    "depths are off as it is. Add photos from other places."
                )
            return model if told is None else told
        if self.camera_model == "auto":
            return refine_by_evidence(model, groups, sizes, place)
        cameras = dict.fromkeys([groups[row] for row in model.image_index], self.camera_model)
        refined = refine_model(model, place, cameras)
        fault, missing = implausibility(refined, sizes), untold(model, groups, self.camera_model)
        if fault is not None:
            say(
                f"sfm: --camera-model {self.camera_model} ended at {fault}, which is not believed: "
                "cameras keep the lens with which photos joined. Use --camera-model auto."
            )
        elif missing:
            say(
                f"sfm: these photos do not tell {', '.join(missing)} of --camera-model "
                f"{self.camera_model}: do not rely on them, nor on what goes with them. "
                "--camera-model auto leaves them out."
            )
        return refined if fault is None else model

    def _enough(self, photos: PhotoSet, search: Search, matches: Matches) -> SparseModel:
        """The best model, if it holds enough photos."""
        total, found = len(photos), len(search.best) if search.best is not None else 0
        needed = max(min(3, total), math.ceil(self.min_registered * total))
        if search.best is not None and found >= needed:
            return search.best
        matched = {row for pair in matches for row in pair}
        lonely = [photo.name for row, photo in enumerate(photos) if row not in matched]
        found_out = [f"pairs with enough matches: {len(matches)}"]
        if lonely:
            found_out.append(f"no match at all: {listed(lonely, 10)}")
        if search.faults:
            found_out.append(f"discarded: {listed(search.faults, 3)}")
        raise ValueError(
            f"sfm could join {found} of {total} photos of {photos.folder} "
            f"({'; '.join(found_out)}). Expected at least {needed}. {self._advice(photos)}"
        )

    def _advice(self, photos: PhotoSet) -> str:
        """What to try, leaving out what is already so."""
        longest = max(max(photo.width, photo.height) for photo in photos)
        ideas = [
            "take more photos, each overlapping the last by two thirds, moving rather than turning,"
            " sharp, of things with texture that do not move or shine"
        ]
        if longest > self.max_image_size:
            ideas.append(f"set max_image_size above {self.max_image_size}")
        if self.matching != "exhaustive" and (
            self.matching == "sequential" or len(photos) > EXHAUSTIVE_UP_TO
        ):
            ideas.append("set matching to exhaustive")
        if self.camera != "per-photo":
            ideas.append("set camera to per-photo if the photos come from several cameras or zooms")
        ideas.append(f"set mapper to {'global' if self.mapper == 'incremental' else 'incremental'}")
        return f"Try: {'; '.join(ideas)}."

    def _provenance(self, model: SparseModel, search: Search, stages: Stages) -> dict:
        return self.identity() | {
            "seconds": stages.seconds,
            "mean_reprojection_error": model.mean_error,
            "num_models": search.num_models,
            "attempts": search.tried,
            "discarded": search.faults,
        }


def _scene(
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


def _say(scene: SceneGeometry, search: Search) -> None:
    """One line about the result, with the names of the photos that got no camera."""
    total = len(scene) + len(scene.unregistered)
    error = scene.provenance["mean_reprojection_error"]
    line = f"sfm: {len(scene)} of {total} photos, {len(scene.points)} points, {error:.2f} px"
    if len(search.tried) > 1:
        line += f"; attempts: {', '.join(search.tried)} photos"
    if len(scene) < total / 2:
        line += ". Less than half of the photos hang together: the rest is missing from the scene"
    if scene.unregistered:
        line += f". Not registered: {', '.join(scene.unregistered)}"
    say(f"{line}.")
