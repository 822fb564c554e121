"""The map between pixels of a photo and of a map of it."""

import pytest
import torch

from fm3d_plugins.geometry.cameras import intrinsics_matrix, project
from fm3d_plugins.geometry.pixel_map import PixelMap


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))).double()


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_both_ways_undo_each_other_for_points_and_intrinsics(batch):
    pixels = PixelMap(0.1 + rand(*batch, 2), 100 * rand(*batch, 2) - 50)
    points = 500 * rand(*batch, 7, 2)
    torch.testing.assert_close(pixels.on_photo(pixels.on_map(points)), points)
    ones = torch.ones(batch).double()
    intrinsics = intrinsics_matrix(500 * ones, 510 * ones, 310 * ones, 250 * ones)
    there_and_back = pixels.intrinsics_on_photo(pixels.intrinsics_on_map(intrinsics))
    torch.testing.assert_close(there_and_back, intrinsics)


def test_intrinsics_on_the_map_project_where_pixels_are_mapped():
    pixels = PixelMap(torch.tensor([0.5, 0.25]), torch.tensor([7.0, -3.0]))
    intrinsics = torch.tensor([[500.0, 2, 310], [0, 510, 250], [0, 0, 1]])
    points = torch.tensor([[0.2, -0.1, 1.5], [-0.3, 0.4, 2.0]])
    on_map = project(points, pixels.intrinsics_on_map(intrinsics))
    torch.testing.assert_close(on_map, pixels.on_map(project(points, intrinsics)))


def test_corner_of_a_photo_lies_at_the_offset():
    """Truth: a photo of 640 x 480 halved and moved by (7, -3) covers (7, -3) to (327, 237)."""
    pixels = PixelMap(torch.tensor([0.5, 0.5]), torch.tensor([7.0, -3.0]))
    corners = pixels.on_map(torch.tensor([[0.0, 0.0], [640.0, 480.0]]))
    torch.testing.assert_close(corners, torch.tensor([[7.0, -3.0], [327.0, 237.0]]))


def test_rows_of_a_batch_are_maps_of_single_photos():
    several = [PixelMap(0.1 + rand(2), rand(2)), PixelMap(0.2 + rand(2), -rand(2))]
    stacked = PixelMap.stack(several)
    assert len(stacked) == 2
    for row, one in enumerate(several):
        assert torch.equal(stacked[row].scale, one.scale)
        assert torch.equal(stacked[row].offset, one.offset)
