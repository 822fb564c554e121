"""COLMAP models: round trip, other programs, damaged files, what cannot be represented."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fm3d_plugins.geometry.cameras import denormalize, distort, normalize, undistort
from fm3d_plugins.geometry.poses import invert
from fm3d_plugins.io.colmap import (
    LENS_ERROR,
    mean_reprojection_errors,
    read_colmap,
    write_colmap,
    write_colmap_or_say,
)
from fm3d_plugins.io.colmap_files import (
    UnsupportedCameraError,
    largest_model,
    num_images,
    read_model,
    write_model,
)
from fm3d_plugins.io.posed_scenes import read_posed_scene
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.scene import SceneGeometry

LENSES = {
    "PINHOLE": (0.0,) * 6,
    "OPENCV": (-0.1, 0.02, 0.0, 0.0, 0.003, -0.002),
    "FULL_OPENCV": (-0.1, 0.02, 0.005, 0.0, 0.003, -0.002),
}


def write_text(scene, folder):
    """A scene as COLMAP's own text files."""
    pycolmap = pytest.importorskip("pycolmap")
    write_colmap(scene, folder.with_name("binary"))
    folder.mkdir(parents=True)
    pycolmap.Reconstruction(str(folder.with_name("binary"))).write_text(str(folder))


@pytest.mark.parametrize("write", [write_colmap, write_text])
@pytest.mark.parametrize("model", LENSES)
@pytest.mark.parametrize("is_shared", [True, False])
def test_scene_survives_the_round_trip(
    tmp_path, make_scene, write, model, is_shared, largest_pixel_shift
):
    scene = make_scene(distortion=LENSES[model], is_shared=is_shared)
    write(scene, tmp_path / "sparse" / "0")
    found = read_colmap(tmp_path / "sparse" / "0")
    assert found.names == scene.names
    for name in ("image_sizes", "intrinsics", "distortion", "camera_index", "points"):
        assert torch.equal(getattr(found, name), getattr(scene, name)), name
    assert torch.equal(found.point_colors, scene.point_colors)
    for name in ("point_index", "view_index", "pixels"):
        assert torch.equal(getattr(found.tracks, name), getattr(scene.tracks, name)), name
    # Only the rotation's way through a quaternion rounds.
    assert largest_pixel_shift(scene, found) < 1e-10


def test_float32_scene_keeps_its_rays(tmp_path, make_scene, largest_pixel_shift):
    scene = make_scene(distortion=LENSES["OPENCV"], dtype=torch.float32)
    write_colmap(scene, tmp_path / "0")
    # Single-precision cameras know their pixels to about 1e-5.
    assert largest_pixel_shift(scene, read_colmap(tmp_path / "0")) < 1e-4


def test_scene_without_tracks_or_points_is_written(tmp_path, make_scene):
    scene = make_scene()
    bare = replace(
        scene,
        points=scene.points[:0],
        point_colors=scene.point_colors[:0],
        point_confidence=scene.point_confidence[:0],
        tracks=None,
    )
    for number, write in enumerate((write_colmap, write_text)):
        write(bare, tmp_path / str(number) / "0")
        found = read_colmap(tmp_path / str(number) / "0")
        assert found.tracks is None
        assert len(found.points) == 0
    write_colmap(replace(scene, tracks=None), tmp_path / "untracked")
    found = read_colmap(tmp_path / "untracked")
    assert len(found.points) == 30
    # Nothing measured says anything against these points.
    assert torch.equal(found.point_confidence, torch.ones(30, dtype=torch.float64))


def test_confidence_falls_with_the_reprojection_error(tmp_path, make_scene):
    """Truth: an observation moved by 3 px gives its point, if seen k times, 1 / (1 + 3 / k)."""
    scene = make_scene()
    pixels = scene.tracks.pixels.clone()
    pixels[0, 0] += 3
    moved = int(scene.tracks.point_index[0])
    count = int((scene.tracks.point_index == moved).sum())
    write_colmap(replace(scene, tracks=replace(scene.tracks, pixels=pixels)), tmp_path / "0")
    expected = torch.ones(30, dtype=torch.float64)
    expected[moved] = 1 / (1 + 3 / count)
    torch.testing.assert_close(read_colmap(tmp_path / "0").point_confidence, expected)


