"""When photos are joined once more: without lens distortion, or by zoom."""

from dataclasses import replace

import numpy as np
import pytest

from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.backends.pycolmap.verification import VerifiedMatches
from fm3d_plugins.estimators.sfm import joining as joining_module
from fm3d_plugins.estimators.sfm.attempts import Search
from fm3d_plugins.estimators.sfm.joining import Joining
from fm3d_plugins.estimators.sfm.result import Found
from fm3d_plugins.estimators.stages import Stages

WIDTH, HEIGHT = 720, 1280
SIZES = [(WIDTH, HEIGHT)] * 16
GROUPS = [0] * 16
UNCALIBRATED = 3
"""COLMAP's number of two views that any fundamental matrix explains."""


@pytest.fixture
def flat():
    """Sixteen cameras that see nothing."""
    none = np.zeros(0, np.int64)
    return SparseModel(
        image_index=np.arange(16),
        world_from_camera=np.tile(np.eye(4), (16, 1, 1)),
        intrinsics=np.tile(np.eye(3), (16, 1, 1)),
        distortion=np.zeros((16, 6)),
        points=np.zeros((0, 3)),
        point_errors=np.zeros(0),
        track_point=none,
        track_view=none,
        track_keypoint=none,
    )


@pytest.mark.parametrize(("bends", "searches"), [(True, 1), (False, 0)])
def test_no_photo_joined_is_a_reason_to_try_without_distortion(
    flat, working, tmp_path, monkeypatch, bends, searches
):
    """Two photos of a small thing can take k1 anywhere, and such models are all discarded."""
    nothing = Search(tmp_path / "scene.db", tmp_path / "one", SIZES, 16, 0, is_bendable=bends)
    asked = []

    def join(_self, _working, _groups, _matches, _stage, guesses):
        asked.append({each.model for each in guesses})
        return replace(nothing, best=flat)

    monkeypatch.setattr(Joining, "search", join)
    matches = {(0, 1): VerifiedMatches(np.zeros((20, 2), int), UNCALIBRATED, None, None, None)}
    joining = Joining(tmp_path, Stages(), True, "auto", "incremental", True, 0)
    found = joining._with_simpler_lens(working, GROUPS, matches, nothing)
    assert asked == [{"SIMPLE_PINHOLE"}] * searches
    assert (found.best is flat) == bends


@pytest.mark.parametrize(("joined", "searches"), [(7, 0), (8, 1)])
def test_zooms_are_looked_for_where_half_of_the_photos_hang_together(
    flat, working, tmp_path, monkeypatch, joined, searches
):
    """Where fewer do, overlap is missing, and the search cost up to half of all."""
    parts = ("image_index", "world_from_camera", "intrinsics", "distortion")
    fewer = replace(flat, **{name: getattr(flat, name)[:joined] for name in parts})
    together = Search(tmp_path / "scene.db", tmp_path / "one", SIZES, 16, 0, best=fewer)
    asked = []

    def join(_self, _working, _groups, _matches, stage, _guesses):
        asked.append(stage)
        return replace(together, best=None)

    monkeypatch.setattr(Joining, "search", join)
    monkeypatch.setattr(joining_module, "refine_apart", lambda model, _folder: model)
    monkeypatch.setattr(joining_module, "relative_focals", lambda _model, _sizes: {})
    joining = Joining(tmp_path, Stages(), True, "auto", "incremental", True, 0)
    assert joining._parted_by_zoom(working, GROUPS, {}, together) == (GROUPS, together)
    assert asked == ["Measuring zooms"] * searches
    first = Found(working, GROUPS, {}, together, None, "")
    assert joining.after(first, GROUPS).seeks_zooms == (searches == 0)
