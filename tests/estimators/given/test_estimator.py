"""Cameras from files become those of the photos at hand: matched, turned, scaled, and kept."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import tyro
from nerfstudio.configs.method_configs import all_methods
from PIL import Image

from fm3d_plugins.cli import main as cli
from fm3d_plugins.estimators.base import estimator_class
from fm3d_plugins.estimators.cache import estimated, refined_cached
from fm3d_plugins.estimators.given.estimator import Given
from fm3d_plugins.estimators.refinement.refine import REPORT
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.cameras import (
    denormalize,
    distort,
    intrinsics_matrix,
    opengl_from_opencv,
)
from fm3d_plugins.geometry.poses import invert, pose_from_rotation_translation, se3_exp, so3_exp
from fm3d_plugins.io.colmap import write_colmap
from fm3d_plugins.io.posed_scenes import read_posed_scene
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.scene import SceneGeometry, Tracks

LENS = (-0.1, 0.02, 0.0, 0.0, 0.004, -0.007)
WIDTH, HEIGHT = 128, 96
NAMES = ("a.jpg", "b.jpg", "c.jpg")


def poses(count=3):
    generator = torch.Generator().manual_seed(1)
    return se3_exp(0.3 * torch.randn(count, 6, generator=generator, dtype=torch.float64))


def prior(names=NAMES, size=(WIDTH, HEIGHT), move=(0.0, 0, 0)):
    """A scene of a lens without symmetries, with points and tracks."""
    count = len(names)
    width, height = size
    world_from_camera = poses(count)
    world_from_camera[:, :3, 3] += torch.tensor(move, dtype=torch.float64)
    ones = torch.ones(count, dtype=torch.float64)
    return SceneGeometry(
        names=tuple(names),
        image_sizes=torch.tensor([size] * count),
        world_from_camera=world_from_camera,
        intrinsics=intrinsics_matrix(
            0.9 * width * ones, 0.93 * width * ones, 0.53 * width * ones, 0.46 * height * ones
        ),
        distortion=torch.tensor([LENS] * count, dtype=torch.float64),
        camera_index=torch.zeros(count, dtype=torch.long),
        points=torch.tensor([[0.1, 0.2, 5.0], [-0.3, 0.4, 6.0]]).double()
        + torch.tensor(move, dtype=torch.float64),
        point_colors=torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8),
        point_confidence=torch.ones(2),
        tracks=Tracks(
            torch.arange(count) % 2,
            torch.arange(count),
            torch.tensor([[0.25 * width, 0.75 * height]] * count).double(),
        ),
    )


@pytest.fixture
def folder(tmp_path):
    """Photos of three poses, and one without."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in (*NAMES, "new.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(photos / name)
    write_colmap(prior(), tmp_path / "prior")
    return tmp_path


def given(folder, **options):
    return Given(poses=folder / "prior", **options)


def seen(scene, view, points):
    """Pixels of points of the world."""
    here = points @ invert(scene.world_from_camera)[view, :3, :3].T
    here = here + invert(scene.world_from_camera)[view, :3, 3]
    plane = here[:, :2] / here[:, 2:]
    return denormalize(distort(plane, scene.distortion[view]), scene.intrinsics[view])


def before(scene, view):
    """Points of the world before a view."""
    x, y = torch.meshgrid(torch.linspace(-0.4, 0.4, 5), torch.linspace(-0.3, 0.3, 5), indexing="xy")
    here = torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(0, 1).double() * 3
    pose = scene.world_from_camera[view]
    return here @ pose[:3, :3].T + pose[:3, 3]


def test_cameras_points_and_tracks_are_kept(folder):
    photos = find_photos(folder / "photos")
    scene = given(folder).find_cameras(photos)
    truth = prior()
    assert scene.names == NAMES
    assert scene.unregistered == ("new.jpg",)
    for name in ("world_from_camera", "intrinsics", "distortion", "points"):
        torch.testing.assert_close(getattr(scene, name), getattr(truth, name))
    assert torch.equal(scene.point_colors, truth.point_colors)
    torch.testing.assert_close(scene.tracks.pixels, truth.tracks.pixels)
    assert len(scene.camera_index.unique()) == 1
    assert scene.provenance["format"] == "COLMAP"
    json.dumps(scene.provenance)
    assert scene.scale == "relative"


