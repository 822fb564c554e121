"""transforms.json: round trip, nerfstudio itself, and every message for a faulty file."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from fm3d_plugins.geometry.cameras import opengl_from_opencv
from fm3d_plugins.geometry.rays import camera_rays
from fm3d_plugins.io.colmap import write_colmap
from fm3d_plugins.io.ply import write_ply
from fm3d_plugins.io.transforms import (
    estimator_of,
    read_frame_files,
    read_transforms,
    write_transforms,
)

LENS = (-0.1, 0.02, 0.005, 0.001, 0.003, -0.002)


@pytest.fixture
def written(tmp_path, make_scene, write_photos):
    """A scene, and the folder in which it is written with photos and points."""

    def write(**options):
        scene = make_scene(**options)
        write_photos(scene, tmp_path / "images")
        write_ply(tmp_path / "points.ply", scene.points, scene.point_colors, scene.point_confidence)
        write_transforms(scene, tmp_path / "transforms.json", ply_file_path="points.ply")
        return scene, tmp_path

    return write


@pytest.mark.parametrize("is_shared", [True, False])
def test_scene_survives_the_round_trip(written, is_shared, largest_pixel_shift):
    scene, folder = written(distortion=LENS, is_shared=is_shared)
    found = read_transforms(folder / "transforms.json")
    for name in ("names", "scale", "unregistered", "provenance"):
        assert getattr(found, name) == getattr(scene, name), name
    for name in ("image_sizes", "intrinsics", "distortion", "camera_index", "points"):
        assert torch.equal(getattr(found, name), getattr(scene, name)), name
    assert torch.equal(found.point_colors, scene.point_colors)
    assert torch.equal(found.point_confidence, scene.point_confidence)
    assert largest_pixel_shift(scene, found) < 1e-10


def test_float32_scene_keeps_its_rays(written, largest_pixel_shift):
    scene, folder = written(distortion=LENS, dtype=torch.float32)
    # Single-precision cameras know their pixels to about 1e-5.
    assert largest_pixel_shift(scene, read_transforms(folder)) < 1e-4


@pytest.mark.parametrize("is_shared", [True, False])
def test_nerfstudio_sees_the_same_rays_and_points(written, is_shared):
    """Oracle: nerfstudio's own dataparser and cameras, distortion and principal point included."""
    parser = pytest.importorskip("nerfstudio.data.dataparsers.nerfstudio_dataparser")
    scene, folder = written(distortion=LENS, is_shared=is_shared)
    # nerfstudio guesses a transform where it finds a COLMAP model, unless the file states one.
    write_colmap(
        replace(scene, distortion=0 * scene.distortion), folder / "colmap" / "sparse" / "0"
    )
    config = parser.NerfstudioDataParserConfig(
        data=folder,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        eval_mode="all",
        load_3D_points=True,
    )
    outputs = config.setup().get_dataparser_outputs("train")
    torch.testing.assert_close(outputs.dataparser_transform, torch.eye(4)[:3])
    torch.testing.assert_close(outputs.metadata["points3D_xyz"], scene.points.float())
    assert torch.equal(outputs.metadata["points3D_rgb"], scene.point_colors)
    names = [path.name for path in outputs.image_filenames]
    assert sorted(names) == sorted(scene.names)
    for row, name in enumerate(names):
        view = scene.names.index(name)
        pixels = torch.tensor([[0.5, 0.5], [40.25, 10.75], [20.0, 47.5]])
        rays = outputs.cameras.generate_rays(
            torch.full((3, 1), row), coords=pixels.flip(-1), keep_shape=True
        )
        origins, directions = camera_rays(
            pixels.double(),
            scene.intrinsics[view],
            scene.world_from_camera[view],
            scene.distortion[view],
        )
        # Its cameras are float32, and its Newton iteration stops at about 1e-5.
        torch.testing.assert_close(rays.origins, origins.float(), atol=1e-5, rtol=0)
        torch.testing.assert_close(rays.directions, directions.float(), atol=2e-5, rtol=0)


def test_poses_in_the_file_are_opengl(written):
    scene, folder = written()
    frame = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))["frames"][0]
    expected = opengl_from_opencv(scene.world_from_camera)[0]
    torch.testing.assert_close(
        torch.tensor(frame["transform_matrix"]).double(), expected, atol=1e-6, rtol=0
    )


