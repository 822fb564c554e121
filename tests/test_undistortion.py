"""Each lens trains the right rays, or is refused by name, whatever file describes it."""

import copy
import json

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from fm3d_plugins.geometry.lenses import WIDEST_HALF_ANGLE
from fm3d_plugins.undistortion import pinhole_view

WIDTH, HEIGHT = 81, 60
FX, FY, CX, CY = 42.0, 40.0, 41.5, 29.0
WIDE = (0.05, -0.02, 0.004, -0.001)
"""k1 to k4 of a fisheye lens; its corners are about 67 degrees off the axis."""


def fisheye_directions(coefficients, size=(WIDTH, HEIGHT), center=(CX, CY), focal=(FX, FY)):
    """Unit rays (x right, y down, z forward) of a fisheye's pixels, by bisection of its formula."""
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    x, y = (x - center[0]) / focal[0], (y - center[1]) / focal[1]
    radius = np.hypot(x, y)
    low, high = np.zeros_like(radius), np.full_like(radius, np.pi)
    for _ in range(60):
        angle = (low + high) / 2
        powers = sum(k * angle ** (2 * i + 2) for i, k in enumerate(coefficients))
        is_low = angle * (1 + powers) < radius
        low, high = np.where(is_low, angle, low), np.where(is_low, high, angle)
    scale = np.sin(low) / np.maximum(radius, 1e-12)
    return np.stack([x * scale, y * scale, np.cos(low)], -1)


def colors_of(directions):
    """What is seen in a direction: every ray has its own colour."""
    return 127.5 + 120 * np.asarray(directions)


def write_photos(folder, directions, count=4):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pixels = colors_of(directions).round().astype(np.uint8)
    for number in range(count):
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")


def frames_of(count=4):
    for number in range(count):
        pose = np.eye(4)
        pose[:2, 3] = np.cos(number), np.sin(number)
        yield {"file_path": f"images/{number}.png", "transform_matrix": pose.tolist()}


def write_transforms(folder, model, coefficients, *, in_frames=False, **more):
    size = {"w": WIDTH, "h": HEIGHT, "fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY}
    lens = dict(zip(("k1", "k2", "k3", "k4"), coefficients, strict=False))
    said = {"camera_model": model, **size, **lens, **more}
    top = {} if in_frames else said
    frames = [frame | (said if in_frames else {}) for frame in frames_of()]
    (folder / "transforms.json").write_text(json.dumps(top | {"frames": frames}))


def write_colmap_text(folder, model, parameters):
    sparse = folder / "colmap" / "sparse" / "0"
    sparse.mkdir(parents=True)
    numbers = " ".join(map(str, parameters))
    (sparse / "cameras.txt").write_text(f"1 {model} {WIDTH} {HEIGHT} {numbers}\n")
    images = [f"{n + 1} 1 0 0 0 {np.cos(n)} {np.sin(n)} 0 1 {n}.png\n\n" for n in range(4)]
    (sparse / "images.txt").write_text("".join(images))
    (sparse / "points3D.txt").write_text("")


def manager_of(method, folder, dataparser=None, **options):
    config = copy.deepcopy(all_methods[method].pipeline.datamanager)
    config.data = folder
    config.dataparser = dataparser or NerfstudioDataParserConfig(eval_mode="interval")
    for name, value in options.items():
        setattr(config, name, value)
    return config.setup(device="cpu", test_mode="val")


def seen_rays(camera):
    """Unit rays of nerfstudio's camera in its own axes, turned to x right, y down, z forward."""
    camera = copy.deepcopy(camera).reshape((1,))
    camera.camera_to_worlds = torch.eye(4)[None, :3]
    rays = camera.generate_rays(camera_indices=0).directions
    return (rays * torch.tensor([1.0, -1.0, -1.0])).numpy()


def expect_right_rays(manager, tolerance):
    """In every photo of a manager, each pixel has the colour of its ray."""
    for dataset in (manager.train_dataset, manager.eval_dataset):
        for row in range(len(dataset)):
            data = dataset.get_data(row, "uint8")
            camera = dataset.cameras[row]
            assert data["image"].shape[:2] == (int(camera.height), int(camera.width))
            error = np.abs(data["image"].numpy() - colors_of(seen_rays(camera)))
            assert error.max() < tolerance, row
            assert float(seen_rays(camera)[..., 2].min()) < 0.75  # It is a wide lens.


@pytest.mark.parametrize("method", ["3dgs", "lvsm", "nerf"])
@pytest.mark.parametrize("coefficients", [(0, 0, 0, 0), WIDE])
@pytest.mark.parametrize("in_frames", [False, True])
def test_fisheyes_of_transforms_json_train_their_rays(tmp_path, method, coefficients, in_frames):
    write_photos(tmp_path, fisheye_directions(coefficients))
    write_transforms(tmp_path, "OPENCV_FISHEYE", coefficients, in_frames=in_frames)
    expect_right_rays(manager_of(method, tmp_path), tolerance=1.5)


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
@pytest.mark.parametrize(
    ("model", "parameters", "coefficients"),
    [
        ("OPENCV_FISHEYE", (FX, FY, CX, CY, *WIDE), WIDE),
        ("OPENCV_FISHEYE", (FX, FY, CX, CY, 0, 0, 0, 0), (0, 0, 0, 0)),
        ("SIMPLE_RADIAL_FISHEYE", (FX, CX, CY, 0.03), (0.03,)),
        ("RADIAL_FISHEYE", (FX, CX, CY, 0.03, -0.01), (0.03, -0.01)),
    ],
)
def test_fisheyes_of_colmap_train_their_rays(tmp_path, method, model, parameters, coefficients):
    focal = (FX, FY) if model.startswith("OPENCV") else (FX, FX)
    write_photos(tmp_path, fisheye_directions(coefficients, focal=focal))
    write_colmap_text(tmp_path, model, parameters)
    parser = ColmapDataParserConfig(load_3D_points=False)
    expect_right_rays(manager_of(method, tmp_path, parser), tolerance=1.5)


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
def test_fisheyes_and_perspective_photos_may_stand_in_one_file(tmp_path, method):
    write_photos(tmp_path, fisheye_directions(WIDE))
    write_transforms(tmp_path, "OPENCV_FISHEYE", WIDE, in_frames=True)
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = np.stack([(x - CX) / FX, (y - CY) / FY, np.ones_like(x)], -1)
    pixels = colors_of(rays / np.linalg.norm(rays, axis=-1, keepdims=True)).round()
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / "2.png")
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["frames"][2] |= {"camera_model": "PINHOLE", "k1": 0, "k2": 0, "k3": 0, "k4": 0}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    expect_right_rays(manager_of(method, tmp_path), tolerance=1.5)


