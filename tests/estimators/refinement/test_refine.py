"""Refinement of real photos through the cached estimate: what comes of it, is kept, and is said."""

import json
import shutil
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.estimators.base import Estimator, Refinement
from fm3d_plugins.estimators.cache import cache_key, estimated, points_cached
from fm3d_plugins.estimators.refinement.refine import REPORT, refine
from fm3d_plugins.geometry.alignment import align_cameras
from fm3d_plugins.geometry.cameras import denormalize, distort
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.geometry.pose_metrics import evaluate_poses
from fm3d_plugins.geometry.poses import (
    invert,
    rotation_angle_degrees,
    so3_exp,
    transform_points,
)
from fm3d_plugins.io.transforms import read_transforms, write_transforms
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.scene import SceneGeometry, Tracks
from fm3d_plugins.view_depth import ViewDepth

DEPTH_OFF = 1.3
"""Factor by which the stand-in's depth is too large."""


@dataclass(frozen=True)
class Told(Estimator):
    """Gives a scene that a test wrote down: a stand-in for a network whose cameras are rough."""

    name: ClassVar[str] = "told"
    scenes: ClassVar[dict[str, SceneGeometry]] = {}
    which: str = ""
    refine: Refinement = field(default="auto")
    if_rejected: str = "sfm"

    def estimate(self, photos):
        return self.scenes[self.which]


@pytest.fixture(scope="module")
def reference(shared):
    return read_transforms(shared / "scenes/sceaux/transforms_few.json")


@pytest.fixture(scope="module")
def folder(shared, reference, tmp_path_factory):
    place = tmp_path_factory.mktemp("facade")
    for name in reference.names:
        shutil.copy(shared / "scenes/sceaux/images" / name, place / name)
    return place


def rough(reference, level, seed):
    """Cameras off by `level` times a feed-forward network's error, and depth of the points."""
    random = np.random.default_rng(seed)
    views = len(reference)
    poses = reference.world_from_camera.double().clone()
    turns, shifts = random.normal(size=(2, views, 3))
    turns *= np.radians(1.09) * level / np.linalg.norm(turns, axis=1).mean()
    centers = poses[:, :3, 3]
    extent = float((centers - centers.mean(0)).square().sum(1).mean().sqrt())
    shifts *= 0.018 * level * extent / np.sqrt((shifts**2).sum(1).mean())
    poses[:, :3, :3] = so3_exp(torch.from_numpy(turns)) @ poses[:, :3, :3]
    poses[:, :3, 3] += torch.from_numpy(shifts)
    intrinsics = reference.intrinsics.double().clone()
    intrinsics[:, (0, 1), (0, 1)] *= 1.02
    intrinsics[:, :2, 2] = reference.image_sizes / 2
    target = torch.linalg.lstsq(*_lines(reference)).solution
    away = transform_points(invert(poses), target.expand(views, 1, 3))[:, 0, 2]
    maps = (DEPTH_OFF * away)[:, None, None].expand(-1, 24, 32).contiguous()
    scale = torch.tensor([32.0, 24.0]).double() / reference.image_sizes
    return replace(
        reference,
        world_from_camera=poses,
        intrinsics=intrinsics,
        distortion=torch.zeros(views, 6),
        points=torch.zeros(0, 3),
        point_colors=torch.zeros(0, 3, dtype=torch.uint8),
        point_confidence=torch.zeros(0),
        depth=ViewDepth(maps, torch.ones_like(maps), PixelMap(scale, torch.zeros(views, 2))),
    )


def _lines(scene):
    """Equations of the point that is nearest to all optical axes."""
    axes, centers = scene.world_from_camera.double()[:, :3, 2], scene.world_from_camera[:, :3, 3]
    across = torch.eye(3).double() - axes[:, :, None] * axes[:, None]
    return across.reshape(-1, 3), (across @ centers.double()[..., None]).reshape(-1, 1).flatten()


def auc(scene, reference):
    named = [
        dict(zip(each.names, each.world_from_camera.double(), strict=True))
        for each in (scene, reference)
    ]
    return evaluate_poses(*named).summary()["AUC@5"]