def test_masks_and_depth_maps_are_listed(written):
    scene, folder = written()
    (folder / "extra").mkdir()
    masks = {name: f"extra/mask of {name}.png" for name in scene.names}
    depths = {name: f"extra/depth of {name}.npy" for name in scene.names}
    for file in (*masks.values(), *depths.values()):
        (folder / file).touch()
    path = folder / "transforms.json"
    write_transforms(scene, path, mask_paths=masks, depth_file_paths=depths)
    files = read_frame_files(path)
    assert tuple(files) == scene.names
    assert files["b.jpg"].photo == folder / "images" / "b.jpg"
    assert files["b.jpg"].mask == folder / masks["b.jpg"]
    assert files["b.jpg"].depth == folder / depths["b.jpg"]
    files["b.jpg"].mask.unlink()
    with pytest.raises(FileNotFoundError, match=r"mask of b\.jpg\.png"):
        read_frame_files(path)
    del masks["b.jpg"]
    with pytest.raises(ValueError, match=r"mask_path is given for 3 photos but not for b\.jpg"):
        write_transforms(scene, path, mask_paths=masks)


def test_photos_in_several_folders_are_named_below_the_common_one(
    tmp_path, make_scene, write_photos
):
    scene = make_scene()
    write_photos(scene, tmp_path / "all" / "left")
    write_photos(scene, tmp_path / "all" / "right")
    sides = ("left", "right", "left", "right")
    paths = {name: f"./all/{side}/{name}" for name, side in zip(scene.names, sides, strict=True)}
    write_transforms(scene, tmp_path / "transforms.json", file_paths=paths)
    expected = tuple(f"{side}/{name}" for name, side in zip(scene.names, sides, strict=True))
    assert read_transforms(tmp_path).names == expected


def edited(folder, edit):
    """The path of the file after its JSON went through `edit`."""
    path = folder / "transforms.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    edit(meta)
    path.write_text(json.dumps(meta), encoding="utf-8")
    return path


def set_matrix(frame, row, column, value):
    def edit(meta):
        meta["frames"][frame]["transform_matrix"][row][column] = value

    return edit


def scale_matrix(meta):
    matrix = meta["frames"][1]["transform_matrix"]
    meta["frames"][1]["transform_matrix"] = [[2 * x for x in row[:3]] + row[3:] for row in matrix]


def singular_matrix(meta):
    meta["frames"][1]["transform_matrix"] = [[0] * 4] * 4


