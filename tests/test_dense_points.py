"""Points from a sweep of planes, on a scene whose surfaces are known."""

import math

import pytest
import torch

from fm3d_plugins.dense_points import (
    MOST_PHOTOS,
    PosedPhotos,
    dense_points,
    evenly_chosen,
    masked_out,
    plane_homographies,
)
from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.pointmaps import points_at
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.geometry.rays import camera_rays, pixel_centers
from fm3d_plugins.kernels.threads import set_num_threads

WALL = 4.0
"""z of the wall that all cameras look at, scene units."""

INTRINSICS = torch.tensor([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]])


def poses(count):
    """OpenCV cameras side by side before the wall, turned a little towards each other."""
    matrices = torch.eye(4).repeat(count, 1, 1)
    for row, x in enumerate(torch.linspace(-0.6, 0.6, count).tolist()):
        angle = -math.atan2(x, WALL)
        cos, sin = math.cos(angle), math.sin(angle)
        matrices[row, :3, :3] = torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        matrices[row, 0, 3] = x
    return matrices


def wall_photo(pose, intrinsics=INTRINSICS, size=(60, 80), finer=1.0):
    """A wall with a pattern of waves that repeats nowhere nearby."""
    origins, rays = camera_rays(pixel_centers(*size).flatten(0, 1), intrinsics, pose)
    x, y, _ = (finer * (origins + rays * ((WALL - origins[:, 2:]) / rays[:, 2:]))).unbind(-1)
    waves = [(5.1, 3.3), (-4.3, 6.1), (9.7, 1.9), (2.3, -8.9)]
    grey = torch.stack([torch.sin(a * x + b * y + a) for a, b in waves]).mean(0) / 2 + 0.5
    return torch.stack([grey, 1 - grey, 0.5 * grey], -1).reshape(*size, 3)


def found(count=5, masks=None, known=None, most=2000):
    cameras = poses(count)
    photos = PosedPhotos(
        [wall_photo(pose) for pose in cameras],
        INTRINSICS.expand(count, 3, 3),
        cameras,
        masks or [None] * count,
    )
    known = torch.zeros(0, 3) if known is None else known
    return dense_points(photos, known, most, torch.Generator().manual_seed(0))


def test_points_lie_on_the_wall_and_have_its_colours():
    points, colors = found()
    assert 1500 < len(points) <= 2000
    off = (points[:, 2] - WALL).abs()
    # 3 % is by how much two depths may differ; a plane of the sweep is up to 6 % from the next.
    assert off.median() < 0.03 * WALL
    assert off.quantile(0.9) < 0.1 * WALL
    torch.testing.assert_close(colors[:, 1], 1 - colors[:, 0], atol=1e-5, rtol=0)


def test_planes_are_close_enough_for_a_long_lens():
    """Depths from a quarter to 12 times the wall's move what a neighbour sees by hundreds of
    pixels, and windows of 5 pixels agree over one or two."""
    size, cameras = (90, 120), poses(5)
    intrinsics = torch.tensor([[700.0, 0, 60], [0, 700, 45], [0, 0, 1]])
    images = [wall_photo(pose, intrinsics, size, finer=9.0) for pose in cameras]
    photos = PosedPhotos(images, intrinsics.expand(5, 3, 3), cameras, [None] * 5)
    generator = torch.Generator().manual_seed(0)
    points, _ = dense_points(photos, torch.zeros(0, 3), 10**6, generator, only_confirmed=True)
    assert len(points) > 0.8 * 5 * 90 * 120
    # Half a pixel of a neighbour 0.3 aside: 0.5 * 4 / (700 * 0.3) of the depth.
    assert ((points[:, 2] - WALL).abs() < 0.01 * WALL).float().mean() > 0.95


def test_points_are_the_same_for_any_number_of_threads():
    try:
        set_num_threads(1)
        alone = found()
        set_num_threads(3)
        together = found()
    finally:
        set_num_threads(None)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_where_photos_hold_fewer_points_than_asked_for_all_of_them_come():
    """4800 pixels a photo; the walls' ends are seen by one photo alone and still are free."""
    points, _ = found(most=10**6)
    assert 0.5 * 5 * 4800 < len(points) <= 5 * 4800
    assert len(points.unique(dim=0)) == len(points)