@pytest.fixture(scope="module")
def prior(reference):
    return rough(reference, 2, 0)


@pytest.fixture(scope="module")
def refined(prior, folder, tmp_path_factory):
    Told.scenes["rough"] = prior
    cache = tmp_path_factory.mktemp("cache")
    return *estimated(folder, Told(which="rough"), cache_dir=cache), cache


def test_rough_cameras_come_out_exact(refined, prior, reference):
    _, scene, _ = refined
    assert auc(scene, reference) > 0.99 > auc(prior, reference)
    report = scene.provenance[REPORT]
    assert report["state"] == "refined"
    assert report["verified"] == report["views"] == 4
    assert set(report["seconds"]) >= {"Finding features", "Matching photos", "Adjusting cameras"}
    # Four photos of a facade tell it to a percent, one way or the other with the matches' choice.
    assert float(scene.intrinsics[0, 0, 0]) == pytest.approx(671.4, rel=0.015)


def test_points_lie_where_their_tracks_see_them(refined):
    _, scene, _ = refined
    tracks = scene.tracks
    here = transform_points(
        invert(scene.world_from_camera[tracks.view_index]),
        scene.points[tracks.point_index][:, None],
    )[:, 0]
    assert bool((here[:, 2] > 0).all())
    assert len(scene.points) > 200
    assert int(tracks.point_index.bincount().min()) >= 2
    assert bool(((scene.point_confidence > 0) & (scene.point_confidence < 1)).all())


def test_depth_is_scaled_to_the_points(refined, prior):
    _, scene, _ = refined
    factors = scene.depth.depth[:, 0, 0] / prior.depth.depth[:, 0, 0]
    # A plane through what all look at stands for a facade: right in the middle of its depths.
    np.testing.assert_allclose(factors.double() * DEPTH_OFF, 1, atol=0.15)


def test_how_far_depth_is_off_is_told(refined):
    """Maps of one number each: by as much as a view's points spread around their median depth."""
    _, scene, _ = refined
    errors = []
    for view, camera_from_world in enumerate(invert(scene.world_from_camera)):
        rows = scene.tracks.point_index[scene.tracks.view_index == view]
        depth = transform_points(camera_from_world, scene.points[rows].double())[:, 2]
        errors.append(float((depth / depth.median()).log().abs().median()))
    assert scene.provenance[REPORT]["depth_error"] == pytest.approx(np.median(errors), rel=0.1)


def test_cameras_that_matches_hold_are_sure(refined):
    _, scene, _ = refined
    assert bool((scene.camera_confidence > 0.05).all() & (scene.camera_confidence <= 1).all())


@pytest.fixture(scope="module")
def with_blank_photo(refined, reference, prior, tmp_path_factory):
    """Photos of which the last shows nothing, and a prior whose tracks say what it should show."""
    photos, scene, _ = refined
    folder = tmp_path_factory.mktemp("blank")
    for photo in photos.photos[:3]:
        shutil.copy(photo.path, folder / photo.name)
    last = photos.photos[3]
    Image.new("RGB", (last.width, last.height), (90, 90, 90)).save(folder / last.name)
    truth = reference.world_from_camera.double()
    points = align_cameras(scene.world_from_camera, truth).apply(scene.points)
    views, rows, pixels = [], [], []
    random = np.random.default_rng(0)
    for view in range(4):
        here = transform_points(invert(truth[view]), points)
        bent = distort(here[:, :2] / here[:, 2:], reference.distortion[view].double())
        seen = denormalize(bent, reference.intrinsics[view].double())
        inside = (here[:, 2] > 0) & (seen > 0).all(1) & (seen < reference.image_sizes[view]).all(1)
        rows.append(inside.nonzero().flatten())
        views.append(torch.full_like(rows[-1], view))
        pixels.append(seen[inside] + torch.from_numpy(random.normal(size=(len(rows[-1]), 2))))
    tracks = Tracks(torch.cat(rows), torch.cat(views), torch.cat(pixels))
    told = replace(
        prior,
        points=points,
        point_colors=torch.zeros(len(points), 3, dtype=torch.uint8),
        point_confidence=torch.ones(len(points)),
        tracks=tracks,
        depth=None,
    )
    return find_photos(folder), told


