"""Photos joined by their matches, with the lenses and zooms that these tell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

from fm3d_plugins.backends.pycolmap.database import write_database
from fm3d_plugins.backends.pycolmap.mapping import refine_apart
from fm3d_plugins.backends.pycolmap.verification import CameraGuess
from fm3d_plugins.estimators.matching.photo_matches import camera_guess
from fm3d_plugins.estimators.matching.working_photos import WorkingPhoto
from fm3d_plugins.estimators.sfm.attempts import Search
from fm3d_plugins.estimators.sfm.lenses import explains_as_much, first_lens, is_bent
from fm3d_plugins.estimators.sfm.look_alikes import MOST_CONTRADICTED, Matches, doubt
from fm3d_plugins.estimators.sfm.result import Found
from fm3d_plugins.estimators.sfm.zooms import (
    explains_more,
    odd_rows,
    parted_by_zoom,
    relative_focals,
)
from fm3d_plugins.estimators.stages import Stages

LEAST_JOINED_TO_TELL_ZOOMS = 0.5
"""Of the photos that have matches, in a model with shared cameras. Where fewer hang together, it is
for want of overlap: the zooms that were found then, at up to half of all costs, were wrong."""


@dataclass(frozen=True)
class Joining:
    """How photos are joined, and where."""

    folder: Path
    stages: Stages
    seeks_zooms: bool
    """Whether photos that would share a camera may get several."""
    camera_model: str
    mapper: Literal["incremental", "global"]
    retries: bool
    seed: int

    def after(self, first: Found, groups: list[int]) -> "Joining":
        """For a second look: where the first could tell zooms and found none, none are sought."""
        had_none = first.groups == groups and _tells_zooms(first.search)
        return replace(self, seeks_zooms=self.seeks_zooms and not had_none)

    def joined(
        self,
        working: list[WorkingPhoto],
        groups: list[int],
        matches: Matches,
        basis: str = "",
        most_contradicted: float = MOST_CONTRADICTED,
    ) -> Found:
        """Photos joined by some matches, each zoom with a camera of its own.

        Args:
            groups: Which photos share a camera, as far as is known beforehand.
            basis: What matches these are, for the result's line.
            most_contradicted: As of `doubt`.
        """
        search = self.search(working, groups, matches, "Joining photos")
        search = self._with_simpler_lens(working, groups, matches, search)
        own, search = self._parted_by_zoom(working, groups, matches, search)
        keypoints = [one.features.keypoints for one in working]
        why = doubt(search.best, keypoints, matches, most_contradicted)
        return Found(working, own, matches, search, why, basis)

    def _with_simpler_lens(
        self, working: list[WorkingPhoto], groups: list[int], matches: Matches, bent: Search
    ) -> Search:
        """Photos joined without lens distortion, which the last adjustment adds, where that does
        as much.

        While photos join, k1 can go so far that no adjustment brings it back, or that no photo
        joins.
        """
        is_sound = bent.is_done and not is_bent(bent.best, bent.image_sizes)
        if is_sound or not matches or not bent.is_bendable:
            return bent
        lens = "SIMPLE_PINHOLE"
        guesses = [camera_guess(working[groups.index(n)], lens) for n in range(max(groups) + 1)]
        plain = self.search(working, groups, matches, "Trying a lens", guesses)
        if not bent.is_done and plain.num_joined > bent.num_joined:
            return plain
        return plain if explains_as_much(plain.best, bent.best) else bent

    def _parted_by_zoom(
        self, working: list[WorkingPhoto], groups: list[int], matches: Matches, together: Search
    ) -> tuple[list[int], Search]:
        """Cameras by zoom where the photos of one are found to have several; else as they are.

        What photos themselves say of their focal length is asked of the model in which they share
        cameras, and where it says that they differ, or lacks photos, of one in which they do not.
        """
        sizes, best = together.image_sizes, together.best
        count = len(working)
        can_differ = self.seeks_zooms and len(set(groups)) < count and count > 2  # noqa: PLR2004
        if not (can_differ and _tells_zooms(together)):
            return groups, together
        focals: dict[int, float] = {}
        if best is not None:
            with self.stages.stage("Looking for zooms", total=1) as report:
                focals = relative_focals(refine_apart(best, together.folder / "focals"), sizes)
                report(1)
            all_there = len(best) == together.num_reachable
            if all_there and parted_by_zoom(focals, groups) == groups:
                return groups, together
        guesses = [
            self._guess(one, groups.count(group))
            for one, group in zip(working, groups, strict=True)
        ]
        alone = self.search(working, range(count), matches, "Measuring zooms", guesses)
        if alone.best is None:
            return groups, together
        parted = parted_by_zoom(focals | relative_focals(alone.best, sizes), groups)
        if parted == groups:
            return groups, together
        found = self.search(working, parted, matches, "Joining by zoom")
        keypoints = [one.features.keypoints for one in working]
        odd = odd_rows(groups, parted)
        if found.best is None or not explains_more(found.best, best, odd, keypoints):
            return groups, together
        return parted, found

    def search(
        self,
        working: list[WorkingPhoto],
        groups: Sequence[int],
        matches: Matches,
        stage: str,
        guesses: Sequence[CameraGuess] | None = None,
    ) -> Search:
        """Models of photos that share cameras by `groups`."""
        if guesses is None:
            numbers = range(max(groups) + 1)
            guesses = [self._guess(working[groups.index(n)], groups.count(n)) for n in numbers]
        place = Path(mkdtemp(dir=self.folder))
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
            is_bendable=any(each.model == "SIMPLE_RADIAL" for each in guesses),
        )
        with self.stages.stage(stage, total=len(working)) as report:
            if reachable and self.mapper == "global":
                search.solve_globally(knows_focal=knows_focal)
            elif reachable:
                search.climb(with_retries=self.retries, knows_focal=knows_focal, report=report)
            report(len(search.best) if search.best is not None else 0)
        return search

    def _guess(self, one: WorkingPhoto, num_photos: int) -> CameraGuess:
        return camera_guess(one, first_lens(self.camera_model, num_photos))


def _tells_zooms(together: Search) -> bool:
    return together.num_joined >= LEAST_JOINED_TO_TELL_ZOOMS * together.num_reachable