def test_what_no_other_photo_confirms_can_be_left_out():
    """A photo of noise among those of the wall: its depths are as good as chance."""
    cameras = poses(5)
    images = [wall_photo(pose) for pose in cameras]
    images[2] = torch.rand(60, 80, 3, generator=torch.Generator().manual_seed(1))
    photos = PosedPhotos(images, INTRINSICS.expand(5, 3, 3), cameras, [None] * 5)

    def share_on_the_wall(only_confirmed):
        points, _ = dense_points(
            photos,
            torch.zeros(0, 3),
            2000,
            torch.Generator().manual_seed(0),
            only_confirmed=only_confirmed,
        )
        assert len(points) > 500
        return ((points[:, 2] - WALL).abs() < 0.1 * WALL).float().mean()

    assert share_on_the_wall(only_confirmed=True) > 0.95 > share_on_the_wall(only_confirmed=False)


def test_of_many_photos_some_are_compared():
    chosen = evenly_chosen(60)
    assert chosen[0] == 0 and chosen[-1] == 59 and len(chosen) == MOST_PHOTOS
    assert evenly_chosen(3) == [0, 1, 2]


def test_masked_pixels_give_no_points():
    mask = torch.zeros(60, 80, 1)
    mask[:, 40:] = 1
    points = found(masks=[mask] * 5)[0]
    local = transform_points(invert(poses(5)), points.expand(5, -1, -1))
    columns = project(local, INTRINSICS.expand(5, 3, 3))[..., 0]
    assert len(points) > 500
    assert (columns.amax(0) > 40).all()


def test_photos_that_share_nothing_give_no_points():
    cameras = poses(2)
    cameras[1, :3, :3] = torch.diag(torch.tensor([-1.0, 1, -1])) @ cameras[1, :3, :3]
    photos = PosedPhotos(
        [wall_photo(poses(1)[0])] * 2, INTRINSICS.expand(2, 3, 3), cameras, [None, None]
    )
    nothing = torch.zeros(0, 3)
    points, colors = dense_points(photos, nothing, 100, torch.Generator().manual_seed(0))
    assert len(points) == len(colors) == 0


def test_homographies_take_pixels_where_points_of_their_plane_are_seen():
    """Truth: unproject to the plane's depth, project into the other camera."""
    cameras = poses(3).double()
    intrinsics = INTRINSICS.double().expand(3, 3, 3)
    pixels = torch.tensor([[3.5, 7.5], [70.0, 50.0]], dtype=torch.float64)
    depths = torch.tensor([2.0, 9.0], dtype=torch.float64)
    warps = plane_homographies(cameras, intrinsics, 0, [2, 1], 1 / depths)
    for row, other in enumerate([2, 1]):
        for plane, depth in enumerate(depths):
            points = points_at(pixels, depth.expand(2), intrinsics[0], cameras[0])
            expected = project(transform_points(invert(cameras[other]), points), intrinsics[other])
            moved = torch.nn.functional.pad(pixels, (0, 1), value=1) @ warps[row, plane].T
            torch.testing.assert_close(moved[:, :2] / moved[:, 2:], expected)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_what_a_mask_leaves_out_has_the_mean_colour_of_the_rest(kind):
    """Whatever was there; and the photo that is trained on stays as it is."""
    image = torch.tensor([[[10, 20, 30], [30, 40, 50]], [[99, 0, 99], [7, 7, 7]]], dtype=kind)
    before, mask = image.clone(), torch.tensor([[[1.0], [1.0]], [[0.0], [0.0]]])
    found = masked_out({"image": image, "mask": mask})["image"]
    assert found.dtype == kind and torch.equal(found[0], image[0])
    assert found[1].tolist() == [[20, 30, 40]] * 2
    assert torch.equal(image, before)
    nothing = masked_out({"image": image, "mask": torch.zeros(2, 2, 1)})["image"]
    assert not nothing.any()
    assert torch.equal(masked_out({"image": image})["image"], image)


def test_transparent_pixels_are_left_out_as_masked_ones_are():
    """Whatever colour an editor left there; how transparent they are stays."""
    image = torch.tensor([[[10, 20, 30, 255], [30, 40, 50, 255], [200, 0, 200, 0]]]).byte()
    found = masked_out({"image": image})["image"]
    assert found.tolist() == [[[10, 20, 30, 255], [30, 40, 50, 255], [20, 30, 40, 0]]]