FAULTS = {
    "no frames": (lambda m: m.pop("frames"), "no list `frames`"),
    "empty frames": (lambda m: m.update(frames=[]), "an empty list `frames`"),
    "frames no list": (lambda m: m.update(frames={"a": 1}), "no list `frames`"),
    "no file_path": (lambda m: m["frames"][2].pop("file_path"), "frame 2 has the file_path None"),
    "empty file_path": (lambda m: m["frames"][2].update(file_path=""), "frame 2 has the file_path"),
    "repeated": (lambda m: m["frames"].append(m["frames"][1]), r"images/b\.jpg more than once"),
    "no focal": (lambda m: m.pop("fl_x"), "fl_x is missing"),
    "zero focal": (lambda m: m.update(fl_y=0), "fl_y is 0 in the top level"),
    "nan focal": (lambda m: m.update(fl_x=float("nan")), "fl_x is nan"),
    "no size": (lambda m: m.pop("w"), "w is missing"),
    "text": (lambda m: m.update(cx="middle"), "cx is 'middle'"),
    "bad k1": (lambda m: m.update(k1=None), "k1 is None"),
    "five numbers": (lambda m: m.update(distortion_params=[0] * 5), "the six numbers"),
    "fisheye": (lambda m: m.update(camera_model="OPENCV_FISHEYE"), "'OPENCV_FISHEYE'"),
    "no matrix": (lambda m: m["frames"][0].pop("transform_matrix"), r"a photo\.jpg has no matrix"),
    "nan pose": (set_matrix(1, 0, 3, float("nan")), r"images/b\.jpg has a matrix with nan"),
    "nan rotation": (set_matrix(1, 0, 0, float("nan")), r"images/b\.jpg has a matrix with nan"),
    "scaled": (scale_matrix, r"images/b\.jpg has no rotation \(determinant 8\)"),
    "singular": (singular_matrix, r"images/b\.jpg has no rotation \(determinant 0\)"),
    "scale": (lambda m: m["fm3d"].update(scale="huge"), "scale is 'huge'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_field_is_named_with_the_file(written, fault):
    edit, message = FAULTS[fault]
    _, folder = written(is_shared=True)
    path = edited(folder, edit)
    with pytest.raises(ValueError, match=message) as caught:
        read_transforms(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "place", ["../../elsewhere/b.jpg", "/elsewhere/b.jpg", "images/../../b.jpg"]
)
def test_photos_that_lie_apart_from_the_others_are_refused(written, place):
    """Their names would lead out of any folder that is written."""
    path = edited(written()[1], lambda meta: meta["frames"][1].update(file_path=place))
    with pytest.raises(ValueError, match=f"{path}.* names of photos cannot be used"):
        read_transforms(path, require_images=False)


def test_text_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "transforms.json"
    for content in (b"{'frames': []}", b"\xff\xfe\x00", b"[1, 2]"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"transforms\.json"):
            read_transforms(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_transforms(tmp_path / "absent.json")


def test_all_absent_photos_are_listed(written):
    scene, folder = written()
    for name in ("b.jpg", "d.png"):
        (folder / "images" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.jpg, d\.png"):
        read_transforms(folder)
    assert read_transforms(folder, require_images=False).names == scene.names


def test_absent_point_cloud_is_refused(written):
    scene, folder = written()
    (folder / "points.ply").unlink()
    with pytest.raises(FileNotFoundError, match=r"points\.ply"):
        read_transforms(folder)
    with pytest.raises(FileNotFoundError, match=r"points\.ply"):
        write_transforms(scene, folder / "transforms.json", ply_file_path="points.ply")


def test_photo_turned_by_exif_may_be_meant_either_way(written):
    image_module = pytest.importorskip("PIL.Image")
    scene, folder = written()
    image = image_module.new("RGB", (48, 64))
    exif = image_module.Exif()
    exif[0x0112] = 6  # turned by 90 degrees, so upright it is 64 x 48
    image.save(folder / "images" / "b.jpg", exif=exif)
    assert read_transforms(folder).names == scene.names
    image.save(folder / "images" / "b.jpg")
    with pytest.raises(ValueError, match=r"b\.jpg is 48 x 64 but its camera 64 x 48"):
        read_transforms(folder)


def test_file_with_byte_order_mark_and_without_our_fields_is_read(written):
    _, folder = written(distortion=LENS)
    path = edited(folder, lambda meta: [meta.pop(key) for key in ("fm3d", "applied_transform")])
    edited(folder, lambda meta: [frame.pop("camera_index") for frame in meta["frames"]])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    found = read_transforms(path)
    assert found.scale == "relative"
    # The first two views have equal cameras, the others their own.
    groups = found.camera_index.tolist()
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3


def test_distortion_params_is_read_as_nerfstudio_does(written):
    def edit(meta):
        values = [meta.pop(key) for key in ("k1", "k2", "k3", "k4", "p1", "p2")]
        meta["distortion_params"] = values

    scene, folder = written(distortion=LENS, is_shared=True)
    assert torch.equal(read_transforms(edited(folder, edit)).distortion, scene.distortion)


def test_latent_scene_is_written_only_on_demand(tmp_path, make_scene):
    scene = replace(make_scene(), scale="latent")
    path = tmp_path / "transforms.json"
    with pytest.raises(ValueError, match="latent"):
        write_transforms(scene, path)
    write_transforms(scene, path, allow_latent=True)
    assert read_transforms(path, require_images=False).scale == "latent"


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"fm3d": 3}', '{"fm3d": {"provenance": []}}']
)
def test_other_files_name_no_estimator(tmp_path, content):
    (tmp_path / "transforms.json").write_text(content)
    assert estimator_of(tmp_path) is None
    assert estimator_of(tmp_path / "absent") is None


def test_work_of_reading_grows_with_the_number_of_frames(tmp_path):
    """Truth: twice the frames take twice the calls of functions, where every pair would take four
    times as many."""

    def calls(count):
        frame = {"transform_matrix": torch.eye(4).tolist(), "fl_x": 9.0, "fl_y": 9.0, "cx": 4.0}
        frame |= {"cy": 4.0, "w": 8, "h": 8}
        frames = [{"file_path": f"images/{n}.jpg", **frame} for n in range(count)]
        path = tmp_path / "transforms.json"
        path.write_text(json.dumps({"frames": frames}))
        total = 0

        def count_call(*_):
            nonlocal total
            total += 1

        sys.setprofile(count_call)
        try:
            read_transforms(path, require_images=False)
        finally:
            sys.setprofile(None)
        return total

    few, many = calls(100), calls(200)
    assert many < 2.2 * few