@pytest.mark.parametrize("model", LENSES)
def test_pycolmap_reads_what_we_write(tmp_path, make_scene, model):
    """Oracle: pycolmap's own cameras project the points onto the scene's observations."""
    pycolmap = pytest.importorskip("pycolmap")
    scene = make_scene(distortion=LENSES[model])
    write_colmap(scene, tmp_path / "0")
    found = pycolmap.Reconstruction(str(tmp_path / "0"))
    assert found.num_reg_images() == 4
    assert len(found.cameras) == 3
    assert found.num_points3D() == 30
    assert found.compute_num_observations() == len(scene.tracks.pixels)
    assert found.compute_mean_reprojection_error() < 1e-9
    for view, name in enumerate(scene.names):
        image = found.find_image_with_name(name)
        assert image.camera.model.name == model
        pose = torch.from_numpy(image.cam_from_world().matrix())
        torch.testing.assert_close(pose, invert(scene.world_from_camera)[view, :3])
        seen = scene.tracks.view_index == view
        expected = image.project_point(scene.points[scene.tracks.point_index[seen][0]].numpy())
        torch.testing.assert_close(scene.tracks.pixels[seen][0], torch.tensor(expected))
    for row, color in enumerate(scene.point_colors.tolist()):
        assert found.points3D[row + 1].color.tolist() == color


CAMERAS = {
    "SIMPLE_PINHOLE": (60, 32, 24),
    "PINHOLE": (60, 62, 32, 24),
    "SIMPLE_RADIAL": (60, 32, 24, -0.1),
    "RADIAL": (60, 32, 24, -0.1, 0.02),
    "OPENCV": (60, 62, 32, 24, -0.1, 0.02, 0.003, -0.002),
    "FULL_OPENCV": (60, 62, 32, 24, -0.1, 0.02, 0.003, -0.002, 0.01, 0, 0, 0),
}


def write_text_model(folder, camera):
    """One image without observations, then one with a blank name-free line between, no points."""
    folder.mkdir()
    (folder / "cameras.txt").write_text(f"# cameras\n1 {camera}\n")
    (folder / "images.txt").write_text(
        "# images\n2 1 0 0 0 0 0 0 1 second one.jpg\n\n1 1 0 0 0 1 2 3 1 first.jpg\n5 6 -1 7 8 -1\n"
    )
    (folder / "points3D.txt").write_text("# points\n")


@pytest.mark.parametrize("model", CAMERAS)
def test_every_supported_camera_model_projects_as_in_colmap(tmp_path, model):
    """Oracle: pycolmap.Camera."""
    pycolmap = pytest.importorskip("pycolmap")
    parameters = CAMERAS[model]
    write_text_model(tmp_path / "0", f"{model} 64 48 {' '.join(map(str, parameters))}")
    scene = read_colmap(tmp_path / "0")
    assert scene.names == ("first.jpg", "second one.jpg")
    assert scene.tracks is None
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double() / 4
    pixels = denormalize(distort(points, scene.distortion[0]), scene.intrinsics[0])
    camera = pycolmap.Camera(model=model, width=64, height=48, params=parameters)
    rays = torch.nn.functional.pad(points, (0, 1), value=1.0)
    torch.testing.assert_close(pixels, torch.from_numpy(camera.img_from_cam(rays.numpy())))


def test_text_pose_is_camera_from_world(tmp_path):
    """Truth: without rotation the camera centre is minus the translation."""
    write_text_model(tmp_path / "0", "PINHOLE 64 48 60 60 32 24")
    center = read_colmap(tmp_path / "0").world_from_camera[0, :3, 3]
    assert center.tolist() == [-1, -2, -3]


