"""Frames at a batch's size: cameras follow pixels, depth is that of the nearest pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.data.frames import joined, load_frames, pinhole_of_lens
from fm3d_plugins.data.scenes import CapturedScene, DepthFile, checked_scene
from fm3d_plugins.data.skipped import SkippedError
from fm3d_plugins.geometry.cameras import distort, normalize
from fm3d_plugins.geometry.rays import pixel_centers
from fm3d_plugins.io.depth_files import read_map

LENS = [70.0, 75.0, 52.0, 33.0]


def coloured(path, width, height):
    """Red tells the column of a pixel's centre, green its row, in shares of the sides."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    pixels = np.stack([x, y, np.zeros_like(x)], -1) * 255
    Image.fromarray(pixels.round().astype(np.uint8)).save(path)
    return path


@pytest.fixture
def scene(tmp_path) -> CapturedScene:
    """One frame of 100 x 70 pixels, whose depth says in which column of a map of 50 x 35 it is."""
    photo = coloured(tmp_path / "a.png", 100, 70)
    np.save(tmp_path / "a.npy", np.tile(np.arange(50, dtype=np.float32), (35, 1)))
    made = checked_scene(
        "room", [photo], torch.tensor([LENS]).double(), torch.eye(4)[None].double(), tmp_path
    )
    return replace(made, depths=(DepthFile(tmp_path / "a.npy", read_map, 2.0),))


def place_by_color(image):
    """Where the colours say that each pixel is in the photo, pixels of the photo."""
    return image[:2].permute(1, 2, 0).double() * torch.tensor([100, 70])


def rays(places, intrinsics):
    """At z = 1, of positions [rows, columns, 2]."""
    return normalize(places.flatten(0, 1).double(), intrinsics.double()).view_as(places)


def bent(straight, coefficients):
    return distort(straight.flatten(0, 1), coefficients).view_as(straight)


def inner(values):
    """Without the outermost pixels, where a filter sees less than it wants."""
    return values[2:-2, 2:-2]


@pytest.mark.parametrize("rows, columns", [(70, 100), (35, 50), (32, 32), (20, 48), (64, 24)])
def test_intrinsics_follow_the_pixels(rows, columns, scene):
    """Truth: a pixel's ray by the new intrinsics is that of the photo's pixel that it shows."""
    batch = load_frames(scene, [0], rows, columns)
    shown = rays(place_by_color(batch.images[0, 0]), scene.intrinsics[0])
    said = rays(pixel_centers(rows, columns).double(), batch.intrinsics[0, 0])
    # Colours are told to half of 1 / 255 of 100 pixels, 0.2 pixels of a focal length of 70.
    assert float(inner(shown - said).abs().max()) < 0.7 / 70
    assert float(inner(shown - said).mean((0, 1)).abs().max()) < 0.1 / 70


@pytest.mark.parametrize("rows, columns", [(70, 100), (35, 50), (32, 32), (20, 48)])
def test_depth_is_that_of_the_nearest_pixel_in_scene_units(rows, columns, scene):
    batch = load_frames(scene, [0], rows, columns)
    assert batch.depth is not None and batch.is_valid is not None
    values = batch.depth[0, 0] / 2
    focal, center = batch.intrinsics[0, 0, 0, 0], batch.intrinsics[0, 0, 0, 2]
    along = (torch.arange(columns) + 0.5 - center) / focal * LENS[0] + LENS[2]
    torch.testing.assert_close(values, (along / 2).floor().expand(rows, -1))
    # Of column 0 the depth is 0: nothing is known of it.
    assert torch.equal(batch.is_valid[0, 0], values > 0)


@pytest.mark.parametrize(
    "lens", [[-0.3, 0.1, 0.0, 0.0, 0.002, -0.003], [0.15, 0.0, 0.0, 0.0, 0.0, 0.0]]
)
def test_photos_of_lenses_become_those_of_pinholes(lens, scene, tmp_path):
    """Truth: the ray of a pixel, through the lens, meets the photo where the colours say."""
    coefficients = torch.tensor([lens]).double()
    coloured(tmp_path / "a.png", 100, 70)
    batch = load_frames(replace(scene, distortion=coefficients), [0], 35, 50)
    straight = rays(pixel_centers(35, 50).double(), batch.intrinsics[0, 0])
    expected = rays(place_by_color(batch.images[0, 0]), scene.intrinsics[0])
    found = bent(straight, coefficients[0])
    assert float(inner(found - expected).abs().max()) < 0.7 / 70
    is_closer = batch.intrinsics[0, 0, 0, 0] > LENS[0] / 2 + 1e-3
    assert bool(is_closer) == (lens[0] > 0)
    assert batch.depth is not None
    place = torch.floor((found[..., 0] * LENS[0] + LENS[2]) / 2)
    assert float((batch.depth[0, 0] / 2 == place).float().mean()) > 0.99


def test_lenses_that_no_pinhole_sees_are_refused():
    matrix = torch.tensor([[20.0, 0, 24], [0, 20, 18], [0, 0, 1]]).double()
    for strong in (-2.0, 5.0):
        lens = torch.tensor([strong, 0, 0, 0, 0, 0])
        with pytest.raises(SkippedError, match="lens too strong"):
            pinhole_of_lens(matrix, lens, 36, 48)


def test_photos_are_never_enlarged(scene):
    with pytest.raises(SkippedError, match="photos too small: 100 x 70 pixels, expected at least"):
        load_frames(scene, [0], 71, 71)


def test_photo_fits_its_camera_upright_or_scaled_down(scene, tmp_path):
    """A file of 70 x 100 pixels that its EXIF lays on its side is the camera's picture."""
    upright = Image.open(scene.photos[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    turned = replace(scene, sizes=torch.tensor([[100.0, 70.0]]), depths=())
    batch = load_frames(turned, [0], 70, 100)
    assert float((batch.images[0, 0, 0, 35] - (torch.arange(100) + 0.5) / 100).abs().max()) < 0.01
    larger = replace(turned, sizes=torch.tensor([[400.0, 280.0]]), downscale=4)
    torch.testing.assert_close(load_frames(larger, [0], 70, 100).intrinsics[0, 0, 0, 0] * 4,
                               torch.tensor(LENS[0]))  # fmt: skip
    with pytest.raises(ValueError, match=r"a\.png is 70 x 100 .* but its camera 300 x 70"):
        load_frames(replace(turned, sizes=torch.tensor([[300.0, 70.0]])), [0], 35, 50)


def test_maps_of_other_proportions_are_refused(scene, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((35, 35), np.float32))
    with pytest.raises(ValueError, match=r"a\.npy is 35 x 35 but its photo 100 x 70"):
        load_frames(scene, [0], 35, 50)


def test_batches_with_and_without_depth_are_joined(scene):
    first = load_frames(scene, [0], 16, 16)
    second = load_frames(replace(scene, depths=()), [0], 16, 16)
    assert second.depth is None
    both = joined([second, first])
    assert both.is_valid is not None and both.depth is not None
    assert not bool(both.is_valid[0].any()) and torch.equal(both.depth[1], first.depth[0])
    assert joined([second, second]).depth is None
