"""Estimators are found by name, those of other packages too."""

import sys
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType
from typing import ClassVar

import pytest

from fm3d_plugins.dataparsers import estimated
from fm3d_plugins.estimators import base
from fm3d_plugins.estimators.base import Estimator, estimator_class, estimator_names
from fm3d_plugins.estimators.sfm.estimator import Sfm


@dataclass(frozen=True)
class Foreign(Estimator):
    """Another package's estimator."""

    name: ClassVar[str] = "foreign"
    option: int = 3
    """Help."""

    def estimate(self, photos):
        raise ValueError("never asked")


@pytest.fixture
def foreign_packages(monkeypatch):
    """One package with an estimator, one whose import fails, one that registers something else."""
    module = ModuleType("foreign_package")
    module.Foreign, module.number = Foreign, 5
    monkeypatch.setitem(sys.modules, "foreign_package", module)
    points = EntryPoints(
        EntryPoint(name, value, base.ENTRY_POINT_GROUP)
        for name, value in (
            ("foreign", "foreign_package:Foreign"),
            ("broken", "absent_package:Thing"),
            ("number", "foreign_package:number"),
        )
    )
    monkeypatch.setattr(base, "entry_points", points.select)


def test_built_in_estimator_is_found():
    assert estimator_class("sfm") is Sfm
    assert "sfm" in estimator_names()


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="Known: sfm"):
        estimator_class("colmap")


def test_foreign_estimator_is_found_and_others_are_refused(foreign_packages):
    assert estimator_class("foreign") is Foreign
    assert estimator_names() == (
        "sfm", "vggt", "dust3r", "rayzer", "given", "broken", "foreign", "number"
    )  # fmt: skip
    with pytest.raises(ValueError, match="Expected a subclass"):
        estimator_class("number")


def test_foreign_estimator_becomes_a_dataparser_and_broken_ones_stop_nothing(
    foreign_packages, monkeypatch, capsys
):
    registry = ModuleType("nerfstudio.configs.dataparser_configs")
    registry.dataparsers = {}
    monkeypatch.setitem(sys.modules, registry.__name__, registry)
    estimated._register_foreign_estimators()
    assert set(registry.dataparsers) == {"foreign"}
    assert registry.dataparsers["foreign"].estimator == Foreign()
    said = capsys.readouterr().out
    assert "broken" in said
    assert "number" in said


@pytest.mark.parametrize("name", ["sfm", "vggt", "dust3r"])
def test_refinement_does_not_make_the_estimate_anew(name):
    """Refined cameras are kept beside the estimate, which is the same with and without them."""
    estimator = estimator_class(name)()
    identities = [replace(estimator, refine=mode).identity() for mode in ("off", "map", "free")]
    assert identities[0] == identities[1] == identities[2]
    assert estimator.refinement == ("off" if name == "sfm" else "auto")
    assert (estimator.matched_by, estimator.refines_by_tracks) == ("sift", False)
    if name == "dust3r":
        helped = replace(estimator, own_matches=True)
        assert helped.refines_by_tracks and helped.identity() == identities[0]
