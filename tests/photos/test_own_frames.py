"""Photos that keep their own sizes on the way to a network."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.photos.canvas import (
    on_canvas,
    on_white,
    padded,
    paste,
    plan_own_canvases,
)
from fm3d_plugins.photos.photo_set import find_photos

PHOTO = np.stack(
    np.broadcast_arrays(
        127 + 120 * np.sin(np.arange(600)[None] / 31),
        127 + 120 * np.cos(np.arange(450)[:, None] / 23),
        (np.arange(600)[None] + np.arange(450)[:, None]) % 256,
    ),
    -1,
).astype(np.uint8)
"""The fixtures' picture, 450 rows and 600 columns."""

SIZES = [(640, 480), (480, 640), (600, 600), (4032, 3024), (517, 391), (300, 200), (513, 512)]


def official_framing(resolution: int, square_ok: bool) -> str:
    return "short" if resolution == 224 else ("long" if square_ok else "no-squares")


def test_frames_have_the_official_sizes(shared):
    cases = json.loads((shared / "golden/dust3r_load_shapes.json").read_text())
    for case, expected in cases.items():
        size, resolution, square_ok = case.split("|")
        width, height = map(int, size.split("x"))
        resolution = int(resolution.removeprefix("size="))
        framing = official_framing(resolution, square_ok == "square_ok=True")
        canvases = plan_own_canvases([(width, height)], resolution=resolution, framing=framing)
        assert [list(shape) for shape in canvases.shapes] == expected["true_shape"], case
    assert len(cases) >= 36


@pytest.mark.parametrize("resolution", [512, 224])
@pytest.mark.parametrize("name", ["landscape600x450", "square450", "portrait450x600"])
def test_frames_have_the_official_pixels(shared, name, resolution):
    from safetensors import safe_open

    pixels = {"l": PHOTO, "s": PHOTO[:, :450], "p": PHOTO.transpose(1, 0, 2)}[name[0]]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    framing = official_framing(resolution, square_ok=False)
    (canvas,) = plan_own_canvases([image.size], resolution=resolution, framing=framing).each
    found = paste(on_white(image), canvas).transpose(2, 0, 1)[None]
    with safe_open(shared / "golden/dust3r_load.safetensors", framework="np") as tensors:
        expected = tensors.get_tensor(f"{name}.{resolution}")
    # 1: versions of Pillow round differently.
    assert np.abs(found[..., ::4, ::4].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("resolution", [512, 224])
def test_only_photos_that_grow_are_resized_bicubically(resolution):
    canvases = plan_own_canvases([(600, 450), (150, 200)], resolution=resolution)
    assert [canvas.resampling for canvas in canvases.each] == ["lanczos", "bicubic"]


@pytest.mark.parametrize("framing", ["long", "no-squares", "short"])
@pytest.mark.parametrize("size", SIZES)
def test_a_dot_of_the_photo_lies_where_the_map_says(framing, size):
    """Truth: the brightness centroid of a dot moves with the map, to a fraction of a pixel."""
    width, height = size
    x, y = width * 0.52, height * 0.45
    radius = max(size) / 60
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    dot = np.exp(-(((columns[None] - x) ** 2 + (rows[:, None] - y) ** 2) / (2 * radius**2)))
    image = Image.fromarray(np.repeat((dot * 255).astype(np.uint8)[..., None], 3, -1))
    canvases = plan_own_canvases([size], resolution=512, framing=framing)
    canvas = canvases.each[0]
    seen = paste(image, canvas)[..., 0].astype(float)
    place = torch.tensor([[x, y]], dtype=torch.float64)
    expected_x, expected_y = canvases.map_from_photo[0].on_map(place)[0].tolist()
    found_x = (seen.sum(0) * (np.arange(canvas.width) + 0.5)).sum() / seen.sum()
    found_y = (seen.sum(1) * (np.arange(canvas.height) + 0.5)).sum() / seen.sum()
    # An odd side has no middle pixel: half a pixel off the centre would fail.
    assert found_x == pytest.approx(expected_x, abs=0.1)
    assert found_y == pytest.approx(expected_y, abs=0.1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resolution", [224, 512])
def test_whole_photos_lose_at_most_a_patch(size, resolution):
    canvases = plan_own_canvases([size], resolution=resolution)
    (height, width), placement = canvases.shapes[0], canvases.each[0].placement
    assert max(height, width) == resolution and height % 16 == width % 16 == 0
    cut = [placement.width - width, placement.height - height]
    assert min(cut) == 0 and max(cut) <= 16
    # Equal on both sides, to the pixel that an odd side has more.
    assert abs(-2 * placement.left - cut[0]) <= 1 and abs(-2 * placement.top - cut[1]) <= 1


def test_squares_stay_square_unless_asked_otherwise():
    whole = plan_own_canvases([(600, 600)], resolution=512)
    cut = plan_own_canvases([(600, 600)], resolution=512, framing="no-squares")
    assert whole.shapes == ((512, 512),) and cut.shapes == ((384, 512),)
    torch.testing.assert_close(cut.map_from_photo.offset[0, 1], torch.tensor(-64.0).double())


def test_masks_and_pixels_are_loaded_in_each_frame(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    Image.fromarray(np.ascontiguousarray(PHOTO[:, :300])).save(tmp_path / "b.png")
    mask = np.full((450, 600), 255, np.uint8)
    mask[:, :300] = 0
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    photos = find_photos(tmp_path).photos
    canvases = plan_own_canvases([(photo.width, photo.height) for photo in photos], resolution=128)
    assert canvases.shapes == ((96, 128), (128, 80)) and canvases.common_shape == (128, 128)
    loaded = [on_canvas(photo, canvas) for photo, canvas in zip(photos, canvases.each, strict=True)]
    assert [pixels.shape for pixels, _ in loaded] == [(96, 128, 3), (128, 80, 3)]
    assert not loaded[0][1][:, :64].any() and loaded[0][1][:, 64:].all()
    assert loaded[1][1].all()


def test_padding_keeps_pixels_in_place_and_knows_nothing_beyond():
    depth = torch.arange(1.0, 7).reshape(2, 3)
    wide = padded(depth, (4, 5))
    assert torch.equal(wide[:2, :3], depth)
    assert wide.shape == (4, 5) and wide.sum() == depth.sum()
    colors = torch.full((2, 3, 3), 9, dtype=torch.uint8)
    assert padded(colors, (2, 4)).shape == (2, 4, 3)
    assert padded(colors, (2, 4)).dtype == torch.uint8


@pytest.mark.parametrize("size", [(10_000, 100), (20, 700)])
def test_a_photo_too_narrow_for_one_patch_is_refused(size):
    with pytest.raises(ValueError, match="Photo 2 of 2 has .* at most 32 to 1"):
        plan_own_canvases([(640, 480), size], resolution=512)


@pytest.mark.parametrize("resolution", [0, 8, 500])
def test_a_resolution_that_is_no_multiple_of_the_patch_is_refused(resolution):
    with pytest.raises(ValueError, match="positive multiple of 16"):
        plan_own_canvases([(640, 480)], resolution=resolution)