def test_it_is_known_by_its_name():
    assert estimator_class("given") is Given


def test_given_cameras_are_refined_unless_told_otherwise(folder):
    assert given(folder).refinement == "auto"
    assert given(folder, refine="off").refinement == "off"


def test_poses_must_be_given(folder):
    with pytest.raises(ValueError, match="--poses"):
        estimated(folder / "photos", Given(), cache_dir=folder / "cache")


def test_identity_is_of_the_poses_and_not_of_their_path(folder):
    first = given(folder)
    write_colmap(prior(), folder / "copy")
    assert Given(poses=folder / "copy").identity() == first.identity()
    assert str(folder) not in json.dumps(first.identity())
    write_colmap(prior(move=(0.1, 0, 0)), folder / "other")
    assert Given(poses=folder / "other").identity() != first.identity()
    assert given(folder, camera="per-photo").identity() != first.identity()
    assert given(folder, refine="off").identity() == first.identity()


def test_poses_without_a_photo_are_said(folder, capsys):
    (folder / "photos" / "b.jpg").unlink()
    scene = given(folder).find_cameras(find_photos(folder / "photos"))
    assert scene.names == ("a.jpg", "c.jpg")
    assert scene.tracks.view_index.tolist() == [0, 1]
    assert "b.jpg" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "cameras"), [("auto", 2), ("shared", 1), ("per-photo", 3)])
def test_sharing_of_cameras(folder, option, cameras):
    scene = prior()
    intrinsics = scene.intrinsics.clone()
    intrinsics[2, 0, 0] *= 1.01
    apart = SceneGeometry(
        **{**vars(scene), "intrinsics": intrinsics, "camera_index": torch.tensor([0, 0, 1])}
    )
    write_colmap(apart, folder / "apart")
    found = Given(poses=folder / "apart", camera=option).find_cameras(
        find_photos(folder / "photos")
    )
    assert len(found.camera_index.unique()) == cameras
    middle = [intrinsics[0, 0, 0]] * 3 if option == "shared" else intrinsics[:, 0, 0].tolist()
    assert found.intrinsics[:, 0, 0].tolist() == pytest.approx([float(f) for f in middle])


@pytest.mark.parametrize("factor", [0.5, 1, 3])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("means_stored", [False, True])
def test_photos_of_another_size_or_turned(tmp_path, factor, orientation, means_stored):
    """A dot in the stored picture is where Pillow's upright picture has it."""
    turned = orientation in (6, 8)
    if means_stored and orientation == 3:
        return  # The shape cannot tell: see below.
    stored = (WIDTH, HEIGHT)
    picture = stored if means_stored or not turned else stored[::-1]
    truth = prior(size=picture)
    write_colmap(truth, tmp_path / "prior")
    photos = tmp_path / "photos"
    photos.mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = tuple(round(side * factor) for side in stored)
    for name in NAMES:
        Image.new("RGB", size).save(photos / name, exif=exif)
    scene = given(tmp_path).find_cameras(find_photos(photos))
    for view in range(len(NAMES)):
        points = before(truth, view)
        expected = seen(truth, view, points)
        if means_stored and turned:
            expected = torch.stack([turned_by_pillow(p, picture, orientation) for p in expected])
        torch.testing.assert_close(seen(scene, view, points), expected * factor)
        dot = truth.tracks.pixels[view]
        if means_stored and turned:
            dot = turned_by_pillow(dot, picture, orientation)
        torch.testing.assert_close(scene.tracks.pixels[view], dot * factor)
    rotation = scene.world_from_camera[:, :3, :3]
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(3).double())


def turned_by_pillow(pixel, size, orientation):
    """Where Pillow puts a place of a stored picture: it turns pixels, whose middles are known."""
    numbers = np.arange(size[0] * size[1], dtype=np.int32).reshape(size[1], size[0])
    transpose = {6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[orientation]
    upright = np.asarray(Image.fromarray(numbers).transpose(transpose))
    places = []
    for x, y in ((0, 0), (1, 0), (0, 1)):
        row, column = np.argwhere(upright == numbers[y, x])[0]
        places.append(torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64))
    origin, along_x, along_y = places
    x, y = (pixel - 0.5).tolist()
    return origin + x * (along_x - origin) + y * (along_y - origin)