def test_order_of_points_in_the_file_does_not_matter(tmp_path, make_scene):
    write_text(make_scene(), tmp_path / "0")
    path = tmp_path / "0" / "points3D.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    assert float(mean_reprojection_errors(read_colmap(tmp_path / "0")).max()) < 1e-9


@pytest.mark.parametrize(
    ("camera", "named"),
    [
        ("OPENCV_FISHEYE 64 48 60 60 32 24 0 0 0 0", "OPENCV_FISHEYE"),
        ("RADIAL_FISHEYE 64 48 60 32 24 0 0", "RADIAL_FISHEYE"),
        ("FULL_OPENCV 64 48 60 60 32 24 0 0 0 0 0 0.1 0 0", "denominator"),
        ("THIN_PRISM_FISHEYE 64 48 60 60 32 24 0 0 0 0 0 0 0 0", "THIN_PRISM_FISHEYE"),
    ],
)
def test_camera_models_without_equivalent_are_refused_by_name(tmp_path, camera, named):
    write_text_model(tmp_path / "0", camera)
    with pytest.raises(UnsupportedCameraError, match=named) as caught:
        read_colmap(tmp_path / "0")
    assert "cameras.txt" in str(caught.value)
    pycolmap = pytest.importorskip("pycolmap")
    pycolmap.Reconstruction(str(tmp_path / "0")).write_binary(str(tmp_path / "0"))
    with pytest.raises(UnsupportedCameraError, match=named) as caught:
        read_colmap(tmp_path / "0")
    assert "cameras.bin" in str(caught.value)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_file_cut_off_anywhere_is_refused_by_name(tmp_path, make_scene, name):
    write_colmap(make_scene(), tmp_path / "0")
    content = (tmp_path / "0" / name).read_bytes()
    for length in {0, 7, 8, 20, len(content) // 2, len(content) - 9, len(content) - 1}:
        (tmp_path / "0" / name).write_bytes(content[:length])
        with pytest.raises(ValueError, match="cut off or damaged") as caught:
            read_colmap(tmp_path / "0")
        assert name in str(caught.value)


def test_damaged_counts_and_text_are_refused(tmp_path, make_scene):
    write_colmap(make_scene(), tmp_path / "bin")
    (tmp_path / "bin" / "images.bin").write_bytes(b"\xff" * 200)
    with pytest.raises(ValueError, match=r"images\.bin is cut off or damaged"):
        read_colmap(tmp_path / "bin")
    write_text(make_scene(), tmp_path / "txt")
    (tmp_path / "txt" / "images.txt").write_text("1 1 0 0 zero 0 0 0 1 a.jpg\n\n")
    with pytest.raises(ValueError, match=r"images\.txt is cut off or damaged"):
        read_colmap(tmp_path / "txt")


def test_models_mixed_from_two_reconstructions_are_refused(tmp_path, make_scene):
    scene = make_scene()
    write_colmap(scene, tmp_path / "whole")
    write_colmap(make_scene(is_shared=True), tmp_path / "shared")
    few = replace(
        scene,
        points=scene.points[:1],
        point_colors=scene.point_colors[:1],
        point_confidence=scene.point_confidence[:1],
        tracks=None,
    )
    write_colmap(few, tmp_path / "few")
    original = (tmp_path / "whole" / "points3D.bin").read_bytes()
    (tmp_path / "whole" / "points3D.bin").write_bytes(
        (tmp_path / "few" / "points3D.bin").read_bytes()
    )
    with pytest.raises(ValueError, match="points that the points3D file"):
        read_colmap(tmp_path / "whole")
    (tmp_path / "whole" / "points3D.bin").write_bytes(original)
    (tmp_path / "whole" / "cameras.bin").write_bytes(
        (tmp_path / "shared" / "cameras.bin").read_bytes()
    )
    with pytest.raises(ValueError, match=r"cameras \[2, 3\]"):
        read_colmap(tmp_path / "whole")


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no COLMAP model"):
        read_colmap(tmp_path)


def changed(scene: SceneGeometry, **changes) -> SceneGeometry:
    values = {name: getattr(scene, name).clone() for name in changes if name != "scale"}
    for name, edit in changes.items():
        if name == "scale":
            values[name] = edit
        else:
            edit(values[name])
    return replace(scene, **values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": "latent"}, "latent"),
        ({"distortion": lambda d: d[1:3, 3].fill_(0.1)}, "shared camera_index"),
        ({"distortion": lambda d: d[2, 3].fill_(100)}, "k4 = 100 .* fits no lens"),
        ({"intrinsics": lambda k: k[2, 0, 1].fill_(0.5)}, "skew"),
        ({"intrinsics": lambda k: k[1, 0, 0].fill_(99)}, "shared camera_index"),
        ({"world_from_camera": lambda p: p[3, :3, :3].mul_(2)}, "proper rotation"),
        ({"world_from_camera": lambda p: p[3, :3, 0].neg_()}, "proper rotation"),
    ],
)
def test_what_colmap_cannot_hold_is_refused(tmp_path, make_scene, changes, message):
    with pytest.raises(ValueError, match=message):
        write_colmap(changed(make_scene(), **changes), tmp_path / "0")
    assert not (tmp_path / "0").exists()


