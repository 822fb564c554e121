"""Pixels are drawn with the rays that nerfstudio's cameras give them."""

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from fm3d_plugins.geometry.poses import se3_exp
from fm3d_plugins.nerf.pixels import PixelTable

SIZES = ((20, 12), (16, 18), (20, 12))
"""Width and height; the first and the last photo share a lens."""


def scene(folder, *, masks=None, alpha=False, camera_type=CameraType.PERSPECTIVE, metadata=None):
    """Three photos whose colours tell photo, row and column."""
    files, mask_files = [], []
    for i, (width, height) in enumerate(SIZES):
        row, column = np.mgrid[:height, :width]
        planes = [np.full_like(row, 10 * i), 5 * row, 5 * column]
        if alpha and i == 1:
            planes.append(np.full_like(row, 128))
        pixels = np.stack(planes, -1).astype(np.uint8)
        files.append(folder / f"{i}.png")
        Image.fromarray(pixels).save(files[-1])
        if masks is not None:
            mask_files.append(folder / f"mask{i}.png")
            Image.fromarray(masks[i]).save(mask_files[-1])
    widths, heights = torch.tensor(SIZES).unbind(-1)
    strong = torch.tensor([[0.06, -0.08, 0.0, 0.0, 1e-3, -2e-3]])
    cameras = Cameras(
        camera_to_worlds=se3_exp(torch.randn(3, 6))[:, :3],
        fx=torch.tensor([15.0, 17.0, 15.0]),
        fy=torch.tensor([14.0, 16.0, 14.0]),
        cx=widths / 2 + 0.3,
        cy=heights / 2 - 0.2,
        width=widths,
        height=heights,
        distortion_params=strong.repeat(3, 1),
        camera_type=camera_type,
        metadata=metadata,
    )
    outputs = DataparserOutputs(files, cameras, mask_filenames=mask_files or None)
    return InputDataset(outputs)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("camera_type", [CameraType.PERSPECTIVE, CameraType.FISHEYE])
def test_rays_are_those_of_nerfstudios_cameras(tmp_path, camera_type):
    dataset = scene(tmp_path, camera_type=camera_type)
    rays, batch = PixelTable(dataset, "cpu", "training").draw(300, generator())
    photo, row, column = batch["indices"].unbind(-1)
    truth = dataset.cameras.generate_rays(
        camera_indices=photo[:, None], coords=torch.stack([row, column], -1) + 0.5
    )
    torch.testing.assert_close(rays.origins, truth.origins)
    torch.testing.assert_close(rays.directions, truth.directions)
    torch.testing.assert_close(rays.pixel_area, truth.pixel_area)
    norm = "directions_norm"
    torch.testing.assert_close(rays.metadata[norm], truth.metadata[norm])
    assert torch.equal(rays.camera_indices.squeeze(-1), photo)


def test_colours_are_those_of_the_pixels_of_photos_of_any_size(tmp_path):
    _, batch = PixelTable(scene(tmp_path), "cpu", "training").draw(500, generator())
    photo, row, column = batch["indices"].unbind(-1)
    truth = torch.stack([10 * photo, 5 * row, 5 * column], dim=-1) / 255
    torch.testing.assert_close(batch["image"], truth)


def test_every_pixel_is_drawn_alike(tmp_path):
    table = PixelTable(scene(tmp_path), "cpu", "training")
    count = sum(width * height for width, height in SIZES)
    assert table.num_pixels == count
    _, batch = table.draw(100 * count, generator())
    share = torch.bincount(batch["indices"][:, 0], minlength=3) / (100 * count)
    expected = torch.tensor([w * h for w, h in SIZES]) / count
    # Four standard deviations of a share near 1/3 among 76 800 draws: 4 sqrt(2/9 / 76800) = 0.007.
    torch.testing.assert_close(share, expected, atol=0.007, rtol=0)
    assert len(batch["indices"].unique(dim=0)) == count


def test_masked_pixels_are_never_drawn(tmp_path):
    masks = [np.zeros((height, width), np.uint8) for width, height in SIZES]
    masks[1][3:6, 2:9] = 255
    masks[2][0, 5] = 255
    table = PixelTable(scene(tmp_path, masks=masks), "cpu", "training")
    assert table.num_pixels == 3 * 7 + 1
    _, batch = table.draw(2000, generator())
    drawn = {tuple(index) for index in batch["indices"].tolist()}
    assert drawn == {(1, y, x) for y in range(3, 6) for x in range(2, 9)} | {(2, 0, 5)}


def test_pixels_outside_the_disc_of_a_fisheye_are_never_drawn(tmp_path):
    metadata = {"fisheye_crop_radius": 4.0}
    table = PixelTable(
        scene(tmp_path, camera_type=CameraType.FISHEYE, metadata=metadata), "cpu", "training"
    )
    _, batch = table.draw(2000, generator())
    photo, row, column = batch["indices"].unbind(-1)
    width, height = torch.tensor(SIZES)[photo].unbind(-1)
    distance = ((row - height // 2) ** 2 + (column - width // 2) ** 2).float().sqrt()
    assert distance.max() < 4.0
    assert distance.max() > 3.0


def test_photos_without_transparency_among_some_with_it_are_opaque(tmp_path):
    _, batch = PixelTable(scene(tmp_path, alpha=True), "cpu", "training").draw(200, generator())
    alpha = batch["image"][:, 3]
    of_second = batch["indices"][:, 0] == 1
    torch.testing.assert_close(alpha[of_second], torch.full_like(alpha[of_second], 128 / 255))
    assert (alpha[~of_second] == 1).all()


def test_masks_that_leave_nothing_are_refused(tmp_path):
    masks = [np.zeros((height, width), np.uint8) for width, height in SIZES]
    with pytest.raises(ValueError, match="Every pixel of the 3 training photos is masked"):
        PixelTable(scene(tmp_path, masks=masks), "cpu", "training")


def test_one_lens_is_kept_once(tmp_path):
    table = PixelTable(scene(tmp_path), "cpu", "training")
    assert len(table._rays) == 20 * 12 + 16 * 18


def test_the_mean_colour_is_that_of_the_pixels_that_count_by_their_opacity(tmp_path):
    """The second photo is half transparent; of the first only one pixel is not masked."""
    masks = [np.zeros((height, width), np.uint8) for width, height in SIZES]
    masks[0][3, 4] = masks[1][2, 1] = 255
    table = PixelTable(scene(tmp_path, masks=masks, alpha=True), "cpu", "training")
    first, second = torch.tensor([0.0, 15, 20]), torch.tensor([10.0, 10, 5])
    opacity = 128 / 255
    expected = (first + opacity * second) / (1 + opacity) / 255
    torch.testing.assert_close(table.mean_color(), expected)