def test_turned_photos_tell_of_those_that_their_size_leaves_open(tmp_path):
    """Upside-down photos keep their shape; beside one on its side it is clear what cameras mean."""
    truth = prior()
    write_colmap(truth, tmp_path / "prior")
    (tmp_path / "photos").mkdir()
    for name, orientation in zip(NAMES, (6, 3, 1), strict=True):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "photos" / name, exif=exif)
    scene = given(tmp_path).find_cameras(find_photos(tmp_path / "photos"))
    points = before(truth, 1)
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float64)
    torch.testing.assert_close(seen(scene, 1, points), size - seen(truth, 1, points))
    points = before(truth, 2)
    torch.testing.assert_close(seen(scene, 2, points), seen(truth, 2, points))


def test_photos_of_another_shape_are_refused_by_name(folder):
    Image.new("RGB", (WIDTH, HEIGHT + 20)).save(folder / "photos" / "b.jpg")
    with pytest.raises(ValueError, match=r"b\.jpg is 128 x 116 but its camera 128 x 96"):
        given(folder).find_cameras(find_photos(folder / "photos"))


def test_mirrored_photos_are_refused_where_their_cameras_are_of_the_stored_picture(folder):
    exif = Image.Exif()
    exif[0x0112] = 5
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "photos" / "b.jpg", exif=exif)
    with pytest.raises(ValueError, match=r"b\.jpg is stored mirrored"):
        given(folder).find_cameras(find_photos(folder / "photos"))


def arkit_export(folder, middle):
    """Frames that tell no size."""
    folder.mkdir()
    matrices = opengl_from_opencv(poses())
    for name, matrix in zip(NAMES, matrices, strict=True):
        frame = {
            "cameraPoseARFrame": matrix.flatten().tolist(),
            "intrinsics": [110.0, 0, middle[0], 0, 110, middle[1], 0, 0, 1],
        }
        (folder / name).with_suffix(".json").write_text(json.dumps(frame))


def test_frames_that_tell_no_size_have_that_of_their_photos(folder):
    arkit_export(folder / "frames", (66.0, 45.0))
    estimator = Given(poses=folder / "frames")
    scene = estimator.find_cameras(find_photos(folder / "photos"))
    torch.testing.assert_close(scene.world_from_camera, poses())
    assert scene.intrinsics[0].tolist() == [[110.0, 0, 66], [0, 110, 45], [0, 0, 1]]
    assert scene.scale == "metric"
    # Portrait photos whose cameras mean the lying picture, by their principal point.
    for name in NAMES:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "photos" / name, exif=exif)
    scene = estimator.find_cameras(find_photos(folder / "photos"))
    assert scene.intrinsics[0, :2, 2].tolist() == [HEIGHT - 45.0, 66.0]


def test_frames_for_photos_of_another_size_are_refused_where_nothing_tells_it(folder):
    arkit_export(folder / "frames", (660.0, 450.0))
    with pytest.raises(ValueError, match=r"a\.jpg.*principal point"):
        Given(poses=folder / "frames").find_cameras(find_photos(folder / "photos"))


def test_scene_far_from_its_origin_is_moved_and_says_where_it_was(folder, capsys):
    """As in geocentric coordinates, which single precision would round to half a metre."""
    move = (4.1e6, 6.2e5, 4.8e6)
    write_colmap(prior(move=move), folder / "far")
    scene = Given(poses=folder / "far").find_cameras(find_photos(folder / "photos"))
    origin = torch.tensor(scene.provenance["origin"], dtype=torch.float64)
    torch.testing.assert_close(
        scene.world_from_camera[:, :3, 3] + origin, prior(move=move).world_from_camera[:, :3, 3]
    )
    torch.testing.assert_close(scene.points + origin, prior(move=move).points)
    assert float(scene.world_from_camera[:, :3, 3].mean(0).norm()) < 1e-6
    assert "origin" in capsys.readouterr().out


def nvm(folder, inverse):
    lines = ["NVM_V3", "", "3"]
    lines += [f"{name} 110 1 0 0 0 {row} 0 0 {inverse} 0" for row, name in enumerate(NAMES)]
    (folder / "scene.nvm").write_text("\n".join([*lines, "0", ""]))


