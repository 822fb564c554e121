"""`sfm` on real photos: accuracy, bookkeeping, repeatability, and what it says when it fails."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.estimators.base import estimator_class
from fm3d_plugins.estimators.matching.sparse_points import point_confidence
from fm3d_plugins.estimators.sfm.attempts import Search
from fm3d_plugins.estimators.sfm.estimator import Sfm
from fm3d_plugins.estimators.sfm.look_alikes import Doubt
from fm3d_plugins.estimators.sfm.result import Found, say_result, tells_more
from fm3d_plugins.geometry.cameras import denormalize, distort
from fm3d_plugins.geometry.pose_metrics import evaluate_poses
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.scene import SceneGeometry, Tracks

ODD_NAME = "z ü [bold] 照片 '$(x).jpg"


@pytest.fixture(scope="module")
def reference(shared):
    return read_transforms(shared / "scenes/sceaux/transforms_few.json")


@pytest.fixture(scope="module")
def folder(shared, reference, tmp_path_factory):
    """The four spread-out photos of a facade, one under an odd name, and a black one."""
    place = tmp_path_factory.mktemp("facade")
    for name in reference.names:
        shutil.copy(shared / "scenes/sceaux/images" / name, place / name)
    (place / reference.names[-1]).rename(place / ODD_NAME)
    Image.new("RGB", (640, 481)).save(place / "black.png")
    return place


@pytest.fixture(scope="module")
def scene(folder):
    return Sfm(num_threads=1).estimate(find_photos(folder))


def poses(scene, odd=None):
    names = [odd if odd and name == ODD_NAME else name for name in scene.names]
    return dict(zip(names, scene.world_from_camera.double(), strict=True))


def reprojected(scene):
    """The pixel in which each observation's point lies, by this package's cameras."""
    view, points = scene.tracks.view_index, scene.points[scene.tracks.point_index]
    in_camera = transform_points(invert(scene.world_from_camera[view]), points[:, None])
    bent = distort(in_camera[..., :2] / in_camera[..., 2:], scene.distortion[view])
    return denormalize(bent, scene.intrinsics[view])[:, 0]


def test_the_table_of_estimators_knows_it():
    assert estimator_class("sfm") is Sfm


def test_poses_agree_with_the_reference(scene, reference):
    """0.98: the bar of the full scene; pycolmap's own repeatability on these four is 1.000."""
    metrics = evaluate_poses(poses(scene, odd=reference.names[-1]), poses(reference))
    assert metrics.registered == 1.0
    assert metrics.auc(30) > 0.98


def test_photos_without_a_camera_are_named(scene, reference):
    assert scene.unregistered == ("black.png",)
    assert scene.names == (*reference.names[:-1], ODD_NAME)


def test_tracks_reproject_to_the_error_that_is_told(scene):
    errors = (reprojected(scene) - scene.tracks.pixels).norm(dim=-1)
    told = scene.provenance["mean_reprojection_error"]
    assert float(errors.mean()) == pytest.approx(told, rel=1e-3)
    assert told < 1.0


def test_point_colours_are_the_mean_of_the_photos_pixels(scene, folder):
    photos = {photo.name: photo.read() for photo in find_photos(folder)}
    for point in range(0, len(scene.points), 20):
        rows = torch.nonzero(scene.tracks.point_index == point)[:, 0].tolist()
        seen = []
        for row in rows:
            x, y = scene.tracks.pixels[row].tolist()
            seen.append(photos[scene.names[scene.tracks.view_index[row]]][int(y), int(x)])
        mean = np.rint(np.mean(seen, axis=0))
        np.testing.assert_array_equal(scene.point_colors[point].numpy(), mean)


def test_cameras_are_shared_and_centred(scene):
    assert scene.camera_index.unique().tolist() == [0]
    assert (scene.intrinsics == scene.intrinsics[:1]).all()
    centre = torch.tensor([320.0, 240.5], dtype=torch.float64)
    torch.testing.assert_close(scene.intrinsics[0, :2, 2], centre)
    assert scene.image_sizes.tolist() == [[640, 481]] * 4


