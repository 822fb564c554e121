"""A photo's pixels are those of its camera: turned, scaled, and of the size that it really has."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from fm3d_plugins.camera_photos import (
    CAMERA_CONFIDENCE,
    RENDERED_VIEWS,
    CameraPhotos,
    fit_of,
)
from fm3d_plugins.io.colmap import write_colmap
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.nerfstudio_cameras import with_pinholes
from fm3d_plugins.photos.masks import mask_beside


def outputs(folder, width, height):
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    Image.fromarray(np.repeat(ramp[None], height, 0)).convert("RGB").save(folder / "a.png")
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    cameras = Cameras(
        camera_to_worlds=torch.eye(4)[None, :3],
        fx=torch.tensor([500.0]),
        fy=torch.tensor([510.0]),
        cx=torch.tensor([width / 2]),
        cy=torch.tensor([height / 2]),
        width=torch.tensor([width], dtype=torch.int32),
        height=torch.tensor([height], dtype=torch.int32),
    )
    return DataparserOutputs(
        image_filenames=[folder / "a.png"], cameras=cameras, mask_filenames=[folder / "mask.png"]
    )


def test_confidence_of_cameras_is_in_pixels_of_the_photos_given_out(tmp_path):
    """Two pixels of the file are one of a photo half as wide; the dataparser's own stay."""
    original = outputs(tmp_path, 800, 600)
    original.metadata[CAMERA_CONFIDENCE] = torch.tensor([1 / (1 + 2.0**2)])
    dataset = CameraPhotos(original, fit_of(original), 0.5)
    torch.testing.assert_close(dataset.metadata[CAMERA_CONFIDENCE], torch.tensor([1 / (1 + 1.0)]))
    assert float(original.metadata[CAMERA_CONFIDENCE]) == pytest.approx(0.2)