def test_own_tracks_place_a_photo_that_features_do_not_and_verify_none(with_blank_photo, reference):
    """Truth: the tracks are those of the reference, to one pixel; three photos show texture."""
    photos, told = with_blank_photo
    assert photos.photos[3].name == told.names[3]
    helped = refine(told, photos, num_threads=1, uses_tracks=True)
    report = helped.provenance[REPORT]
    assert report["headline"] == "partly verified 3/4"
    assert report["unverified"] == [told.names[3]]
    truth = reference.world_from_camera.double()

    def turned_off(scene):
        aligned = align_cameras(scene.world_from_camera, truth).apply_to_pose(
            scene.world_from_camera
        )
        return float(rotation_angle_degrees(aligned[3, :3, :3], truth[3, :3, :3]))

    assert turned_off(helped) < 0.3 < turned_off(told)
    assert int((helped.tracks.view_index == 3).sum()) > 100


def test_the_result_is_kept_and_read_again(refined, folder, monkeypatch, capsys):
    _, scene, cache = refined

    def never(*_, **__):
        raise AssertionError("refined twice")

    monkeypatch.setattr("fm3d_plugins.estimators.refinement.refine.refine", never)
    _, again = estimated(folder, Told(which="rough"), cache_dir=cache)
    assert torch.equal(again.world_from_camera, scene.world_from_camera)
    assert torch.equal(again.depth.depth, scene.depth.depth)


def test_the_option_off_leaves_cameras_as_they_are(refined, folder, prior):
    _, _, cache = refined
    _, scene = estimated(folder, Told(which="rough", refine="off"), cache_dir=cache)
    assert torch.equal(scene.world_from_camera, prior.world_from_camera)
    assert REPORT not in scene.provenance


def test_points_of_training_photos_are_those_that_they_see(refined, folder):
    photos, scene, cache = refined
    some = points_cached(Told(which="rough"), photos, scene, [0, 1], cache)
    assert 0 < len(some.points) < len(scene.points)
    assert set(some.tracks.view_index.tolist()) <= {0, 1, 2, 3}
    assert some.depth is not None


def test_the_report_stands_in_transforms_json(refined, tmp_path):
    _, scene, _ = refined
    write_transforms(scene, tmp_path / "transforms.json")
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert content["fm3d"]["provenance"][REPORT]["state"] == "refined"


def test_rejected_cameras_give_way_to_those_of_sfm(folder, prior, reference, tmp_path, capsys):
    mixed = prior.world_from_camera[[2, 3, 0, 1]]
    Told.scenes["mixed"] = replace(prior, world_from_camera=mixed)
    _, scene = estimated(folder, Told(which="mixed"), cache_dir=tmp_path)
    assert scene.provenance[REPORT]["state"] == "rejected"
    assert scene.provenance[REPORT]["used"] == "sfm"
    assert auc(scene, reference) > 0.99
    assert scene.depth is None
    said = " ".join(capsys.readouterr().out.split())
    assert "rejected" in said and "sfm stand in their place" in said


def test_rejected_cameras_are_kept_with_their_depth_where_the_estimator_says_so(
    folder, prior, tmp_path, capsys
):
    mixed = prior.world_from_camera[[2, 3, 0, 1]]
    Told.scenes["mixed"] = replace(prior, world_from_camera=mixed)
    kept = Told(which="mixed", if_rejected="keep")
    photos, scene = estimated(folder, kept, cache_dir=tmp_path)
    assert torch.equal(scene.world_from_camera, mixed) and scene.depth is not None
    assert scene.provenance[REPORT]["state"] == "rejected"
    assert scene.provenance[REPORT]["used"] == "prior"
    said = " ".join(capsys.readouterr().out.split())
    assert "stay as they were, unverified: sfm was not asked" in said
    # The cameras themselves are those of the other option, found once; what came of them is not.
    other = Told(which="mixed")
    assert cache_key(kept, photos) == cache_key(other, photos)
    _, replaced = estimated(folder, other, cache_dir=tmp_path)
    assert replaced.provenance[REPORT]["used"] == "sfm"


