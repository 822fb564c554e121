"""`dust3r` around its network: pairs, alignment, the way to original pixels, what is said.

The network is replaced by one that is right: it sees a sphere from inside, each pair in a unit of
its own.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from PIL import Image

from fm3d_plugins.cli.process import process
from fm3d_plugins.dust3r.inference import PhotoEncodings
from fm3d_plugins.dust3r.network import PairPrediction
from fm3d_plugins.estimators.base import estimator_class
from fm3d_plugins.estimators.dust3r import estimator as estimator_module
from fm3d_plugins.estimators.dust3r.estimator import Dust3r
from fm3d_plugins.geometry.alignment import align_cameras
from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.pointmaps import pointmap_from_depth
from fm3d_plugins.geometry.poses import invert, rotation_angle_degrees, transform_points
from fm3d_plugins.nn.planning import Plan, choose_precision
from fm3d_plugins.photos.canvas import plan_own_canvases
from fm3d_plugins.photos.photo_set import find_photos

CONFIDENCE = 10.0


@pytest.fixture(autouse=True)
def one_thread(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def capture(tmp_path, monkeypatch, sphere):
    """Makes photos whose colour tells their number, and a network that knows the truth of each."""

    def make(sizes, resolution=112, poses=None):
        folder = tmp_path / "photos"
        folder.mkdir()
        poses = sphere.walk(len(sizes)) if poses is None else poses
        for row, size in enumerate(sizes):
            Image.new("RGB", size, (row, 40, 90)).save(folder / f"{row:03d}.png")
        canvases = plan_own_canvases(sizes, resolution=resolution)
        points, asked = [], []
        for row, (height, width) in enumerate(canvases.shapes):
            own = sphere.photo_intrinsics(*sizes[row])
            intrinsics = canvases.map_from_photo[row].intrinsics_on_map(own)
            depth = sphere.sphere_depth(poses[row], intrinsics, height, width)
            points.append(pointmap_from_depth(depth, intrinsics, poses[row]))

        def prepare(self, graph, seen):
            for row in range(len(seen)):
                assert seen.image(row).shape[1:] == canvases.shapes[row]
                assert round(float(seen.image(row)[0].median() * 255)) == row
            return PhotoEncodings.__new__(PhotoEncodings), plan

        def decode_pairs(encodings, pairs, *, pairs_at_once, report):
            asked.extend(pairs)
            for number, (first, second) in enumerate(pairs):
                unit = 0.3 + 0.1 * (number % 7)
                maps = []
                for photo in (first, second):
                    flat = transform_points(invert(poses[first]), points[photo].flatten(0, 1))
                    maps.append((unit * flat).unflatten(0, points[photo].shape[:2]).float())
                sure = [torch.full(each.shape[:2], CONFIDENCE) for each in maps]
                report(number + 1)
                yield first, second, PairPrediction(maps[0], sure[0], maps[1], sure[1])

        plan = Plan("float32", at_once=1, bytes=0, seconds=0.0, sentence="")
        monkeypatch.setattr(Dust3r, "_prepare", prepare)
        monkeypatch.setattr(Dust3r, "identity", lambda self: {"estimator": "dust3r"})
        monkeypatch.setattr(
            estimator_module, "photo_descriptors", lambda _, rows: poses[list(rows), :3, 3].float()
        )
        monkeypatch.setattr(estimator_module, "decode_pairs", decode_pairs)
        return find_photos(folder), poses, asked

    return make


def estimator(**options):
    return Dust3r(**{"drop_sky": False, "resolution": 112} | options)


@pytest.mark.parametrize("sizes", [[(160, 120)] * 4, [(120, 160)] * 3, [(320, 240)] * 2])
def test_a_network_that_is_right_gives_the_truth_in_photo_pixels(capture, sizes, sphere):
    poses = sphere.walk(12)[: len(sizes)]
    photos, poses, asked = capture(sizes, poses=poses)
    scene = estimator().estimate(photos)
    count = len(sizes)
    assert set(asked) == {(i, j) for i in range(count) for j in range(count) if i != j}
    sphere.expect_truth(scene, poses, sizes, tolerance=5e-3)
    tracks = scene.tracks
    alone = torch.bincount(tracks.point_index)[tracks.point_index] == 1
    for view in range(len(scene)):
        mine = (tracks.view_index == view) & alone
        points = scene.points[tracks.point_index[mine]].double()
        in_camera = transform_points(invert(scene.world_from_camera[view]), points)
        seen = project(in_camera, scene.intrinsics[view])
        torch.testing.assert_close(seen, tracks.pixels[mine].double(), atol=2e-2, rtol=0)
        assert (scene.point_colors[tracks.point_index[mine], 0] == view).all()


def test_photos_of_several_shapes_keep_their_own_frames_and_cameras(capture, sphere):
    sizes = [(160, 120), (120, 160), (320, 240), (90, 90)]
    photos, poses, _ = capture(sizes, poses=sphere.walk(16)[:4])
    scene = estimator().estimate(photos)
    sphere.expect_truth(scene, poses, sizes, tolerance=5e-3)
    limits = torch.tensor(sizes)[scene.tracks.view_index]
    assert ((scene.tracks.pixels > 0) & (scene.tracks.pixels < limits)).all()
    for view, size in enumerate(sizes):
        depth, confidence = scene.depth.in_photo_frame(view, size)
        known = depth > 0
        assert known.float().mean() > 0.85
        assert (confidence[known].float() - 0.9).abs().max() < 1e-3


def test_a_pair_graph_can_be_chosen_and_must_tie_all_photos(capture, sphere):
    sizes = [(160, 120)] * 6
    photos, poses, asked = capture(sizes, poses=sphere.walk(18)[:6])
    scene = estimator(pairs="swin-2-noncyclic").estimate(photos)
    assert {(min(pair), max(pair)) for pair in asked} == {
        (i, i + step) for step in (1, 2) for i in range(6 - step)
    }
    sphere.expect_truth(scene, poses, sizes, tolerance=5e-3)


def test_known_cameras_are_kept_exactly(capture, sphere, tmp_path):
    from fm3d_plugins.estimators.dense import estimator as dense_estimator
    from fm3d_plugins.geometry.known_cameras import KnownCameras

    sizes = [(160, 120)] * 4
    photos, poses, _ = capture(sizes, poses=sphere.walk(12)[:4])
    matrix = sphere.photo_intrinsics(160, 120)
    known = KnownCameras(
        {0: poses[0], 2: poses[2]},
        {0: matrix, 2: matrix},
        {row: torch.zeros(6, dtype=torch.float64) for row in (0, 2)},
    )
    chosen = estimator(known_cameras=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_estimator.DenseEstimator, "read_known", lambda *_: known)
        scene = chosen.estimate(photos)
    for row in (0, 2):
        torch.testing.assert_close(scene.world_from_camera[row], poses[row], atol=1e-6, rtol=0)
        torch.testing.assert_close(scene.intrinsics[row], matrix, atol=1e-4, rtol=0)
    torch.testing.assert_close(scene.world_from_camera, poses, atol=2e-2, rtol=0)
    radius = scene.points.double().norm(dim=-1)
    assert float((radius / sphere.RADIUS - 1).abs().max()) < 2e-2


def test_a_known_focal_length_is_used(capture, sphere):
    sizes = [(160, 120)] * 3
    photos, poses, _ = capture(sizes, poses=sphere.walk(12)[:3])
    scene = estimator(focal_length=128.0).estimate(photos)
    assert scene.intrinsics[:, 0, 0].tolist() == pytest.approx([128.0] * 3, rel=1e-5)
    sphere.expect_truth(scene, poses, sizes, tolerance=5e-3)


def test_masked_pixels_have_no_depth_and_no_points(capture, sphere, tmp_path):
    photos, _, _ = capture([(160, 120)] * 3, poses=sphere.walk(12)[:3])
    masks = tmp_path / "photos" / "masks"
    masks.mkdir()
    for photo in photos:
        mask = np.full((120, 160), 255, np.uint8)
        mask[:, :50] = 0
        Image.fromarray(mask).save(masks / photo.name)
    scene = estimator().estimate(find_photos(tmp_path / "photos"))
    assert (scene.tracks.pixels[:, 0] > 50 - 1).all()
    depth, _ = scene.depth.in_photo_frame(0, (160, 120))
    assert not depth[:, :48].any() and depth[5:-5, 53:].all()


@pytest.mark.parametrize(
    ("count", "options", "fault"),
    [
        (1, {}, "at least 2"),
        (3, {"pairs": "all"}, "pair graph 'all'"),
        (3, {"resolution": 100}, "multiple of 16"),
        (3, {"min_confidence": 2.0}, "min_confidence"),
        (3, {"focal_length": 1.5, "known_cameras": Path("x")}, "Leave one out"),
        (3, {"pairs": "oneref-7"}, "not there"),
    ],
)
def test_senseless_input_is_refused_by_name(capture, count, options, fault):
    photos, _, _ = capture([(160, 120)] * count)
    with pytest.raises(ValueError, match=fault):
        estimator(**options).estimate(photos)


def test_estimators_are_found_by_name():
    assert estimator_class("dust3r") is Dust3r


def test_matches_are_kept_as_tracks_of_several_photos(capture, sphere):
    """Truth: a point that several pixels see projects onto all of them, and lies on the sphere."""
    sizes = [(320, 240)] * 4
    photos, poses, _ = capture(sizes, resolution=208, poses=sphere.walk(24)[:4])
    scene = estimator(resolution=208).estimate(photos)
    tracks = scene.tracks
    counts = torch.bincount(tracks.point_index, minlength=len(scene.points))
    assert int((counts >= 2).sum()) > 100 and int(counts.max()) <= 4
    assert int(counts.min()) >= 1
    shared = counts[tracks.point_index] >= 2
    for view in range(4):
        mine = shared & (tracks.view_index == view)
        points = scene.points[tracks.point_index[mine]].double()
        in_camera = transform_points(invert(scene.world_from_camera[view]), points)
        error = project(in_camera, scene.intrinsics[view]) - tracks.pixels[mine].double()
        # Matches are from pixel to pixel of a map of 0.65 pixels per photo pixel.
        assert float(error.norm(dim=-1).median()) < 1.0
        assert float(error.norm(dim=-1).max()) < 3.0
    seen_twice = tracks.point_index[shared] * 4 + tracks.view_index[shared]
    assert len(seen_twice.unique()) == len(seen_twice)


def test_a_new_photo_is_found_in_a_scene_that_was_made_before(capture, sphere, tmp_path):
    """Truth: the last photo's own camera, brought into the scene's frame by those of the others."""
    sizes = [(320, 240)] * 6
    photos, poses, asked = capture(sizes, resolution=208, poses=sphere.walk(30)[:6])
    new = tmp_path / "new"
    new.mkdir()
    (tmp_path / "photos" / "005.png").rename(new / "005.png")
    scene = process(estimator(resolution=208), tmp_path / "photos", tmp_path / "scene")
    asked.clear()
    chosen = estimator(resolution=208, localize=tmp_path / "scene")
    found = process(chosen, new, tmp_path / "found")
    assert found.names == ("005.png",) and not found.unregistered
    assert {max(pair) for pair in asked} == {5}
    similarity = align_cameras(poses[:5], scene.world_from_camera)
    expected = similarity.apply_to_pose(poses[5:])
    torch.testing.assert_close(found.world_from_camera, expected, atol=2e-2, rtol=0)
    turn = rotation_angle_degrees(found.world_from_camera[:, :3, :3], expected[:, :3, :3])
    assert float(turn) < 0.3
    assert float(found.intrinsics[0, 0, 0]) == pytest.approx(256, rel=1e-2)
    assert torch.equal(found.points, scene.points)


def test_a_known_focal_length_follows_the_size_of_each_new_photo(capture, sphere, tmp_path):
    """Truth: a photo of half the size has half the focal length, in whatever orientation."""
    sizes = [(320, 240)] * 5 + [(320, 240), (160, 120), (120, 160)]
    capture(sizes, resolution=208, poses=sphere.walk(30)[:8])
    new = tmp_path / "new"
    new.mkdir()
    for name in ("005.png", "006.png", "007.png"):
        (tmp_path / "photos" / name).rename(new / name)
    process(estimator(resolution=208), tmp_path / "photos", tmp_path / "scene")
    chosen = estimator(resolution=208, localize=tmp_path / "scene", focal_length=256.0)
    found = process(chosen, new, tmp_path / "found")
    expected = torch.stack([sphere.photo_intrinsics(*size) for size in sizes[5:]])
    torch.testing.assert_close(found.intrinsics, expected)
    assert expected[:, 0, 0].tolist() == [256, 128, 128]


def test_matrices_are_float32_unless_asked(monkeypatch):
    """As the published inference, also where the processor multiplies bfloat16 fast."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    device = torch.device("cpu")
    assert choose_precision(Dust3r().precision, device) == "float32"
    assert choose_precision(Dust3r(precision="auto").precision, device) == "bfloat16"
    config = all_methods["dust3r"].pipeline.datamanager.dataparser
    assert config.estimator.precision == "float32"