def test_lens_of_nvm_is_that_of_the_whole_photo(folder):
    """What is seen at a corner, undone by the file's formula, is seen there again."""
    nvm(folder, 0.1)
    scene = Given(poses=folder / "scene.nvm").find_cameras(find_photos(folder / "photos"))
    assert scene.intrinsics[0, :2, 2].tolist() == [WIDTH / 2, HEIGHT / 2]
    corners = torch.tensor([[0, 0], [WIDTH, HEIGHT], [0, HEIGHT / 2], [WIDTH / 3, 0]]).double()
    normalized = (corners - torch.tensor([WIDTH / 2, HEIGHT / 2])) / 110
    straight = normalized * (1 + 0.1 * normalized.square().sum(-1, keepdim=True))
    back = denormalize(distort(straight, scene.distortion[0]), scene.intrinsics[0])
    torch.testing.assert_close(back, corners, atol=0.01, rtol=0)
    nvm(folder, -2.0)
    with pytest.raises(ValueError, match=r"a\.jpg cannot be fitted: .*folds"):
        Given(poses=folder / "scene.nvm").find_cameras(find_photos(folder / "photos"))


def test_latent_cameras_are_no_prior(folder):
    content = {
        "w": WIDTH, "h": HEIGHT, "fl_x": 99, "fl_y": 99, "cx": 64, "cy": 48,
        "fm3d": {"scale": "latent"},
        "frames": [{"file_path": "a.jpg", "transform_matrix": torch.eye(4).tolist()}],
    }  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="latent"):
        Given(poses=folder / "transforms.json").find_cameras(find_photos(folder / "photos"))


def test_process_writes_the_scene(folder, capsys):
    words = (
        "process", "given", "--poses", folder / "prior", "--data", folder / "photos",
        "--output-dir", folder / "scene", "--cache-dir", folder / "cache", "--refine", "off",
    )  # fmt: skip
    cli.main([str(word) for word in words])
    written = read_posed_scene(folder / "scene")
    assert written.names == NAMES
    torch.testing.assert_close(written.world_from_camera, prior().world_from_camera)
    assert written.unregistered == ("new.jpg",)
    assert "new.jpg" in capsys.readouterr().out


def test_output_never_replaces_the_poses(folder):
    words = ("process", "given", "--poses", folder / "prior", "--data", folder / "photos",
             "--output-dir", folder / "prior", "--overwrite")  # fmt: skip
    with pytest.raises(SystemExit, match="prior"):
        cli.main([str(word) for word in words])
    assert (folder / "prior" / "images.bin").is_file()


def test_dataparser_takes_the_poses(tmp_path):
    config = tyro.cli(
        type(all_methods["3dgs"]),
        default=all_methods["3dgs"],
        args=["--data", str(tmp_path), "given", "--poses", "prior", "--refine", "off"],
        config=(tyro.conf.FlagConversionOff,),
    )
    estimator = config.pipeline.datamanager.dataparser.estimator
    assert str(estimator.poses) == "prior" and estimator.refine == "off"


METRES_PER_DEGREE = 111_320.0
"""Of longitude on the equator."""


@pytest.fixture
def surveyed(tmp_path, monkeypatch):
    """Eight photos with positions on the equator, and `sfm` that returns their cameras in a frame
    and scale of its own."""
    generator = np.random.default_rng(0)
    places = generator.uniform(-20, 20, (8, 3))  # East, north, up in metres.
    folder = tmp_path / "photos"
    folder.mkdir()

    def write(places, names=None):
        for row, (east, north, up) in enumerate(places):
            exif = Image.Exif()
            latitude, longitude = 1e-3 + north / 110_574.0, 10 + east / METRES_PER_DEGREE
            exif[0x8825] = {
                1: "N", 2: (latitude, 0.0, 0.0), 3: "E", 4: (longitude, 0.0, 0.0), 5: b"\x00",
                6: 500.0 + up,
            }  # fmt: skip
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{row}.jpg", exif=exif)
        return folder

    turn = so3_exp(torch.tensor([0.4, -1.0, 0.2], dtype=torch.float64))
    own = Similarity(torch.tensor(0.13).double(), turn, torch.tensor([3.0, -1, 2]).double())
    truth = pose_from_rotation_translation(
        poses(8)[:, :3, :3], torch.from_numpy(places - places.mean(0))
    )

    def find_cameras(self, photos):
        scene = prior([f"{row}.jpg" for row in range(8)])
        kept = slice(0, 7)  # One is not registered.
        return SceneGeometry(
            **{
                **{name: value[kept] for name, value in vars(scene).items()
                   if name in ("names", "image_sizes", "intrinsics", "distortion", "camera_index")},
                "world_from_camera": own.apply_to_pose(truth)[kept],
                "points": own.apply(torch.zeros(1, 3).double()),
                "point_colors": torch.zeros(1, 3, dtype=torch.uint8),
                "point_confidence": torch.ones(1),
                "unregistered": ("7.jpg",),
                "provenance": {"estimator": "sfm"},
            }
        )  # fmt: skip

    monkeypatch.setattr("fm3d_plugins.estimators.sfm.estimator.Sfm.find_cameras", find_cameras)
    return folder, write, places, truth