def test_where_sfm_fails_too_cameras_stay_and_it_is_said(
    folder, prior, tmp_path, monkeypatch, capsys
):
    from fm3d_plugins.estimators.sfm.estimator import Sfm

    def nothing(*_):
        raise ValueError("sfm could join 0 of 4 photos")

    monkeypatch.setattr(Sfm, "estimate", nothing)
    mixed = prior.world_from_camera[[2, 3, 0, 1]]
    Told.scenes["mixed"] = replace(prior, world_from_camera=mixed)
    _, scene = estimated(folder, Told(which="mixed"), cache_dir=tmp_path)
    assert torch.equal(scene.world_from_camera, mixed)
    assert scene.depth is not None
    assert scene.provenance[REPORT]["used"] == "prior"
    assert "stay as they were, unverified: sfm could join 0" in " ".join(
        capsys.readouterr().out.split()
    )


def test_photos_that_do_not_overlap_are_named(shared, reference, folder, prior, tmp_path):
    """One photo of another place, at a camera that somebody believed in."""
    place = tmp_path / "photos"
    shutil.copytree(folder, place)
    shutil.copy(shared / "scenes/berlin3/images" / _first(shared), place / "zz.jpg")
    size = torch.tensor([[640, 480]])
    joined = {
        name: torch.cat([getattr(prior, name), getattr(prior, name)[1:2]])
        for name in ("world_from_camera", "intrinsics", "distortion", "camera_index")
    }
    depth = prior.depth
    scene = replace(
        prior,
        **joined,
        names=(*prior.names, "zz.jpg"),
        image_sizes=torch.cat([prior.image_sizes, size]),
        depth=ViewDepth(
            torch.cat([depth.depth, depth.depth[1:2]]),
            torch.cat([depth.confidence, depth.confidence[1:2]]),
            PixelMap(
                torch.cat([depth.map_from_photo.scale, depth.map_from_photo.scale[1:2]]),
                torch.cat([depth.map_from_photo.offset, depth.map_from_photo.offset[1:2]]),
            ),
        ),
    )
    found = refine(scene, find_photos(place), num_threads=1)
    assert found.provenance[REPORT]["state"] == "partly verified"
    assert found.provenance[REPORT]["unverified"] == ["zz.jpg"]
    assert auc(found, reference) > 0.99
    alone = dict(zip(found.names, found.world_from_camera, strict=True))
    assert torch.equal(alone["zz.jpg"], prior.world_from_camera[1].double())
    assert float(found.camera_confidence[-1]) < float(found.camera_confidence[:-1].min()) / 10


def _first(shared):
    return sorted(path.name for path in (shared / "scenes/berlin3/images").iterdir())[0]


def without_depth(scene):
    return replace(scene, depth=None)


def test_a_photo_without_a_camera_is_placed_by_what_the_others_see(prior, reference, folder):
    rows = [0, 1, 3]
    some = {
        name: getattr(prior, name)[rows]
        for name in (
            "image_sizes", "world_from_camera", "intrinsics", "distortion", "camera_index",
        )
    }  # fmt: skip
    lost = prior.names[2]
    scene = replace(
        without_depth(prior),
        **some,
        names=tuple(prior.names[row] for row in rows),
        unregistered=(lost,),
    )
    found = refine(scene, find_photos(folder), num_threads=1)
    assert found.provenance[REPORT]["placed"] == [lost]
    assert found.provenance[REPORT]["state"] == "refined"
    assert found.unregistered == ()
    assert set(found.names) == set(reference.names)
    assert auc(found, reference) > 0.99
    # It shares the lens of the others, whose size and EXIF it has.
    assert len(found.camera_index.unique()) == 1


def test_a_view_that_looks_the_wrong_way_is_placed_anew(prior, reference, folder):
    poses = prior.world_from_camera.clone()
    poses[1, :3, :3] = poses[1, :3, :3] @ torch.diag(torch.tensor([-1.0, 1, -1])).double()
    scene = replace(without_depth(prior), world_from_camera=poses)
    found = refine(scene, find_photos(folder), num_threads=1)
    assert found.provenance[REPORT]["state"] == "refined"
    assert auc(found, reference) > 0.99
