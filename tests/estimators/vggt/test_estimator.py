"""`vggt` around its network: the way to original pixels, chunks, known cameras, what is said.

Where truth is needed, the network is replaced by one that is right: it sees a sphere from inside.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.estimators.base import estimator_class
from fm3d_plugins.estimators.refinement.refine import REPORT
from fm3d_plugins.estimators.vggt import estimator as estimator_module
from fm3d_plugins.estimators.vggt.estimator import Vggt
from fm3d_plugins.geometry.alignment import Similarity, align_cameras
from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.poses import invert, so3_exp, transform_points
from fm3d_plugins.io.transforms import write_transforms
from fm3d_plugins.photos.canvas import plan_common_canvas
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.scene import Tracks
from fm3d_plugins.vggt.inference import Geometry


@pytest.fixture(autouse=True)
def one_thread(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def capture(tmp_path, vggt_weights, monkeypatch, sphere):
    """Makes photos whose colour tells their number, and a network that knows the truth of each."""

    def make(sizes, *, frames=None, confidence=0.9):
        """`frames` turns the network's world, per call, as real ones have one for each call."""
        folder = tmp_path / "photos"
        folder.mkdir()
        poses = sphere.walk(len(sizes))
        for row, size in enumerate(sizes):
            Image.new("RGB", size, (row, 40, 90)).save(folder / f"{row:03d}.png")
        photos = find_photos(folder)
        calls = []

        def predict(network, images):
            height, width = images.shape[-2:]
            middle = images[:, 0, height // 2, width // 2]
            rows = (middle * 255).round().int().tolist()
            calls.append(rows)
            canvases = plan_common_canvas(sizes, longest=max(height, width), patch=14)
            intrinsics = []
            for row in rows:
                own = sphere.photo_intrinsics(*sizes[row])
                intrinsics.append(canvases.map_from_photo[row].intrinsics_on_map(own))
            intrinsics = torch.stack(intrinsics)
            cameras = zip(poses[rows], intrinsics, strict=True)
            depth = torch.stack(
                [sphere.sphere_depth(pose, k, height, width) for pose, k in cameras]
            )
            frame = Similarity(
                torch.tensor(0.3 * len(calls), dtype=torch.float64),
                so3_exp(torch.tensor([0.2, 0.1, 0.5], dtype=torch.float64) * len(calls)),
                torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64),
            )
            return Geometry(
                frame.apply_to_pose(poses[rows]),
                intrinsics,
                (frame.scale * depth).float(),
                torch.full_like(depth, confidence).float(),
            )

        monkeypatch.setattr(estimator_module, "predict", predict)
        return photos, poses, calls

    return make


def estimator(vggt_weights, **options):
    chosen = {"weights": str(vggt_weights), "drop_sky": False, "resolution": 112} | options
    return Vggt(**chosen)


@pytest.mark.parametrize("sizes", [[(160, 120)] * 5, [(120, 160)] * 3, [(200, 95)] * 3])
def test_a_network_that_is_right_gives_the_truth_in_photo_pixels(
    capture, vggt_weights, sizes, sphere
):
    photos, poses, _ = capture(sizes)
    scene = estimator(vggt_weights).estimate(photos)
    sphere.expect_truth(scene, poses, sizes)
    assert scene.names == tuple(photo.name for photo in photos)
    assert scene.camera_index.unique().tolist() == [0]
    # Each point is where its own pixel sees it, and has that photo's colour.
    tracks = scene.tracks
    for view in range(len(scene)):
        mine = tracks.view_index == view
        points = scene.points[tracks.point_index[mine]].double()
        in_camera = transform_points(invert(scene.world_from_camera[view]), points)
        seen = project(in_camera, scene.intrinsics[view])
        torch.testing.assert_close(seen, tracks.pixels[mine].double(), atol=1e-2, rtol=0)
        assert (scene.point_colors[tracks.point_index[mine], 0] == view).all()


def test_depth_that_matches_contradict_makes_no_points(capture, vggt_weights, capsys):
    photos, _, _ = capture([(160, 120)] * 3)
    scene = estimator(vggt_weights).find_cameras(photos)
    own = replace(
        scene,
        points=torch.ones(1, 3),
        point_colors=torch.ones(1, 3, dtype=torch.uint8),
        point_confidence=torch.ones(1),
        tracks=Tracks(torch.tensor([0]), torch.tensor([1]), torch.tensor([[5.0, 6.0]])),
    )
    for error, limit, is_kept in ((0.2, 0.05, False), (0.02, 0.05, True), (0.2, None, True)):
        told = replace(own, provenance=own.provenance | {REPORT: {"depth_error": error}})
        found = estimator(vggt_weights, max_depth_error=limit).with_points(told, range(3))
        assert (len(found.points) > 1) == is_kept and len(found.points) >= 1
        assert ("off by 20%" in capsys.readouterr().out) == (not is_kept)


