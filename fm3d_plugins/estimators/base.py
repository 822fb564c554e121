"""The seam between photos and cameras: `Estimator`, and the table that names every one.

An estimator is a frozen dataclass: its fields are its options, and their docstrings are the help
of `ns-train … <name>` and of `fm3d process <name>` alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Annotated, ClassVar, Literal

import tyro

from fm3d_plugins.estimators.matching.feature_kinds import FeatureKind, require_features
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.scene import SceneGeometry

ENTRY_POINT_GROUP = "fm3d_plugins.estimators"
"""Other packages add estimators here: name = "module:Class", Class a subclass of `Estimator`."""

Refinement = Literal["auto", "off", "map", "free"]

RefinementOption = Annotated[Refinement, tyro.conf.arg(prefix_name=False)]
"""Type of an estimator's option `refine`, which is --refine everywhere."""

_BUILT_IN = {
    "sfm": "fm3d_plugins.estimators.sfm.estimator:Sfm",
    "vggt": "fm3d_plugins.estimators.vggt.estimator:Vggt",
    "dust3r": "fm3d_plugins.estimators.dust3r.estimator:Dust3r",
    "rayzer": "fm3d_plugins.estimators.rayzer.estimator:Rayzer",
    "given": "fm3d_plugins.estimators.given.estimator:Given",
}


@dataclass(frozen=True)
class Estimator(ABC):
    """Photos in, cameras and points out. Subclasses are frozen dataclasses of options."""

    name: ClassVar[str]
    """The word typed on the command line."""

    @abstractmethod
    def estimate(self, photos: PhotoSet) -> SceneGeometry:
        """Find a camera for as many photos as possible, and points.

        The same photos, options and versions give the same scene on the same machine.

        Raises:
            ValueError: Nothing usable can be found; the message says what to try.
        """

    def check_weights(self) -> None:
        """Refuse weights that cannot be had, before anything is read; most estimators need none.

        Raises:
            ValueError: They are refused, or of an unknown name; or features are asked for that
                nothing looks at.
            FileNotFoundError: They are absent, and the network is switched off.
            ImportError: What they run on is not installed.
        """
        self.check_features()

    def check_features(self) -> None:
        """Refuse features that cannot be had, or that nothing looks at.

        Raises:
            ValueError, FileNotFoundError, ImportError: As `check_weights`.
        """
        if self.matched_by != "sift" and not (self.is_by_matches or self.refinement != "off"):
            raise ValueError(
                f"--features {self.matched_by} is given, but {self.name} matches no photos where "
                "--refine is off. Expected --refine map, or no --features."
            )
        require_features(self.matched_by)

    def find_cameras(self, photos: PhotoSet) -> SceneGeometry:
        """All of `estimate` that takes long, and is kept on disk: cameras, with points or depth.

        Raises:
            ValueError: As `estimate`.
        """
        return self.estimate(photos)

    def with_points(self, scene: SceneGeometry, views: Sequence[int]) -> SceneGeometry:
        """The scene with the points that some of its views see.

        Args:
            scene: Of `find_cameras`.
            views: Rows of the scene: photos that are held out must not show in its points.

        Raises:
            ValueError: Nothing usable is left.
        """
        return scene.seen_from(views)

    def point_options(self) -> dict:
        """What `with_points` depends on besides its arguments, as JSON values."""
        return {}

    @property
    def refinement(self) -> Refinement:
        """How `find_cameras`' result is refined; subclasses with the option `refine` say it."""
        return getattr(self, "refine", "off")

    @property
    def has_stand_in(self) -> bool:
        """Whether cameras of `sfm` take the place of those that refinement rejects."""
        return not self.is_by_matches and getattr(self, "if_rejected", "sfm") == "sfm"

    @property
    def matched_by(self) -> FeatureKind:
        """The features by which photos are matched; subclasses have the option `features`."""
        return getattr(self, "features", "sift")

    @property
    def refines_by_tracks(self) -> bool:
        """Whether tracks of the estimate connect photos that features do not."""
        return False

    @property
    def is_by_matches(self) -> bool:
        """Whether cameras come from matches alone, as those of `sfm`."""
        return False

    def identity(self) -> dict:
        """What `find_cameras` depends on besides the photos, as JSON values."""
        of_refinement = ("refine", "features", "own_matches", "if_rejected")
        options = {key: value for key, value in asdict(self).items() if key not in of_refinement}
        return {"estimator": self.name, "options": options}


def estimator_names() -> tuple[str, ...]:
    """All known names: the built-in ones, then those of other installed packages."""
    foreign = entry_points(group=ENTRY_POINT_GROUP)
    return (*_BUILT_IN, *sorted({point.name for point in foreign} - set(_BUILT_IN)))


def estimator_class(name: str) -> type[Estimator]:
    """The class behind a name.

    Raises:
        ValueError: No estimator has this name, or what is registered is no `Estimator`.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        found = point.load()
        if not (isinstance(found, type) and issubclass(found, Estimator)):
            raise ValueError(
                f"The entry point {name} = {point.value} is {found!r}. Expected a subclass of "
                "fm3d_plugins.estimators.base.Estimator. Mend or remove the package it comes from."
            )
        return found
    raise ValueError(
        f"There is no estimator {name!r}. Known: {', '.join(estimator_names())}. "
        f"Other packages add one by an entry point of the group {ENTRY_POINT_GROUP!r}."
    )