def test_k4_is_written_as_a_lens_that_bends_the_photo_alike(tmp_path, make_scene):
    """Truth: pixels, all over the photo, to 0.05 px."""
    scene = make_scene()
    scene.distortion[2] = torch.tensor([-0.1, 0.05, -0.02, 0.02, 1e-3, -2e-3])
    write_colmap(scene, tmp_path / "0")
    found = read_colmap(tmp_path / "0")
    assert float(found.distortion[2, 3]) == 0
    width, height = scene.image_sizes[2].tolist()
    rows, columns = np.mgrid[0:height:5j, 0:width:5j]
    pixels = torch.tensor(np.stack([columns.ravel(), rows.ravel()], -1))
    rays = undistort(normalize(pixels, scene.intrinsics[2].double()), scene.distortion[2].double())
    again = denormalize(distort(rays, found.distortion[2]), found.intrinsics[2])
    assert float((again - pixels).norm(dim=-1).max()) <= LENS_ERROR


def test_a_lens_that_colmap_lacks_costs_a_line_and_no_more(tmp_path, make_scene, capsys):
    scene = make_scene()
    write_colmap_or_say(scene, tmp_path / "0")
    scene.distortion[2, 3] = 100
    write_colmap_or_say(scene, tmp_path / "1")
    assert (tmp_path / "0").exists() and not (tmp_path / "1").exists()
    assert "is not written: the distortion k4 = 100" in " ".join(capsys.readouterr().out.split())


def test_latent_scene_is_written_only_on_demand(tmp_path, make_scene):
    write_colmap(changed(make_scene(), scale="latent"), tmp_path / "0", allow_latent=True)
    assert len(read_colmap(tmp_path / "0")) == 4


