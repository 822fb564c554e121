"""Photos and cameras at a network's size."""

import pytest
import torch

from fm3d_plugins.data.scenes import read_scene
from fm3d_plugins.data.views import ViewSize, load_views


@pytest.mark.parametrize(
    ("photo", "size", "scaled", "canvas"),
    [
        # 64 / 90 * 64... worked out: int(32 / 64 * 90) = 45, nearest multiple of 8 is 48
        ((90, 64), ViewSize(32, 8, is_square=False), 48, (48, 32)),
        ((90, 64), ViewSize(32, 8), 48, (32, 32)),
        # int(64 / 120 * 90) = 48 columns of 64 rows: 8 rows are cut off above
        ((90, 120), ViewSize(64, 8), 48, (48, 48)),
        # 20 / 8 = 2.5 is rounded to 2, 28 / 8 = 3.5 to 4: halves to even
        ((20, 32), ViewSize(32, 8, is_square=False), 16, (16, 32)),
        ((28, 32), ViewSize(32, 8, is_square=False), 32, (32, 32)),
    ],
)
def test_sizes_are_rounded_as_published(photo, size, scaled, canvas):
    ours = size.canvas(*photo)
    assert (ours.width, ours.height) == canvas
    assert ours.placement.width == scaled
    assert ours.placement.left == -((scaled - canvas[0]) // 2)
    assert ours.placement.top == -((size.height - canvas[1]) // 2)


def test_cameras_follow_the_photo(write_scene):
    """12 x 8 pixels become 48 x 32, of which 8 columns are cut off on either side."""
    views = load_views(read_scene(write_scene()), [2, 0], ViewSize(32, 8))
    assert views.images.shape == (2, 3, 32, 32)
    assert 0 <= float(views.images.min()) < float(views.images.max()) <= 1
    expected = torch.tensor([[36.0, 0, 24 - 8], [0, 32, 16], [0, 0, 1]])
    torch.testing.assert_close(views.intrinsics, expected.expand(2, 3, 3))
    assert views.world_from_camera.dtype == torch.float32


def test_what_does_not_fit_is_refused(write_scene, write_photo):
    with pytest.raises(ValueError, match="expected a multiple of 16"):
        ViewSize(40, 16)
    with pytest.raises(ValueError, match="too narrow"):
        ViewSize(32, 8).canvas(3, 64)
    scene = read_scene(write_scene())
    for numbers in ([0, 3], [-1], []):
        with pytest.raises(ValueError, match="which has 3 frames"):
            load_views(scene, numbers, ViewSize(32, 8))
    write_photo(scene.photos[1], width=8)
    with pytest.raises(ValueError, match=r"become \[\(32, 32\), \(32, 48\)\] pixels"):
        load_views(scene, [0, 1], ViewSize(32, 8, is_square=False))
    load_views(scene, [0, 1], ViewSize(32, 8))
