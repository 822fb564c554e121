import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.photos.canvas import (
    Canvas,
    Placement,
    on_canvas,
    on_white,
    paste,
    plan_common_canvas,
)
from fm3d_plugins.photos.photo_set import find_photos


def gradient(width: int, height: int) -> np.ndarray:
    """The fixtures' picture: red grows with x, green with y, blue is (x + y) mod 256."""
    x, y = np.arange(width)[None], np.arange(height)[:, None]
    red = np.broadcast_to(x * 255 // (width - 1), (height, width))
    green = np.broadcast_to(y * 255 // (height - 1), (height, width))
    return np.stack([red, green, (x + y) % 256], -1).astype(np.uint8)


@pytest.fixture
def golden(shared):
    """A function from a name to the array of the official loader's results."""
    from safetensors.numpy import load_file

    return load_file(shared / "golden/vggt_fn_preprocess.safetensors").__getitem__


def shown(images: list[Image.Image], framing, longest=518) -> np.ndarray:
    """The pictures on their canvas, view x 3 x height x width, uint8."""
    canvases = plan_common_canvas(
        [image.size for image in images], longest=longest, patch=14, framing=framing
    )
    placed = [
        paste(on_white(image), canvas) for image, canvas in zip(images, canvases.each, strict=True)
    ]
    return np.stack(placed).transpose(0, 3, 1, 2)


LYING, STANDING = Image.fromarray(gradient(640, 480)), Image.fromarray(gradient(480, 640))


@pytest.mark.parametrize("framing", ["crop", "pad"])
@pytest.mark.parametrize("image", [LYING, STANDING], ids=["640x480", "480x640"])
def test_crop_and_pad_give_the_official_pixels(framing, image, golden):
    expected = golden(f"{framing}_{image.width}x{image.height}").astype(int)
    # +-1: versions of Pillow round differently.
    assert np.abs(shown([image], framing).astype(int) - expected).max() <= 1


def test_photos_of_several_sizes_share_the_official_canvas(golden):
    expected = golden("crop_mixed_sub").astype(int)
    found = shown([LYING, STANDING], "crop")[:, :, ::9, ::9].astype(int)
    assert np.abs(found - expected).max() <= 1


def test_alpha_is_composited_over_white_as_officially(golden):
    x, y = np.arange(96)[None], np.arange(64)[:, None]
    alpha = ((3 * x + y) % 256).astype(np.uint8)
    image = Image.fromarray(np.dstack([gradient(96, 64), alpha]), "RGBA")
    found = shown([image], "crop")[:, :, ::3, ::3].astype(int)
    assert np.abs(found - golden("crop_rgba_96x64_sub").astype(int)).max() <= 1


def test_square_gives_the_official_pixels_and_coordinates(golden):
    found = shown([LYING, STANDING], "square", longest=1022)
    assert found.shape == (2, 3, 1022, 1022)
    placements = [
        Placement((0.0, -80.0, 640.0, 560.0), 1024, 1024, 0, 0),
        Placement((-80.0, 0.0, 560.0, 640.0), 1024, 1024, 0, 0),
    ]
    pairs = zip((LYING, STANDING), placements, strict=True)
    images = [paste(one, Canvas(1024, 1024, place, 0)) for one, place in pairs]
    found = np.stack(images).transpose(0, 3, 1, 2)[:, :, ::8, ::8].astype(int)
    assert np.abs(found - golden("square_1024_sub").astype(int)).max() <= 1
    for placement, image, row in zip(
        placements, (LYING, STANDING), golden("square_coords"), strict=True
    ):
        corners = torch.tensor([[0.0, 0.0], image.size], dtype=torch.float64)
        corners = placement.map_from_photo.on_map(corners).flatten().tolist()
        np.testing.assert_allclose([*corners, *image.size], row)


@pytest.mark.parametrize("framing", ["fit", "crop", "pad", "square"])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1131, 850), (4000, 250), (300, 299)])
def test_a_dot_of_the_photo_lies_where_the_map_says(framing, size):
    """Truth: the brightness centroid of a dot moves with the map, to a fraction of a pixel."""
    width, height = size
    x, y = width * 0.52, height * 0.45
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    radius = max(size) / 40
    dot = np.exp(-(((columns[None] - x) ** 2 + (rows[:, None] - y) ** 2) / (2 * radius**2)))
    image = Image.fromarray(np.repeat((dot * 255).astype(np.uint8)[..., None], 3, -1))
    canvases = plan_common_canvas([size], longest=518, patch=14, framing=framing)
    canvas = canvases.each[0]
    seen = paste(image, canvas)[..., 0].astype(float)
    if framing == "pad":
        seen[seen == 255] = 0  # Margins.
    place = torch.tensor([[x, y]], dtype=torch.float64)
    expected_x, expected_y = canvases.map_from_photo[0].on_map(place)[0].tolist()
    total = seen.sum()
    found_x = (seen.sum(0) * (np.arange(canvas.width) + 0.5)).sum() / total
    found_y = (seen.sum(1) * (np.arange(canvas.height) + 0.5)).sum() / total
    assert found_x == pytest.approx(expected_x, abs=0.15)
    # A 16:1 panorama is 32 rows high: its dot is cut by the border.
    assert found_y == pytest.approx(expected_y, abs=0.15 if size[1] > 250 else 3)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1131, 850), (4000, 250), (360, 640)])
