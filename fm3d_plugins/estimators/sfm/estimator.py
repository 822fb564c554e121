"""Classical structure from motion: SIFT, verified matches, COLMAP's mappers, no weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.disk_space import temporary_folder
from fm3d_plugins.estimators.base import Estimator, RefinementOption
from fm3d_plugins.estimators.camera_groups import camera_groups
from fm3d_plugins.estimators.matching.feature_kinds import FeaturesOption, features_identity
from fm3d_plugins.estimators.matching.image_pairs import (
    exhaustive_pairs,
    sequential_pairs,
    similar_pairs,
)
from fm3d_plugins.estimators.matching.photo_matches import NEAR, THOROUGH, match_photos
from fm3d_plugins.estimators.matching.working_photos import WorkingPhoto, all_cores, find_features
from fm3d_plugins.estimators.sfm.attempts import Search, implausibility
from fm3d_plugins.estimators.sfm.joining import Joining
from fm3d_plugins.estimators.sfm.lenses import refine_as_asked, refine_by_evidence, with_told_focal
from fm3d_plugins.estimators.sfm.look_alikes import (
    MOST_CONTRADICTED,
    Matches,
    contradicted,
    fitting,
    goes_around,
    is_closed,
    near_in_order,
)
from fm3d_plugins.estimators.sfm.result import (
    FINE,
    IN_ORDER,
    Found,
    advice,
    say_asked_lens,
    say_guessed_focal,
    say_result,
    say_unsure_focals,
    scene_of,
    tells_more,
    too_few,
)
from fm3d_plugins.estimators.sfm.ring_cameras import as_ring
from fm3d_plugins.estimators.sfm.zooms import told_zooms
from fm3d_plugins.estimators.stages import Stages
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.progress import say
from fm3d_plugins.scene import SceneGeometry

VERSION = 7
"""Of what is computed here: kept results of another one are made anew."""

EXHAUSTIVE_UP_TO = 80
"""Photos; more of them are matched along their order and by their looks only."""

SIMILAR_NEIGHBOURS = 20
"""Photos that each of very many photos is matched with because they look alike."""


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
            seeks_zooms = self.camera == "auto"
            joining = Joining(
                folder, stages, seeks_zooms, self.camera_model, self.mapper, self.retries, self.seed
            )
            found = joining.joined(working, groups, matches)
            if self.retries and not found.is_sure and len(photos) <= EXHAUSTIVE_UP_TO:
                found = self._looked_again(photos, groups, found, joining)
            model = self._enough(photos, found.search, found.matches)
            with stages.stage("Adjusting cameras", total=1) as report:
                model = self._adjusted(model, found)
                report(1)
        provenance = self._provenance(model, found, stages)
        scene = scene_of(photos, found.working, found.groups, model, provenance)
        if found.groups != groups:
            scales = [one.scale for one in found.working]
            say(told_zooms(model, scales, groups, found.groups))
        say_result(scene, found)
        return scene

    def _looked_again(
        self, photos: PhotoSet, groups: list[int], first: Found, joining: Joining
    ) -> Found:
        """Photos that were not joined for sure, by more features, by fewer pairs, and as a ring."""
        found = first
        if self.features == "sift":
            working = self._find_features(photos, joining.stages, is_fine=True)
            matches = self._match(working, joining.stages, is_thorough=True)
            joining = joining.after(first, groups)
            found = joining.joined(working, groups, matches, FINE)
        if first.doubt is None or found.doubt is None:
            best = found if tells_more(found, first) else first
        else:
            best = self._joined_in_order(groups, first, found, joining)
        # A ring has cameras without distortion and is no mapper's.
        may_be_ring = self.camera_model in ("auto", "SIMPLE_PINHOLE") and self.mapper != "global"
        if best.is_sure or not may_be_ring:
            return best
        with joining.stages.stage("Trying a ring", total=1) as report:
            best = as_ring((best, first, found), groups)
            report(1)
        return best

    def _joined_in_order(
        self, groups: list[int], first: Found, found: Found, joining: Joining
    ) -> Found:
        """Photos by pairs that are near each other in order, if that leaves no doubt."""
        working, matches = found.working, found.matches
        keypoints = [one.features.keypoints for one in working]
        # Right cameras, too, contradict a pattern that repeats, but less.
        share = contradicted(found.search.best, keypoints, matches) if found.search.best else 0.0
        most = max(MOST_CONTRADICTED, share / 2)
        some = near_in_order(matches, len(working))
        near = joining.joined(working, groups, some, IN_ORDER, most)
        best = near.search.best
        if (
            near.doubt is None
            and best is not None
            and (goes_around(best) or not is_closed(some, len(working)))
        ):
            agreeing = fitting(best, keypoints, matches)
            more = joining.joined(working, groups, agreeing, IN_ORDER, most)
            return more if more.doubt is None and more.num_joined >= near.num_joined else near
        return max(first, found, key=lambda each: each.num_joined)

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

    def _find_features(
        self, photos: PhotoSet, stages: Stages, *, is_fine: bool = False
    ) -> list[WorkingPhoto]:
        with stages.stage("Finding features", total=len(photos)) as report:
            return find_features(
                photos.photos,
                max_features=self.max_features,
                max_image_size=self.max_image_size,
                num_threads=self._threads(),
                report=report,
                kind=self.features,
                is_fine=is_fine,
            )

    def _match(
        self, working: list[WorkingPhoto], stages: Stages, *, is_thorough: bool = False
    ) -> Matches:
        pairs = self._pairs([one.features.descriptors for one in working])
        demands = {}
        if is_thorough:
            near = near_in_order(dict.fromkeys(pairs), len(working))
            demands = {pair: NEAR if pair in near else THOROUGH for pair in pairs}
        with stages.stage("Matching photos", total=len(pairs)) as report:
            return match_photos(
                working,
                pairs,
                seed=self.seed,
                num_threads=self._threads(),
                report=report,
                demands=demands,
            )

    def _compares_all(self, count: int) -> bool:
        is_small = self.matching == "auto" and count <= EXHAUSTIVE_UP_TO
        return self.matching == "exhaustive" or is_small

    def _pairs(self, descriptors: Sequence[np.ndarray]) -> list[tuple[int, int]]:
        count = len(descriptors)
        if self._compares_all(count):
            return exhaustive_pairs(count)
        near = sequential_pairs(count, self.overlap)
        if self.matching == "sequential":
            return near
        return sorted({*near, *similar_pairs(descriptors, SIMILAR_NEIGHBOURS, self.seed)})

    def _adjusted(self, model: SparseModel, found: Found) -> SparseModel:
        """The model adjusted once more with its last lens; says what is not to be relied on."""
        working, groups, search = found.working, found.groups, found.search
        if found.focal_deviation is not None:
            say_unsure_focals(model, working, groups, found.focal_deviation)
            return model
        place, sizes = search.folder / "refined", search.image_sizes
        if search.holds_focal:
            guessed = [row for row in model.image_index if not working[row].photo.focal_prior]
            told = with_told_focal(model, groups, sizes, place) if guessed else model
            if told is None:
                say_guessed_focal(model.intrinsics[0, 0, 0] / working[0].scale)
            return model if told is None else told
        adjusted = self._with_last_lens(model, groups, place, sizes)
        say_unsure_focals(adjusted, working, groups)
        return adjusted

    def _with_last_lens(
        self,
        model: SparseModel,
        groups: Sequence[int],
        place: Path,
        sizes: Sequence[tuple[int, int]],
    ) -> SparseModel:
        """The model adjusted with the lens that was asked for, or that the photos tell."""
        if self.camera_model == "auto":
            return refine_by_evidence(model, groups, sizes, place)
        refined, missing = refine_as_asked(model, groups, place, self.camera_model)
        fault = implausibility(refined, sizes)
        say_asked_lens(self.camera_model, fault, missing)
        return refined if fault is None else model

    def _enough(self, photos: PhotoSet, search: Search, matches: Matches) -> SparseModel:
        """The best model, if it holds enough photos."""
        total, found = len(photos), len(search.best) if search.best is not None else 0
        needed = max(min(3, total), math.ceil(self.min_registered * total))
        if search.best is not None and found >= needed:
            return search.best
        is_exhaustive = self._compares_all(total)
        ideas = advice(photos, self.max_image_size, self.camera, self.mapper, is_exhaustive)
        raise too_few(photos, search, matches, needed, ideas)

    def _provenance(self, model: SparseModel, found: Found, stages: Stages) -> dict:
        search = found.search
        return self.identity() | {
            "seconds": stages.seconds,
            "mean_reprojection_error": model.mean_error,
            "num_models": search.num_models,
            "attempts": search.tried,
            "discarded": search.faults,
            "basis": found.basis or "by all matches",
            "doubt": None if found.doubt is None else str(found.doubt),
        }