@pytest.mark.parametrize("limit", [0, 40])
def test_the_disc_of_a_fisheye_is_scaled_and_undistorted_with_it(tmp_path, limit):
    """What is outside the disc is black in the photo, and masked in the pinhole's."""
    directions = fisheye_directions((0, 0, 0, 0))
    write_photos(tmp_path, directions)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = (y - HEIGHT // 2) ** 2 + (x - WIDTH // 2) ** 2 < 25**2
    for number in range(4):
        with Image.open(tmp_path / "images" / f"{number}.png") as image:
            pixels = np.array(image) * disc[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / f"{number}.png")
    write_transforms(tmp_path, "OPENCV_FISHEYE", (0, 0, 0, 0), fisheye_crop_radius=25.0)
    manager = manager_of("3dgs", tmp_path, max_image_size=limit)
    data, camera = manager.train_dataset.get_data(0, "uint8"), manager.train_dataset.cameras[0]
    assert torch.equal(manager.train_dataset.mask(0), data["mask"])
    kept = data["mask"][..., 0].numpy()
    rays = seen_rays(camera)
    off_axis = np.arccos(rays[..., 2])
    assert kept[off_axis < 0.5].all()
    assert not kept[off_axis > 0.7].any()  # 25 pixels are 0.6 radians, about another middle.
    if not limit:
        error = np.abs(data["image"].numpy() - colors_of(rays))
        assert error[kept].max() < 1.5
        region = manager.train_dataset.region_seen(0, torch.from_numpy(disc))
        assert torch.equal(region, data["mask"][..., 0])


def test_a_round_fisheye_becomes_a_pinhole_of_bounded_field():
    """180 degrees in a circle: no pinhole shows them, and one of 69 degrees to each side does."""
    camera = Cameras(
        torch.eye(4)[None, :3], 32 / (np.pi / 2), 32 / (np.pi / 2), 32.0, 32.0, 64, 64,
        camera_type=CameraType.FISHEYE,
    )  # fmt: skip
    view = pinhole_view(camera[0])
    assert 32 / float(view.intrinsics[0, 0]) == pytest.approx(np.tan(WIDEST_HALF_ANGLE), rel=1e-3)
    assert (view.width, view.height) == (64, 64)


def test_perspective_distortion_is_undone_as_by_opencv():
    """nerfstudio's own function is the oracle, which calls OpenCV's; that rounds to 1/32 pixel."""
    lens = torch.tensor([0.1, -0.05, 0.01, 0.0, 0.003, -0.002])
    camera = Cameras(
        torch.eye(4)[None, :3], 60.0, 62.0, 41.0, 29.5, WIDTH, HEIGHT, distortion_params=lens
    )[0]
    smooth = torch.linspace(0, 1, HEIGHT)[:, None, None] * torch.linspace(0, 1, WIDTH)[:, None]
    image = smooth.repeat(1, 1, 3)
    matrix = camera.get_intrinsics_matrices().numpy()
    expected_matrix, expected, _ = _undistort_image(camera, lens.numpy(), {}, image.numpy(), matrix)
    view = pinhole_view(camera)
    assert (view.height, view.width) == expected.shape[:2]
    np.testing.assert_allclose(view.intrinsics, expected_matrix, rtol=1e-5)
    np.testing.assert_allclose(view.of_image(image), expected, atol=2e-3)


def test_masks_are_undistorted_with_their_photos():
    """nerfstudio's function moves masks twice where the pinhole's photo is cropped."""
    lens = torch.tensor([0.25, 0.0, 0.0, 0.0, 0.02, -0.02])
    camera = Cameras(
        torch.eye(4)[None, :3], 60.0, 62.0, 41.0, 29.5, WIDTH, HEIGHT, distortion_params=lens
    )[0]
    half = torch.arange(WIDTH).expand(HEIGHT, WIDTH)[..., None] >= WIDTH // 2
    view = pinhole_view(camera)
    image, mask = view.of_image(half.float()), view.of_mask(half)
    assert torch.equal(mask, image > 0.999)
    assert 0.3 < float(mask.float().mean()) < 0.7


@pytest.mark.parametrize(
    ("method", "model", "message"),
    [
        ("3dgs", "EQUIRECTANGULAR", r"panorama.*Train nerf"),
        ("lvsm", "EQUIRECTANGULAR", r"panorama.*Train nerf"),
        ("3dgs", "ORTHOPHOTO", "orthographic"),
        ("nerf", "ORTHOPHOTO", "orthographic.*Take these photos out"),
        ("nerf", "VR180_L", "half panorama"),
        ("3dgs", "FISHEYE42", "'FISHEYE42'.*OPENCV_FISHEYE"),
        ("nerf", "THIN_PRISM_FISHEYE", "'THIN_PRISM_FISHEYE'"),
    ],
)
@pytest.mark.parametrize("in_frames", [False, True])
def test_lenses_that_a_method_cannot_use_are_refused_by_name(
    tmp_path, method, model, message, in_frames
):
    write_photos(tmp_path, fisheye_directions(WIDE))
    write_transforms(tmp_path, model, (), in_frames=in_frames)
    with pytest.raises(SystemExit, match=message):
        manager_of(method, tmp_path)


@pytest.mark.parametrize("in_frames", [False, True])
def test_panoramas_train_their_rays_in_nerf(tmp_path, in_frames):
    """Columns are longitudes, 0 in the middle, and rows latitudes, up at the top."""
    width, height = 80, 40
    longitude = (np.arange(width) + 0.5) / width * 2 * np.pi - np.pi
    latitude = np.pi / 2 - (np.arange(height) + 0.5) / height * np.pi
    around, up = np.meshgrid(longitude, latitude)
    rays = np.stack([np.sin(around) * np.cos(up), -np.sin(up), np.cos(around) * np.cos(up)], -1)
    write_photos(tmp_path, rays)
    numbers = {"w": width, "h": height, "fl_x": 40.0, "fl_y": 40.0, "cx": 40.0, "cy": 20.0}
    write_transforms(tmp_path, "EQUIRECTANGULAR", (), in_frames=in_frames, **numbers)
    parser = NerfstudioDataParserConfig(eval_mode="interval", orientation_method="none")
    manager = manager_of("nerf", tmp_path, parser)
    expect_right_rays(manager, tolerance=1.0)
    bundle, batch = manager.next_train(0)
    directions = (bundle.directions * torch.tensor([1.0, -1.0, -1.0])).numpy()
    error = np.abs(255 * batch["image"].numpy() - colors_of(directions))
    assert error.max() < 1.0


def test_a_frame_that_contradicts_the_top_level_is_refused(tmp_path):
    write_photos(tmp_path, fisheye_directions(WIDE))
    write_transforms(tmp_path, "OPENCV", (0, 0, 0, 0))
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["frames"][1]["camera_model"] = "OPENCV_FISHEYE"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="frame 1 has the camera_model 'OPENCV_FISHEYE'"):
        manager_of("3dgs", tmp_path)