def test_photos_of_another_place_are_named_and_not_guessed(capture, sphere, tmp_path, monkeypatch):
    sizes = [(320, 240)] * 5
    capture(sizes, resolution=208, poses=sphere.walk(30)[:5])
    new = tmp_path / "new"
    new.mkdir()
    (tmp_path / "photos" / "004.png").rename(new / "004.png")
    process(estimator(resolution=208), tmp_path / "photos", tmp_path / "scene")
    right = estimator_module.decode_pairs

    def unsure(*arguments, **options):
        for first, second, seen in right(*arguments, **options):
            lost = [torch.full_like(each, 1.1) for each in (seen.confidence_first,) * 2]
            yield first, second, replace(seen, confidence_first=lost[0], confidence_second=lost[1])

    monkeypatch.setattr(estimator_module, "decode_pairs", unsure)
    with pytest.raises(ValueError, match="None of 1 photos could be found.*004.png"):
        process(estimator(localize=tmp_path / "scene", resolution=208), new, tmp_path / "found")
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize("pairs", ["auto", "retrieval-2"])
def test_the_real_network_runs_through_and_repeats_itself(tmp_path, dust3r_weights, pairs):
    """Random weights: what comes out means nothing, but it is whole, finite and the same twice."""
    rng = np.random.default_rng(0)
    for row, size in enumerate([(160, 120), (120, 160), (160, 120), (200, 150)]):
        pixels = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(tmp_path / f"{row}.png")
    photos = find_photos(tmp_path)
    options = {"min_confidence": 0.0, "consistent_views": 0, "device": "cpu", "pairs": pairs}
    chosen = estimator(weights=str(dust3r_weights), **options)
    scenes = [chosen.estimate(photos) for _ in range(2)]
    assert len(scenes[0]) == 4 and len(scenes[0].points) > 100
    assert torch.equal(scenes[0].world_from_camera, scenes[1].world_from_camera)
    assert torch.equal(scenes[0].points, scenes[1].points)
    assert scenes[0].provenance["weights_sha256"]