def test_positions_lay_the_cameras_of_sfm_in_metres(surveyed, capsys):
    folder, write, places, truth = surveyed
    spoiled = places.copy()
    spoiled[2] += (300.0, 0, 0)  # A fix gone astray.
    write(spoiled)
    scene = Given(poses=folder).find_cameras(find_photos(folder))
    assert scene.scale == "metric"
    # One wrong position of 300 m moves the mean of eight by 37.5 m: the frame, not the shape.
    offset = scene.world_from_camera[:, :3, 3] - truth[:7, :3, 3]
    # Millimetres: the test's metres per degree are of the equator, and the Earth is round.
    assert float((offset - offset.mean(0)).abs().max()) < 0.05
    torch.testing.assert_close(
        scene.world_from_camera[:, :3, :3], truth[:7, :3, :3], atol=2e-3, rtol=0
    )
    assert float((scene.points[0] - offset.mean(0)).norm()) < 0.05
    assert scene.unregistered == ("7.jpg",)
    assert "sfm finds the cameras" in capsys.readouterr().out
    json.dumps(scene.provenance)


def test_positions_are_refined_only_when_asked(surveyed):
    folder, write, places, _ = surveyed
    write(places)
    assert Given(poses=folder).refinement == "off"
    assert Given(poses=folder, refine="map").refinement == "map"


def test_metres_stay_where_refinement_rejects_the_cameras_that_sfm_found(
    surveyed, tmp_path, monkeypatch
):
    """Nothing stands in their place: they are those of `sfm` already."""
    folder, write, places, _ = surveyed
    write(places)
    photos, estimator = find_photos(folder), Given(poses=folder, refine="map")
    scene = estimator.find_cameras(photos)
    report = {"state": "rejected", "headline": "rejected", "reason": "of this test"}
    numbers = dict.fromkeys(("noise_degrees", "held_out_share", "mean_z", "rms"))

    def rejected(scene, *_, **__):
        return replace(scene, provenance={**scene.provenance, REPORT: report | numbers})

    monkeypatch.setattr("fm3d_plugins.estimators.refinement.refine.refine", rejected)
    found = refined_cached(estimator, photos, scene, tmp_path / "cache")
    assert found.provenance[REPORT]["state"] == "rejected"
    assert found.scale == "metric"
    assert torch.equal(found.world_from_camera, scene.world_from_camera)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda places: places[:2], "2 photos, which is too few"),
        (lambda places: places * 0, "at one place"),
        (lambda places: places * (1, 0, 0), "on one line"),
    ],
)
def test_positions_that_do_not_tell_a_frame_are_refused(surveyed, change, message):
    folder, write, places, _ = surveyed
    write(change(places))
    with pytest.raises(ValueError, match=message):
        Given(poses=folder).find_cameras(find_photos(folder))


def test_positions_that_disagree_with_the_cameras_are_refused(surveyed):
    folder, write, places, _ = surveyed
    write(np.random.default_rng(1).uniform(-20, 20, places.shape))
    with pytest.raises(ValueError, match="more exact"):
        Given(poses=folder).find_cameras(find_photos(folder))


def test_metres_per_degree_of_the_test():
    assert pytest.approx(2 * math.pi * 6378137 / 360, rel=1e-5) == METRES_PER_DEGREE