def test_provenance_tells_estimator_versions_and_seconds(scene):
    told = scene.provenance
    assert told["estimator"] == "sfm" and told["pycolmap"]
    assert told["options"]["seed"] == 0
    assert told["num_models"] >= 1 and told["attempts"]
    assert {"Finding features", "Matching photos", "Joining photos"} <= set(told["seconds"])
    assert all(spent["cpu"] >= 0 for spent in told["seconds"].values())


def test_scene_survives_its_file(scene, tmp_path):
    scene.save(tmp_path / "a.safetensors")
    again = SceneGeometry.load(tmp_path / "a.safetensors")
    torch.testing.assert_close(again.points, scene.points, rtol=0, atol=0)
    assert again.unregistered == scene.unregistered
    assert again.provenance["seconds"] == scene.provenance["seconds"]


@pytest.fixture(scope="module")
def another_run(folder, tmp_path_factory):
    """The same with two threads, what it wrote to the terminal, and its temporary folder."""
    scratch, output = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("out") / "text"
    with pytest.MonkeyPatch.context() as patch, output.open("w") as file:
        patch.setattr(tempfile, "tempdir", str(scratch))
        # Not the property `file`: undoing that would fix the console to today's standard output.
        patch.setattr("nerfstudio.utils.rich_utils.CONSOLE._file", file)
        again = Sfm(num_threads=2).estimate(find_photos(folder))
    return again, output.read_text(), scratch


def test_another_run_gives_the_same_bits_with_any_threads(scene, another_run):
    again, _, _ = another_run
    for name in ("world_from_camera", "intrinsics", "distortion", "points", "point_colors"):
        assert torch.equal(getattr(again, name), getattr(scene, name)), name


def test_nothing_stays_in_the_temporary_folder(another_run):
    assert list(another_run[2].iterdir()) == []


def test_one_line_tells_the_result_and_the_names(another_run):
    (line,) = another_run[1].strip().splitlines()
    assert line.startswith("sfm: 4 of 5 photos") and line.endswith("Not registered: black.png.")


def test_smaller_working_copies_give_cameras_of_the_whole_photos(folder, reference):
    """A working size of 401 makes a scale that is no fraction of small numbers."""
    small = Sfm(max_image_size=401, num_threads=1).estimate(find_photos(folder))
    assert small.image_sizes.tolist() == [[640, 481]] * 4
    centre = torch.tensor([320.0, 240.5], dtype=torch.float64)
    torch.testing.assert_close(small.intrinsics[0, :2, 2], centre)
    focal = float(small.intrinsics[0, 0, 0])
    # Four photos at 401 px determine the focal length within some per cent.
    assert focal == pytest.approx(float(reference.intrinsics[0, 0, 0]), rel=0.1)
    errors = (reprojected(small) - small.tracks.pixels).norm(dim=-1)
    scaled = small.provenance["mean_reprojection_error"] * 640 / 401
    assert float(errors.mean()) == pytest.approx(scaled, rel=1e-3)
    metrics = evaluate_poses(poses(small, odd=reference.names[-1]), poses(reference))
    assert metrics.auc(30) > 0.9


def photos_of(folder, *sources):
    folder.mkdir()
    for source in sources:
        shutil.copy(source, folder)
    return find_photos(folder)


def test_one_photo_is_refused_before_any_work(shared, tmp_path):
    good = shared / "scenes/bad_inputs/good/good_0.jpg"
    with pytest.raises(ValueError, match="1 photo.*at least 2.*Add photos"):
        Sfm().estimate(photos_of(tmp_path / "one", good))