def test_photos_of_several_shapes_share_a_canvas_and_keep_their_own_cameras(
    capture, vggt_weights, sphere
):
    sizes = [(160, 120), (120, 160), (320, 240), (90, 90)]
    photos, poses, _ = capture(sizes)
    scene = estimator(vggt_weights).estimate(photos)
    sphere.expect_truth(scene, poses, sizes)
    # Nothing comes from the margins: all points lie inside their photos.
    limits = torch.tensor(sizes)[scene.tracks.view_index]
    assert ((scene.tracks.pixels > 0) & (scene.tracks.pixels < limits)).all()


def test_depth_maps_cover_the_photos(capture, vggt_weights, sphere):
    sizes = [(160, 120)] * 3
    photos, poses, _ = capture(sizes)
    scene = estimator(vggt_weights).estimate(photos)
    scale = float(align_cameras(scene.world_from_camera, poses).scale)
    for view in range(3):
        depth, confidence = scene.depth.in_photo_frame(view, (160, 120))
        truth = sphere.sphere_depth(poses[view], sphere.photo_intrinsics(160, 120), 120, 160)
        known = depth > 0
        assert known.float().mean() > 0.95
        # The map has 0.7 pixels per photo pixel, and depth slopes.
        error = (scale * depth.double() / truth - 1).abs()[known]
        assert float(error.max()) < 0.02
        assert (confidence[known].float() - 0.9).abs().max() < 1e-3


def test_chunks_are_joined_into_one_true_world(capture, vggt_weights, sphere):
    """Every call's frame and unit differ; six photos at once see twenty."""
    sizes = [(160, 120)] * 20
    photos, poses, calls = capture(sizes)
    options = {"chunk_size": 6, "overlap": 2, "order": "sequence", "max_points": 5000}
    scene = estimator(vggt_weights, **options).estimate(photos)
    assert max(map(len, calls)) <= 6 and len(calls) >= 5
    sphere.expect_truth(scene, poses, sizes, tolerance=3e-3)
    assert len(scene.points) <= 5000


@pytest.mark.parametrize("reference", ["first", "002.png", "central"])
def test_the_reference_is_the_first_photo_that_the_network_sees(
    capture, vggt_weights, reference, sphere
):
    sizes = [(160, 120)] * 4
    photos, poses, calls = capture(sizes)
    scene = estimator(vggt_weights, reference=reference).estimate(photos)
    assert sorted(calls[0]) == [0, 1, 2, 3]
    if reference != "central":
        assert calls[0][0] == (0 if reference == "first" else 2)
    sphere.expect_truth(scene, poses, sizes)


def test_known_cameras_are_kept_and_the_scene_takes_their_frame(
    capture, vggt_weights, tmp_path, sphere
):
    sizes = [(160, 120)] * 5
    photos, poses, _ = capture(sizes)
    first = estimator(vggt_weights).estimate(photos)
    import dataclasses

    known = dataclasses.replace(
        first,
        names=first.names[:3],
        image_sizes=first.image_sizes[:3],
        world_from_camera=poses[:3],
        intrinsics=torch.stack([sphere.photo_intrinsics(160, 120)] * 3),
        distortion=first.distortion[:3],
        camera_index=first.camera_index[:3],
        tracks=None,
        depth=None,
        points=torch.zeros(0, 3),
        point_colors=torch.zeros(0, 3, dtype=torch.uint8),
        point_confidence=torch.zeros(0),
    )
    (tmp_path / "images").mkdir()
    for name in known.names:
        Image.new("RGB", (160, 120)).save(tmp_path / "images" / name)
    write_transforms(known, tmp_path / "known.json")
    scene = estimator(vggt_weights, known_cameras=tmp_path / "known.json").estimate(photos)
    torch.testing.assert_close(scene.world_from_camera, poses, atol=1e-4, rtol=0)
    radius = scene.points.double().norm(dim=-1)
    assert float((radius / sphere.RADIUS - 1).abs().max()) < 1e-2


def test_points_can_be_made_of_some_photos_without_seeing_them_again(capture, vggt_weights):
    photos, _, calls = capture([(160, 120)] * 6)
    chosen = estimator(vggt_weights)
    scene = chosen.find_cameras(photos)
    assert not len(scene.points)
    some = chosen.with_points(scene, [0, 2, 3])
    few = estimator(vggt_weights, max_points=100).with_points(scene, [0, 2, 3])
    assert len(calls) == 1
    assert set(some.tracks.view_index.tolist()) == {0, 2, 3}
    assert set(some.point_colors[:, 0].tolist()) == {0, 2, 3}
    assert 80 <= len(few.points) <= 100 < len(some.points)
    assert chosen.identity() == estimator(vggt_weights, max_points=100).identity()
    assert chosen.point_options() != estimator(vggt_weights, max_points=100).point_options()