@pytest.mark.parametrize("name", ["../a.jpg", "/tmp/a.jpg", "sub/../../a.jpg", "", "d.png"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, make_scene, name):
    write_colmap(make_scene(), tmp_path / "0")
    model = read_model(tmp_path / "0")
    model.images[2] = replace(model.images[2], name=name)
    write_model(model, tmp_path / "0")
    with pytest.raises(ValueError, match=f"{tmp_path}.* names of photos cannot be used"):
        read_colmap(tmp_path / "0")


def test_existing_model_is_replaced_only_on_demand(tmp_path, make_scene):
    write_colmap(make_scene(), tmp_path / "0")
    with pytest.raises(FileExistsError):
        write_colmap(make_scene(), tmp_path / "0")
    (tmp_path / "0" / "points3D.bin").touch()
    before = (tmp_path / "0" / "points3D.bin").stat().st_ino
    write_colmap(make_scene(), tmp_path / "0", overwrite=True)
    assert (tmp_path / "0" / "points3D.bin").stat().st_ino != before
    (tmp_path / "0" / "rigs.bin").touch()  # Of COLMAP, which went on with the model.
    with pytest.raises(FileExistsError, match="added or changed since.*rigs.bin"):
        write_colmap(make_scene(), tmp_path / "0", overwrite=True)


def test_photos_are_checked_and_unregistered_ones_listed(tmp_path, make_scene, write_photos):
    scene = make_scene()
    write_colmap(scene, tmp_path / "0")
    photos = tmp_path / "photos"
    write_photos(scene, photos)
    (photos / "b.jpg").rename(photos / "extra.jpg")
    (photos / "d.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 files are absent .* b\.jpg, d\.png"):
        read_colmap(tmp_path / "0", photos)
    write_photos(scene, photos)
    assert read_colmap(tmp_path / "0", photos).unregistered == ("extra.jpg",)
    turned = replace(scene, image_sizes=scene.image_sizes.flip(1))
    write_photos(turned, photos)
    with pytest.raises(ValueError, match=r"4 of 4 photos: a photo\.jpg is 48 x 64"):
        read_colmap(tmp_path / "0", photos)


@pytest.mark.parametrize("name", ["fox", "sceaux", "banana", "berlin3"])
def test_real_models_agree_with_their_transforms_file(shared, name, largest_pixel_shift):
    """Truth: the two files of each shared scene hold the same cameras."""
    folder = shared / "scenes" / name
    colmap = read_colmap(folder / "colmap" / "sparse" / "0", folder / "images")
    transforms = read_transforms(folder / "transforms.json")
    rows = [colmap.names.index(name) for name in transforms.names]
    ordered = replace(
        transforms,
        **{
            field: getattr(colmap, field)[rows]
            for field in ("world_from_camera", "intrinsics", "distortion", "image_sizes")
        },
    )
    assert torch.equal(ordered.image_sizes, transforms.image_sizes)
    assert largest_pixel_shift(transforms, ordered) < 1e-4


@pytest.mark.parametrize("name", ["fox", "sceaux"])
def test_our_projection_gives_the_errors_that_colmap_stored(shared, name):
    """Oracle: COLMAP's mean reprojection error of every point, which passes all conventions."""
    scene = read_colmap(shared / "scenes" / name / "colmap" / "sparse" / "0")
    stored = 1 / scene.point_confidence - 1
    torch.testing.assert_close(mean_reprojection_errors(scene), stored, atol=1e-9, rtol=0)


@pytest.mark.parametrize("form", ["binary", "text"])
def test_the_largest_of_several_models_is_taken_and_that_is_said(
    tmp_path, make_scene, form, capsys
):
    scene = make_scene()
    few = SceneGeometry(
        **{
            field: getattr(scene, field)[:2]
            for field in ("names", "image_sizes", "world_from_camera", "intrinsics", "distortion")
        },
        camera_index=scene.camera_index[:2],
        points=scene.points,
        point_colors=scene.point_colors,
        point_confidence=scene.point_confidence,
    )
    sparse = tmp_path / "sparse"
    for name, part in (("0", few), ("1", scene), ("2", few)):
        if form == "text":
            write_text(part, sparse / name)
            shutil.rmtree(sparse / "binary")
        else:
            write_colmap(part, sparse / name)
    assert [num_images(sparse / name) for name in ("0", "1", "2", "9")] == [2, 4, 2, 0]
    assert read_posed_scene(tmp_path).names == scene.names
    said = " ".join(capsys.readouterr().out.split())
    assert "has 4 images" in said
    assert "has 2" in said
    assert largest_model(sparse / "2") == sparse / "2"
    shutil.rmtree(sparse / "1")
    assert largest_model(sparse / "0") == sparse / "0"