def test_fit_keeps_pixels_square_and_the_centre_in_the_centre(size):
    canvases = plan_common_canvas([size], longest=518, patch=14)
    canvas = canvases.each[0]
    assert max(canvas.width, canvas.height) == 518
    assert canvas.width % 14 == canvas.height % 14 == 0
    (scale_x, scale_y), (offset_x, offset_y) = (
        part[0].tolist() for part in (canvases.map_from_photo.scale, canvases.map_from_photo.offset)
    )
    assert scale_x == pytest.approx(scale_y, rel=1e-12)
    assert size[0] / 2 * scale_x + offset_x == pytest.approx(canvas.width / 2)
    assert size[1] / 2 * scale_y + offset_y == pytest.approx(canvas.height / 2)
    # The short side is off by 7 pixels at most, and so, in proportion, is what is cut.
    short = 518 * min(size) / max(size)
    kept = (canvas.width / scale_x / size[0]) * (canvas.height / scale_y / size[1])
    assert kept >= 1 - 7 / (short - 7)
    assert size[0] * scale_x >= canvas.width - 1e-9
    assert size[1] * scale_y >= canvas.height - 1e-9


def test_several_shapes_fit_centred_on_one_canvas_with_white_margins():
    canvases = plan_common_canvas([(640, 480), (480, 640)], longest=518, patch=14)
    assert canvases.shapes == ((518, 518),) * 2
    seen = paste(LYING, canvases.each[0])
    assert (seen[:63] == 255).all() and (seen[-63:] == 255).all()
    middles = torch.tensor([[[320.0, 240.0]], [[240.0, 320.0]]])
    found = canvases.map_from_photo.on_map(middles)
    torch.testing.assert_close(found, torch.full((2, 1, 2), 259.0))


def test_masked_pixels_are_white_and_not_usable(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(gradient(640, 480)).save(tmp_path / "a.png")
    mask = np.full((480, 640), 255, np.uint8)
    mask[:240] = 0
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    (canvas,) = plan_common_canvas([(640, 480)], longest=518, patch=14).each
    pixels, usable = on_canvas(find_photos(tmp_path).photos[0], canvas)
    assert pixels.shape == (392, 518, 3)
    assert not usable[:196].any() and usable[196:].all()
    assert (pixels[:196] == 255).all()
    np.testing.assert_array_equal(pixels[196:], paste(LYING, canvas)[196:])


@pytest.mark.parametrize("framing", ["fit", "pad", "square", "crop"])
def test_margins_are_not_usable(tmp_path, framing):
    """Truth: the share of usable pixels is the share of the canvas that the photo covers."""
    Image.fromarray(gradient(640, 320)).save(tmp_path / "a.png")
    (canvas,) = plan_common_canvas([(640, 320)], longest=448, patch=14, framing=framing).each
    _, usable = on_canvas(find_photos(tmp_path).photos[0], canvas)
    assert usable.sum() == 448 * 224
    assert usable.size == 448 * (448 if framing in ("pad", "square") else 224)


@pytest.mark.parametrize("longest", [0, 7, 500])
def test_a_resolution_that_is_no_multiple_of_the_patch_is_refused(longest):
    with pytest.raises(ValueError, match="positive multiple of 14"):
        plan_common_canvas([(640, 480)], longest=longest, patch=14)