@pytest.mark.parametrize("is_fisheye", [False, True])
def test_scenes_with_a_fisheye_word_in_them_are_checked_all_the_same(tmp_path, is_fisheye):
    write_photos(tmp_path, fisheye_directions(WIDE))
    write_transforms(tmp_path, "OPENCV_FISHEYE" if is_fisheye else "OPENCV", (0, 0, 0, 0))
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["note"] = "FISHEYE photos are elsewhere"
    content["frames"][1]["transform_matrix"][0][0] = 3.0
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=r"1\.png has no rotation"):
        manager_of("3dgs", tmp_path)


def test_photos_of_a_fisheye_colmap_model_are_checked(tmp_path):
    write_photos(tmp_path, fisheye_directions(WIDE))
    write_colmap_text(tmp_path, "OPENCV_FISHEYE", (FX, FY, CX, CY, *WIDE))
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(SystemExit, match=r"1\.png"):
        manager_of("nerf", tmp_path, ColmapDataParserConfig(load_3D_points=False))


@pytest.mark.parametrize("k4", [0.001, 0.0])
def test_a_fourth_radial_coefficient_is_refused_where_pinholes_are_seen(tmp_path, k4):
    write_photos(tmp_path, fisheye_directions(WIDE))
    write_transforms(tmp_path, "OPENCV", (0.01, 0, 0, k4))
    if k4:
        with pytest.raises(SystemExit, match=r"k4 = 0\.001.*Train nerf"):
            manager_of("3dgs", tmp_path)
    else:
        assert len(manager_of("3dgs", tmp_path).train_dataset) == 3
    assert len(manager_of("nerf", tmp_path).train_dataset) == 3