@pytest.mark.parametrize(("width", "height"), [(844, 633), (984, 738), (1131, 848), (700, 100)])
@pytest.mark.parametrize("image_type", ["uint8", "float32"])
def test_photo_mask_and_camera_agree_in_size(tmp_path, width, height, image_type):
    """The sizes are such that nerfstudio's scaling of photo and camera differ by a pixel."""
    original = outputs(tmp_path, width, height)
    dataset = CameraPhotos(original, fit_of(original), 640 / width)
    camera, data = dataset.cameras[0], dataset.get_data(0, image_type)
    size = (round(height * 640 / width), 640)
    assert (int(camera.height), int(camera.width)) == size
    assert data["image"].shape == (*size, 3)
    assert data["mask"].shape == (*size, 1)
    # A point's place relative to the picture stays: u / width and v / height.
    assert float(camera.cx) == pytest.approx(320)
    assert float(camera.cy) == pytest.approx(size[0] / 2)
    assert float(camera.fx) / 640 == pytest.approx(500 / width)
    assert float(camera.fy) / size[0] == pytest.approx(510 / height)
    assert int(original.cameras.width) == width
    # The picture's brightness grows evenly to the right, and the mask begins in the middle.
    row = data["image"][size[0] // 2, :, 0].float() / (255 if image_type == "uint8" else 1)
    expected = (torch.arange(640) + 0.5) / 640
    assert (row - expected).abs().max() < 0.01
    assert not data["mask"][:, :318].any()
    assert data["mask"][:, 322:].all()


@pytest.mark.parametrize(
    ("scale", "photo", "rendered"), [(0.5, 600, 256), (0.25, 300, 256), (0.1, 120, 120)]
)
def test_rendered_views_are_scaled_only_where_photos_would_be_smaller(
    tmp_path, scale, photo, rendered
):
    original = outputs(tmp_path, 1200, 900)
    Image.new("RGB", (256, 192)).save(tmp_path / "b.png")
    lens = torch.tensor([[[100.0, 0, 128], [0, 100, 96], [0, 0, 1]]])
    sizes = torch.tensor([[256, 192]])
    original.cameras = with_pinholes(original.cameras, torch.eye(4)[None], lens, sizes)
    original.image_filenames.append(tmp_path / "b.png")
    original.mask_filenames = None
    original.metadata = {RENDERED_VIEWS: torch.tensor([False, True])}
    dataset = CameraPhotos(original, fit_of(original), scale)
    assert dataset.cameras.width.flatten().tolist() == [photo, rendered]
    assert dataset.get_data(1)["image"].shape == (rendered * 3 // 4, rendered, 3)
    assert float(dataset.cameras.cx[1]) == pytest.approx(rendered / 2)


def picture(height, width, number):
    """A photo in which every pixel differs from its neighbours."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    coarse[: height // 3, : width // 4] = 255
    return coarse


def as_stored(upright, orientation):
    """Where the rows and columns of a file lie in the upright picture, as EXIF 2.3 defines it.

    6 for example: row 0 is the picture's right side, column 0 its top.
    """
    height, width, _ = upright.shape
    rows, columns = (width, height) if orientation >= 5 else (height, width)
    r, c = np.mgrid[:rows, :columns]
    y = {1: r, 2: r, 3: -1 - r, 4: -1 - r, 5: c, 6: c, 7: -1 - c, 8: -1 - c}[orientation]
    x = {1: c, 2: -1 - c, 3: -1 - c, 4: c, 5: r, 6: -1 - r, 7: -1 - r, 8: r}[orientation]
    return upright[y, x]


def save(pixels, path, orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)


def write_scene(folder, size, orientations, files=None):
    """Photos seen by cameras of one size; their files as given, else turned by EXIF."""
    width, height = size
    frames = []
    for number, orientation in enumerate(orientations):
        upright = picture(height, width, number)
        pixels = as_stored(upright, orientation) if files is None else files[number]
        save(pixels, folder / "images" / f"{number}.png", orientation)
        pose = np.eye(4)
        pose[:2, 3] = np.cos(number), np.sin(number)
        frames.append({"file_path": f"images/{number}.png", "transform_matrix": pose.tolist()})
    lens = {"w": width, "h": height, "fl_x": 50.0, "fl_y": 52.0, "cx": width / 2 + 1, "cy": 20.0}
    content = {"camera_model": "OPENCV", **lens, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def manager_of(method, folder, dataparser=None, **options):
    config = copy.deepcopy(all_methods[method].pipeline.datamanager)
    config.data = folder
    config.dataparser = dataparser or NerfstudioDataParserConfig(eval_mode="interval")
    for name, value in options.items():
        setattr(config, name, value)
    return config.setup(device="cpu", test_mode="val")


def photos_of(manager):
    """All photos of a datamanager by their number, and their cameras."""
    for dataset in (manager.train_dataset, manager.eval_dataset):
        for row, file in enumerate(dataset.image_filenames):
            yield int(file.stem), dataset.get_data(row, "uint8")["image"], dataset.cameras[row]


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
@pytest.mark.parametrize("limit", [0, 32])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_cameras_of_upright_photos_get_upright_pixels(tmp_path, method, limit, orientation):
    """At 64 x 48 and, halved, at 32 x 24, where each pixel is the mean of four."""
    folder = write_scene(tmp_path, (64, 48), [1, orientation, orientation, 1])
    seen = list(photos_of(manager_of(method, folder, max_image_size=limit)))
    assert sorted(number for number, *_ in seen) == [0, 1, 2, 3]
    for number, image, camera in seen:
        expected = picture(48, 64, number).astype(float)
        if limit:
            expected = expected.reshape(24, 2, 32, 2, 3).mean((1, 3))
        assert (int(camera.width), int(camera.height)) == expected.shape[1::-1]
        assert np.abs(image.numpy() - expected).max() <= 0.5


@pytest.mark.parametrize("orientation", range(2, 9))
def test_colmap_models_of_upright_photos_get_upright_pixels(tmp_path, orientation):
    folder = write_scene(tmp_path, (64, 48), [orientation] * 4)
    write_colmap(read_transforms(folder), folder / "colmap" / "sparse" / "0")
    parser = ColmapDataParserConfig(load_3D_points=False)
    for number, image, _ in photos_of(manager_of("3dgs", folder, parser)):
        assert np.array_equal(image, picture(48, 64, number))


def half_black(width, height, row):
    """A mask whose rows above one are black."""
    mask = np.full((height, width), 255, np.uint8)
    mask[:row] = 0
    return mask


def masks_seen(manager):
    """The mask of each photo, by its number; none where it has none."""
    found = {}
    for dataset in (manager.train_dataset, manager.eval_dataset):
        for row, file in enumerate(dataset.image_filenames):
            mask = found[int(file.stem)] = dataset.get_data(row, "uint8").get("mask")
            alone = dataset.mask(row)
            assert alone is mask is None or torch.equal(alone, mask)
    return found


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
@pytest.mark.parametrize("is_colmap", [False, True])
@pytest.mark.parametrize("name", ["{}.png", "{}.png.png"])
def test_masks_beside_a_scene_are_used_and_told(tmp_path, capsys, method, is_colmap, name):
    """Whatever their names end in; photo 3 has none and counts whole."""
    folder = write_scene(tmp_path, (64, 48), [1] * 4)
    parser = None
    if is_colmap:
        write_colmap(read_transforms(folder), folder / "sparse/0")
        (folder / "transforms.json").unlink()
        parser = ColmapDataParserConfig(load_3D_points=False, colmap_path=Path("sparse/0"))
    for number in range(3):
        save(half_black(64, 48, 5 + number), folder / "masks" / name.format(number))
    seen = masks_seen(manager_of(method, folder, parser))
    assert seen.pop(3) is None
    for number, mask in seen.items():
        assert np.array_equal(mask[..., 0], half_black(64, 48, 5 + number) > 0)
    said = " ".join(capsys.readouterr().out.split())
    assert f"Masks of 3 of the 4 photos are in {folder / 'masks'}" in said.replace("- ", "-")
    assert "count whole: 3.png" in said


@pytest.mark.parametrize("name", ["left/0.png", "left/0.jpg.png"])
def test_masks_of_photos_in_folders_lie_in_such_folders(tmp_path, name):
    photo, mask = tmp_path / "images/left/0.jpg", tmp_path / "masks" / name
    mask.parent.mkdir(parents=True)
    mask.touch()
    assert mask_beside(photo, tmp_path) == mask
    assert mask_beside(tmp_path / "images/right/0.jpg", tmp_path) is None
    # A scene beside this one may be called masks, too.
    assert mask_beside(photo, tmp_path / "images") is None


def test_one_mask_of_photos_in_two_folders_is_refused(tmp_path):
    folder = write_scene(tmp_path, (64, 48), [1] * 4)
    content = json.loads((folder / "transforms.json").read_text())
    for number, frame in enumerate(content["frames"]):
        frame["file_path"] = f"images/{number % 2}/{number // 2}.png"
        save(picture(48, 64, number), folder / frame["file_path"])
    (folder / "transforms.json").write_text(json.dumps(content))
    save(half_black(64, 48, 5), folder / "images/masks/0.png")
    with pytest.raises(SystemExit, match=r"0\.png would be the mask of both"):
        manager_of("3dgs", folder)


def test_masks_that_the_scene_names_go_before_those_beside_it(tmp_path, capsys):
    folder = write_scene(tmp_path, (64, 48), [1] * 4)
    content = json.loads((folder / "transforms.json").read_text())
    for number, frame in enumerate(content["frames"]):
        frame["mask_path"] = f"named/{number}.png"
        save(half_black(64, 48, 20), folder / frame["mask_path"])
        save(half_black(64, 48, 5), folder / "masks" / f"{number}.png")
    (folder / "transforms.json").write_text(json.dumps(content))
    for mask in masks_seen(manager_of("3dgs", folder)).values():
        assert np.array_equal(mask[..., 0], half_black(64, 48, 20) > 0)
    assert "Masks of" not in capsys.readouterr().out


def test_a_folder_of_masks_with_other_names_is_told(tmp_path, capsys):
    folder = write_scene(tmp_path, (64, 48), [1] * 4)
    save(half_black(64, 48, 5), folder / "masks/mask_0.png")
    manager_of("3dgs", folder)
    said = " ".join(capsys.readouterr().out.split())
    assert "has no mask of these photos: none is used" in said


def test_masks_beside_a_scene_of_another_size_are_named(tmp_path):
    folder = write_scene(tmp_path, (64, 48), [1] * 4)
    save(half_black(50, 50, 5), folder / "masks/2.png")
    with pytest.raises(SystemExit, match=r"2\.png is 50 x 50 but its photo 2\.png 64 x 48"):
        manager_of("3dgs", folder)


@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize("has_copies", [False, True])
def test_masks_fit_smaller_copies_of_photos(tmp_path, is_named, has_copies):
    """As copies of their own, or as masks of the photos that the copies are of."""
    folder = write_scene(tmp_path, (65, 49), [1] * 4)
    content = json.loads((folder / "transforms.json").read_text())
    for number, frame in enumerate(content["frames"]):
        save(picture(25, 33, number), folder / "images_2" / f"{number}.png")
        save(half_black(65, 49, 20), folder / "masks" / f"{number}.png")
        if has_copies:
            save(half_black(33, 25, 10), folder / "masks_2" / f"{number}.png")
        if is_named:
            frame["mask_path"] = f"masks/{number}.png"
    (folder / "transforms.json").write_text(json.dumps(content))
    parser = NerfstudioDataParserConfig(downscale_factor=2, eval_mode="interval")
    for mask in masks_seen(manager_of("3dgs", folder, parser)).values():
        assert np.array_equal(mask[..., 0], half_black(33, 25, 10) > 0)


def test_masks_path_of_colmap_takes_the_names_that_colmap_gives(tmp_path):
    folder = write_scene(tmp_path, (64, 48), [1] * 4)
    write_colmap(read_transforms(folder), folder / "sparse/0")
    for number in range(4):
        save(half_black(64, 48, 7), folder / "own" / f"{number}.png.png")
    parser = ColmapDataParserConfig(
        load_3D_points=False, colmap_path=Path("sparse/0"), masks_path=Path("own")
    )
    for mask in masks_seen(manager_of("3dgs", folder, parser)).values():
        assert np.array_equal(mask[..., 0], half_black(64, 48, 7) > 0)


def test_cameras_of_stored_photos_get_stored_pixels(tmp_path):
    """The photos on their side tell what is meant of the one that stands upside-down."""
    stored = [picture(48, 64, number) for number in range(4)]
    folder = write_scene(tmp_path, (64, 48), [6, 3, 8, 1], stored)
    for number, image, _ in photos_of(manager_of("3dgs", folder)):
        assert np.array_equal(image, stored[number])


def test_a_held_out_photo_tells_what_is_meant_of_training_photos(tmp_path):
    stored = [picture(48, 64, number) for number in range(9)]
    folder = write_scene(tmp_path, (64, 48), [6, *[3] * 8], stored)
    for number, image, _ in photos_of(manager_of("nerf", folder)):
        assert np.array_equal(image, stored[number])


def test_what_sizes_cannot_tell_is_said_and_can_be_changed(tmp_path, capsys):
    stored = [picture(48, 48, number) for number in range(3)]
    folder = write_scene(tmp_path, (48, 48), [6] * 3, stored)
    for number, image, _ in photos_of(manager_of("3dgs", folder)):
        assert np.array_equal(as_stored(image.numpy(), 6), stored[number])
    said = " ".join(capsys.readouterr().out.split())
    assert "3 photos (0.png, 1.png, 2.png) have an EXIF orientation" in said
    for number, image, _ in photos_of(manager_of("3dgs", folder, exif_orientation="stored")):
        assert np.array_equal(image, stored[number])


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
def test_photos_of_neither_size_are_named(tmp_path, method):
    files = [picture(48, 64, 0), picture(60, 48, 1), picture(48, 64, 2), picture(24, 32, 3)]
    folder = write_scene(tmp_path, (64, 48), [1, 6, 1, 1], files)
    with pytest.raises(SystemExit, match=r"1\.png is 48 x 60 \(60 x 48 upright\).*3\.png"):
        manager_of(method, folder)


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
@pytest.mark.parametrize("size", [(32, 24), (33, 25), (33, 24)])
@pytest.mark.parametrize("limit", [0, 16])
def test_cameras_follow_the_real_size_of_smaller_copies(tmp_path, method, size, limit):
    """65 x 49 halved is 32.5 x 24.5, which programs round either way."""
    folder = write_scene(tmp_path, (65, 49), [1] * 4)
    copies = [picture(*size[::-1], number) for number in range(4)]
    for number, pixels in enumerate(copies):
        save(pixels, folder / "images_2" / f"{number}.png")
    parser = NerfstudioDataParserConfig(downscale_factor=2, eval_mode="interval")
    for number, image, camera in photos_of(
        manager_of(method, folder, parser, max_image_size=limit)
    ):
        scale = 16 / size[0] if limit else 1
        width, height = (round(side * scale) for side in size)
        assert image.shape == (height, width, 3)
        assert (int(camera.width), int(camera.height)) == (width, height)
        assert float(camera.fx) == pytest.approx(50 * width / 65)
        assert float(camera.cx) == pytest.approx(33.5 * width / 65)
        assert float(camera.fy) == pytest.approx(52 * height / 49)
        assert float(camera.cy) == pytest.approx(20 * height / 49)
        if not limit:
            assert np.array_equal(image, copies[number])


def test_copies_of_photos_on_their_side_are_turned_too(tmp_path):
    folder = write_scene(tmp_path, (65, 49), [6] * 4)
    for number in range(4):
        save(as_stored(picture(25, 33, number), 6), folder / "images_2" / f"{number}.png", 6)
    parser = NerfstudioDataParserConfig(downscale_factor=2, eval_mode="interval")
    for number, image, _ in photos_of(manager_of("3dgs", folder, parser)):
        assert np.array_equal(image, picture(25, 33, number))


@pytest.mark.parametrize("is_turned", [False, True])
def test_masks_lie_on_their_photos(tmp_path, is_turned):
    """A mask on its side, as the photo is stored, is turned with it."""
    folder = write_scene(tmp_path, (64, 48), [6] * 4)
    content = json.loads((folder / "transforms.json").read_text())
    masks = [picture(48, 64, 100 + number)[..., :1].repeat(3, -1) & 128 for number in range(4)]
    for number, frame in enumerate(content["frames"]):
        mask = as_stored(masks[number], 6) if is_turned else masks[number]
        Image.fromarray(np.ascontiguousarray(mask)).save(folder / f"mask_{number}.png")
        frame["mask_path"] = f"mask_{number}.png"
    (folder / "transforms.json").write_text(json.dumps(content))
    manager = manager_of("3dgs", folder)
    for row, file in enumerate(manager.train_dataset.image_filenames):
        mask = manager.train_dataset.get_data(row)["mask"][..., 0]
        assert np.array_equal(mask, masks[int(file.stem)][..., 0] > 0)
    Image.new("L", (50, 50), 255).save(folder / "mask_2.png")
    with pytest.raises(SystemExit, match=r"mask_2\.png is 50 x 50 but its photo 2\.png 64 x 48"):
        manager_of("3dgs", folder)


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("method", ["3dgs", "nerf", "lvsm"])
def test_all_training_photos_that_end_too_early_are_named(tmp_path, method):
    folder = write_scene(tmp_path / "scene", (64, 48), [1] * 9)
    for number in (2, 5):
        cut_off(folder / "images" / f"{number}.png")
    with pytest.raises(SystemExit, match=r"(?s)2\.png cannot be read.*5\.png cannot be read"):
        _ = manager_of(method, folder).cached_train


@pytest.mark.parametrize("method", ["3dgs", "nerf", "lvsm"])
def test_a_held_out_photo_that_ends_too_early_is_named_before_training(tmp_path, method):
    folder = write_scene(tmp_path / "scene", (64, 48), [1] * 9)
    cut_off(folder / "images" / "0.png")  # The first of every eight is held out.
    with pytest.raises(SystemExit, match=r"0\.png cannot be read"):
        manager_of(method, folder)


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
def test_masks_that_leave_nothing_are_refused_before_training(tmp_path, method):
    folder = write_scene(tmp_path / "scene", (64, 48), [1] * 9)
    save(np.zeros((48, 64), np.uint8), folder / "none.png")
    content = json.loads((folder / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["mask_path"] = "none.png"
    (folder / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="Every pixel of the 7 training photos is masked"):
        manager_of(method, folder)


def with_alpha(pixels, alpha):
    return np.concatenate([pixels, np.full_like(pixels[..., :1], alpha)], axis=-1)


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
def test_photos_with_alpha_that_is_opaque_are_as_those_without(tmp_path, method, capsys):
    files = [with_alpha(picture(48, 64, number), 255) for number in range(4)]
    folder = write_scene(tmp_path, (64, 48), [1] * 4, files)
    manager = manager_of(method, folder)
    for number, image, _ in photos_of(manager):
        assert np.array_equal(image, picture(48, 64, number))
    assert "transparent pixels" not in capsys.readouterr().out


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
def test_photos_of_which_some_are_cut_out_are_told(tmp_path, method, capsys):
    files = [picture(48, 64, number) for number in range(4)]
    for number in (1, 3):
        files[number] = with_alpha(files[number], 255)
        files[number][:20, :, 3] = 0
    folder = write_scene(tmp_path, (64, 48), [1] * 4, files)
    manager = manager_of(method, folder)
    assert manager is not None
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of the 3 training photos have transparent pixels" in said
    assert "(2.png)" in said


def test_held_out_photos_that_are_copies_of_training_photos_are_told(tmp_path, capsys):
    files = [picture(48, 64, max(number, 1)) for number in range(4)]
    manager_of("3dgs", write_scene(tmp_path, (64, 48), [1] * 4, files))
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of the 1 photos that the run is scored by are copies" in said
    assert "(0.png is 1.png)" in said