def test_two_photos_are_enough_and_keep_their_focal_length(shared, tmp_path):
    """Without EXIF the guess is 1.2 times the longer side, here 480 pixels."""
    good = shared / "scenes/bad_inputs/good"
    scene = Sfm(num_threads=1).estimate(
        photos_of(tmp_path / "two", good / "good_1.jpg", good / "good_2.jpg")
    )
    assert len(scene) == 2 and len(scene.points) > 100
    assert scene.intrinsics[:, 0, 0].tolist() == [576.0, 576.0]
    baseline = scene.world_from_camera[0, :3, 3] - scene.world_from_camera[1, :3, 3]
    assert float(baseline.norm()) > 0


def test_photos_of_different_places_are_refused_with_advice(shared, tmp_path, monkeypatch):
    """Also: nothing stays in the temporary folder after an error."""
    bad = shared / "scenes/bad_inputs"
    photos = photos_of(
        tmp_path / "two", bad / "good/good_0.jpg", bad / "no_overlap_other_scene.jpg"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with pytest.raises(ValueError, match=r"0 of 2 photos.*Expected at least 2\. Try: ") as raised:
        Sfm(num_threads=1).estimate(photos)
    assert "good_0.jpg" in str(raised.value) and "mapper" in str(raised.value)
    assert list(scratch.iterdir()) == []


def test_masks_that_leave_nothing_are_named(tmp_path):
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "b.png"):
        Image.effect_noise((64, 48), 90).convert("RGB").save(tmp_path / name)
        Image.new("L", (64, 48)).save(tmp_path / "masks" / name)
    with pytest.raises(ValueError, match="masks that leave nothing .*: a.png, b.png"):
        Sfm(num_threads=1, max_image_size=64).estimate(find_photos(tmp_path))


def test_duplicates_have_finite_cameras(shared, tmp_path):
    bad = shared / "scenes/bad_inputs"
    scene = Sfm(num_threads=1).estimate(
        photos_of(
            tmp_path / "many",
            *sorted((bad / "good").iterdir()),
            bad / "duplicate_a.jpg",
            bad / "duplicate_b.jpg",
        )
    )
    assert len(scene) + len(scene.unregistered) == 5
    assert bool(scene.world_from_camera.isfinite().all())
    assert bool(scene.point_confidence.isfinite().all())


@pytest.mark.parametrize(
    ("option", "value"),
    [("overlap", 0), ("max_image_size", 63), ("num_threads", 0), ("min_registered", 1.5)],
)
def test_senseless_options_are_refused_by_name(folder, option, value):
    with pytest.raises(ValueError, match=option):
        Sfm(**{option: value}).estimate(find_photos(folder))


def test_identity_holds_what_changes_the_result_and_not_threads():
    assert Sfm(num_threads=1).identity() == Sfm(num_threads=7).identity()
    assert Sfm(seed=1).identity() != Sfm().identity()
    assert "pycolmap" in Sfm().identity()


def test_confidence_rises_with_photos_and_falls_with_error():
    """(1 - 2^(1 - n)) / (1 + e²): 1/2 for (n, e) = (2, 0), 3/8 for (3, 1), 3/4 for (3, 0)."""
    lengths = [2, 3, 3]
    track_point = np.repeat(np.arange(3), lengths)
    zero = np.zeros(len(track_point), dtype=np.int64)
    model = SparseModel(
        image_index=np.zeros(0, np.int64),
        world_from_camera=np.zeros((0, 4, 4)),
        intrinsics=np.zeros((0, 3, 3)),
        distortion=np.zeros((0, 6)),
        points=np.zeros((3, 3)),
        point_errors=np.array([0.0, 1.0, 0.0]),
        track_point=track_point,
        track_view=zero,
        track_keypoint=zero,
    )
    np.testing.assert_allclose(point_confidence(model), [0.5, 0.375, 0.75])
    worse = replace(model, point_errors=model.point_errors + 100)
    assert ((point_confidence(worse) > 0) & (point_confidence(worse) < 1e-3)).all()