def test_a_floater_that_other_views_look_through_becomes_no_point(
    capture, vggt_weights, monkeypatch, sphere
):
    """One photo's middle is said to be at half its depth; all others see the wall behind."""
    sizes = [(160, 120)] * 12
    photos, poses, _ = capture(sizes)
    right = estimator_module.predict

    def wrong(network, images):
        seen = right(network, images)
        seen.depth[2, 30:50, 40:70] *= 0.5
        return seen

    monkeypatch.setattr(estimator_module, "predict", wrong)
    scene = estimator(vggt_weights).estimate(photos)
    radius = align_cameras(scene.world_from_camera, poses).apply(scene.points.double()).norm(dim=-1)
    assert float((radius / sphere.RADIUS - 1).abs().max()) < 1e-2
    trusting = estimator(vggt_weights, consistent_views=0).estimate(photos)
    similarity = align_cameras(trusting.world_from_camera, poses)
    radius = similarity.apply(trusting.points.double()).norm(dim=-1)
    assert float((radius / sphere.RADIUS - 1).abs().max()) > 0.1


def test_masked_pixels_have_no_depth_and_no_points(capture, vggt_weights, tmp_path):
    sizes = [(160, 120)] * 3
    photos, _, _ = capture(sizes)
    masks = tmp_path / "photos" / "masks"
    masks.mkdir()
    for photo in photos:
        mask = np.full((120, 160), 255, np.uint8)
        mask[:, :70] = 0
        Image.fromarray(mask).save(masks / photo.name)
    scene = estimator(vggt_weights).estimate(find_photos(tmp_path / "photos"))
    assert (scene.tracks.pixels[:, 0] > 70 - 1).all()
    depth, confidence = scene.depth.in_photo_frame(0, (160, 120))
    assert not depth[:, :68].any() and not confidence[:, :68].any() and depth[:, 72:].all()


def test_the_real_network_runs_through_and_repeats_itself(tmp_path, vggt_weights):
    """Random weights: what comes out means nothing, but it is whole, finite and the same twice."""
    rng = np.random.default_rng(0)
    for row in range(3):
        pixels = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((160, 120)).save(tmp_path / f"{row}.png")
    photos = find_photos(tmp_path)
    options = {"min_confidence": 0.0, "consistent_views": 0, "device": "cpu"}
    scenes = [estimator(vggt_weights, **options).estimate(photos) for _ in range(2)]
    assert len(scenes[0]) == 3 and len(scenes[0].points) > 100
    assert torch.equal(scenes[0].world_from_camera, scenes[1].world_from_camera)
    assert torch.equal(scenes[0].points, scenes[1].points)


def test_one_photo_is_enough(tmp_path, vggt_weights, capture):
    photos, _, _ = capture([(160, 120)])
    scene = estimator(vggt_weights).estimate(photos)
    assert len(scene) == 1 and len(scene.points) > 100


def test_identity_follows_weights_and_options_but_not_the_device(tmp_path, vggt_weights):
    same = estimator(vggt_weights, device="cpu", memory_gib=3.0, commercial_only=True)
    assert same.identity() == estimator(vggt_weights).identity()
    assert estimator(vggt_weights, resolution=224).identity() != same.identity()
    other = tmp_path / "other.safetensors"
    other.write_bytes(vggt_weights.read_bytes())
    assert estimator(other).identity()["weights_sha256"] == same.identity()["weights_sha256"]
    before = estimator(other).identity()
    other.unlink()
    assert estimator(other).identity() == before  # An estimate outlives its weights.
    with pytest.raises(ValueError, match="neither a file"):
        estimator(tmp_path / "never.safetensors").identity()


def test_estimators_are_found_by_name():
    assert estimator_class("vggt") is Vggt


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"resolution": 100}, "multiple of 14"),
        ({"chunk_size": 1}, "chunk_size"),
        ({"confidence_percentile": 101.0}, "confidence_percentile"),
        ({"reference": "nobody.jpg"}, "nobody.jpg"),
        ({"memory_gib": 0.1}, "memory may be used"),
        ({"focal_length": 100.0, "known_cameras": Path("x")}, "Leave one out"),
    ],
)
def test_senseless_options_are_refused_by_name(capture, vggt_weights, options, fault):
    photos, _, _ = capture([(160, 120)] * 3)
    with pytest.raises(ValueError, match=fault):
        estimator(vggt_weights, **options).estimate(photos)


def test_a_photo_of_which_nothing_is_sure_is_named(capture, vggt_weights, capsys, monkeypatch):
    photos, _, _ = capture([(160, 120)] * 3)
    right = estimator_module.predict

    def unsure(network, images):
        seen = right(network, images)
        seen.confidence[1] = 0.02
        return seen

    monkeypatch.setattr(estimator_module, "predict", unsure)
    said = []
    monkeypatch.setattr(
        "nerfstudio.utils.rich_utils.CONSOLE.print", lambda text="", **_: said.append(str(text))
    )
    estimator(vggt_weights, confidence_percentile=0.0).estimate(photos)
    assert any("unsure of 1 photos" in line and "001.png" in line for line in said)
