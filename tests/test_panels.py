"""Pictures of held-out photos show what they say they show."""

import torch
from PIL import Image

from fm3d_plugins.panels import GAP, SCALE, TITLE, WORST, depth_colors, panels, stacked

HEIGHT, WIDTH = 6, 8


def view(depth):
    photo = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))
    rendered = photo.clone()
    rendered[0] = (photo[0] + 0.5) % 1.0  # Off by half of the range in the first row.
    outputs = {"rgb": rendered, "depth": depth, "accumulation": torch.ones(HEIGHT, WIDTH, 1)}
    return photo, outputs


def columns(picture):
    """The panels below their titles, without the gaps."""
    below = picture[TITLE + SCALE :]
    return [below[:, i : i + WIDTH] for i in range(0, picture.shape[1], WIDTH + GAP)]


def test_panels_are_photo_render_depth_and_error():
    depth = torch.linspace(1, 9, WIDTH)[None, :, None].expand(HEIGHT, WIDTH, 1)
    photo, outputs = view(depth)
    parts = columns(panels(photo, outputs, 20.0))
    assert len(parts) == 4
    for part, image in zip(parts, (photo, outputs["rgb"]), strict=False):
        assert torch.equal(part, (image * 255).round().byte())
    # Turbo is red at its end and blue-black at its beginning: near is red, and so is a large error.
    near, far = parts[2][0, 0].int(), parts[2][0, -1].int()
    assert near[0] > near[2] and far[2] > far[0]
    assert parts[3][1:].unique().numel() == parts[3][1, 0].unique().numel()  # No error: one colour.
    assert 0.5 > WORST and torch.equal(parts[3][0], parts[3][0, :1].expand(WIDTH, 3))
    assert parts[3][0, 0, 0] > parts[3][1, 0, 0]


def test_a_model_without_depth_has_no_panel_of_it():
    photo, outputs = view(torch.full((HEIGHT, WIDTH, 1), 1000.0))
    assert len(columns(panels(photo, outputs, 20.0))) == 3


def test_scale_of_depth_names_the_first_and_the_last_colour():
    depth = torch.cat([torch.full((50, 1, 1), 2.0), torch.full((50, 1, 1), 8.0)])
    colors, near, far = depth_colors(depth)
    assert (near, far) == (2.0, 8.0)
    assert colors[0, 0, 0] > colors[-1, 0, 0] and colors[-1, 0, 2] > colors[0, 0, 2]


def test_pictures_of_unequal_width_are_stacked_on_white():
    black = torch.zeros(3, 5, 3, dtype=torch.uint8)
    both = stacked([black, black[:, :2]])
    assert both.shape == (3 + GAP + 3, 5, 3)
    assert int(both[:3].sum()) == 0 and bool((both[3 + GAP :, 2:] == 255).all())
    Image.fromarray(both.numpy())