CONTRADICTED = Doubt(("matches contradict",), is_of_cameras=True)


def found(*, views, seen, doubt=None):
    """Photos joined, each of which sees so many points."""
    model = SparseModel(
        image_index=np.arange(views),
        world_from_camera=np.zeros((views, 4, 4)),
        intrinsics=np.zeros((views, 3, 3)),
        distortion=np.zeros((views, 6)),
        points=np.zeros((seen, 3)),
        point_errors=np.zeros(seen),
        track_point=np.tile(np.arange(seen), views),
        track_view=np.repeat(np.arange(views), seen),
        track_keypoint=np.zeros(views * seen, np.int64),
    )
    return Found([], [], {}, Search(Path("a.db"), Path("."), [], 0, 0, best=model), doubt, "")


def test_photos_that_see_few_points_are_no_sure_find():
    assert found(views=16, seen=80).is_sure
    assert (
        not found(views=16, seen=79).is_sure
        and not found(views=16, seen=80, doubt=CONTRADICTED).is_sure
    )


@pytest.mark.parametrize(
    ("second", "is_taken"),
    [
        (found(views=16, seen=61), True),
        (found(views=16, seen=60), False),
        (found(views=15, seen=90), False),
        (found(views=16, seen=90, doubt=CONTRADICTED), False),
    ],
)
def test_a_second_look_counts_that_tells_more_and_leaves_no_doubt(second, is_taken):
    assert tells_more(second, found(views=16, seen=60)) == is_taken


@pytest.mark.parametrize(("joined", "is_said"), [(1, True), (2, False)])
def test_a_model_of_less_than_half_of_the_photos_is_called_so(scene, capsys, joined, is_said):
    others = tuple(f"{n}.jpg" for n in range(len(scene) // joined + (joined == 1)))
    found = Found([], [], {}, Search(Path("a.db"), Path("."), [], 0, 0), None, "")
    say_result(replace(scene, unregistered=others), found)
    assert ("Less than half" in " ".join(capsys.readouterr().out.split())) == is_said


@pytest.mark.parametrize(("points", "is_said"), [(60, True), (100, False)])
def test_photos_that_see_few_points_are_said_to_have_unsure_cameras(scene, capsys, points, is_said):
    views = torch.arange(len(scene)).repeat_interleave(points)
    nothing = torch.zeros(len(views), dtype=torch.long)
    tracks = Tracks(nothing, views, torch.zeros(len(views), 2, dtype=torch.float64))
    found = Found([], [], {}, Search(Path("a.db"), Path("."), [], 0, 0), None, "")
    say_result(replace(scene, tracks=tracks), found)
    said = " ".join(capsys.readouterr().out.split())
    assert (f"A photo sees {points} points only" in said) == is_said


@pytest.mark.parametrize(
    ("motion", "degrees", "is_said"), [(0.05, 60, True), (0.2, 60, False), (0.05, 10, False)]
)
def test_cameras_that_only_turn_are_said_to_tell_no_depth(scene, capsys, motion, degrees, is_said):
    """They stand on the x axis, 10 units before points, and turn about the y axis."""
    poses = torch.eye(4, dtype=torch.float64).repeat(len(scene), 1, 1)
    poses[:, 0, 3] = 10 * motion * torch.linspace(-1, 1, len(scene))
    for pose, angle in zip(poses, np.radians(np.linspace(0, degrees, len(scene))), strict=True):
        pose[0, 0] = pose[2, 2] = np.cos(angle)
        pose[0, 2], pose[2, 0] = np.sin(angle), -np.sin(angle)
    points = torch.zeros_like(scene.points)
    points[:, 2] = 10
    found = Found([], [], {}, Search(Path("a.db"), Path("."), [], 0, 0), None, "")
    say_result(replace(scene, world_from_camera=poses, points=points), found)
    said = " ".join(capsys.readouterr().out.split())
    assert ("as of photos from one place" in said) == is_said
