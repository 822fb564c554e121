"""Points before surfaces that another photo is surer of."""

import pytest
import torch

from fm3d_plugins.dust3r.cleaning import cleaned_confidence
from fm3d_plugins.geometry.cameras import intrinsics_matrix

HEIGHT, WIDTH, FOCAL = 20, 30, 25.0


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def side_by_side(num_views, step=0.5):
    """Cameras along x that look at a wall 5 away; a step is 2.5 pixels on it."""
    poses = torch.eye(4).repeat(num_views, 1, 1)
    poses[:, 0, 3] = step * torch.arange(num_views)
    focal = torch.full((num_views,), FOCAL)
    matrix = intrinsics_matrix(
        focal, focal, torch.full_like(focal, WIDTH / 2), torch.full_like(focal, HEIGHT / 2)
    )
    depth = [torch.full((HEIGHT, WIDTH), 5.0) for _ in range(num_views)]
    return depth, matrix, poses


def test_cleaning_is_the_official_one(shared):
    """Golden: five views after alignment. Our pixels start at the corner, the authors' at the
    first centre. One point lies between two pixels to the last digit."""
    from safetensors.torch import load_file

    golden = load_file(shared / "golden/dust3r_ga.safetensors")
    focal = golden["noisy.cosine.final.focals"]
    x, y = torch.full_like(focal, 32.5), torch.full_like(focal, 24.5)
    before = list(golden["noisy.im_conf"])
    found = cleaned_confidence(
        list(golden["noisy.cosine.final.depth"]),
        before,
        intrinsics_matrix(focal, focal, x, y),
        golden["noisy.cosine.final.im_poses"],
    )
    expected = golden["noisy.im_conf_cleaned"]
    assert int((torch.stack(found) != expected).sum()) <= 2
    assert 0.3 < float((expected == 0).float().mean()) < 0.5
    assert all(torch.equal(a, b) for a, b in zip(before, golden["noisy.im_conf"], strict=True))


def test_a_floating_point_loses_against_a_surer_wall():
    """Truth: view 0 sees a board at 2 in its middle that views 1 and 2 do not see."""
    depth, matrix, poses = side_by_side(3)
    depth[0][8:12, 14:17] = 2.0
    sure = [torch.full((HEIGHT, WIDTH), 5.0) for _ in range(3)]
    sure[0].fill_(3.0)
    found = cleaned_confidence(depth, sure, matrix, poses)
    expected = sure[0].clone()
    expected[8:12, 14:17] = 0
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], sure[1]) and torch.equal(found[2], sure[2])


def test_a_surer_point_before_a_wall_is_kept():
    depth, matrix, poses = side_by_side(2)
    depth[0][8:12, 14:17] = 2.0
    sure = [torch.full((HEIGHT, WIDTH), 5.0), torch.full((HEIGHT, WIDTH), 3.0)]
    found = cleaned_confidence(depth, sure, matrix, poses)
    assert torch.equal(found[0], sure[0]) and torch.equal(found[1], sure[1])


def test_points_within_the_tolerance_are_kept():
    depth, matrix, poses = side_by_side(2)
    depth[0] *= 0.98
    sure = [torch.full((HEIGHT, WIDTH), 2.0), torch.full((HEIGHT, WIDTH), 3.0)]
    kept = cleaned_confidence(depth, sure, matrix, poses, tolerance=0.03)
    assert torch.equal(kept[0], sure[0])
    strict = cleaned_confidence(depth, sure, matrix, poses, tolerance=0.01)
    # Columns whose points project outside view 1 have no judge.
    assert bool((strict[0][:, 3:] == 0).all()) and bool((strict[0][:, :2] == 2).all())


def test_what_is_cleaned_already_judges_no_more():
    """Truth: layers at 1 (sure 1) and 4 (sure 2) seen from x = 0, a wall at 5 (sure 3) from x = 1.

    There the layer at 4 lies 25 / 4 pixels farther left and that at 1 25 pixels: of the middle
    layer columns from 6 fall to the wall, of the near one columns from 25. The near one's other
    columns fall to the middle one, but where that has fallen before, from 6 to 24, they stay.
    """
    _, matrix, poses = side_by_side(3)
    poses[:, 0, 3] = torch.tensor([0.0, 0.0, 1.0])
    near, middle, wall = (torch.full((HEIGHT, WIDTH), depth) for depth in (1.0, 4.0, 5.0))
    sure = [torch.full((HEIGHT, WIDTH), value) for value in (1.0, 2.0, 3.0)]
    column = torch.arange(WIDTH).expand(HEIGHT, -1)
    middle_first = [sure[1], sure[0], sure[2]]
    found = cleaned_confidence([middle, near, wall], middle_first, matrix, poses)
    assert torch.equal(found[0], 2.0 * (column < 6))
    assert torch.equal(found[1], 1.0 * ((column >= 6) & (column < 25)))
    found = cleaned_confidence([near, middle, wall], sure, matrix, poses)
    assert torch.equal(found[0], torch.zeros(HEIGHT, WIDTH))
    assert torch.equal(found[1], 2.0 * (column < 6))


def test_photos_of_several_sizes_and_unknown_depths_are_fine():
    depth, matrix, poses = side_by_side(2)
    # The second photo at twice the size, in pixels half as large.
    depth[1] = torch.full((2 * HEIGHT, 2 * WIDTH), 5.0)
    matrix[1, :2] *= 2
    depth[0][8:12, 14:17] = 2.0
    depth[0][0, 0], depth[1][0, 0], depth[1][30, :] = torch.nan, torch.inf, 0.0
    sure = [torch.full((HEIGHT, WIDTH), 2.0), torch.full((2 * HEIGHT, 2 * WIDTH), 3.0)]
    found = cleaned_confidence(depth, sure, matrix, poses)
    assert found[0].shape == (HEIGHT, WIDTH) and found[1].shape == (2 * HEIGHT, 2 * WIDTH)
    assert bool((found[0][8:12, 14:17] == 0).all())
    assert int((found[0] == 0).sum()) == 12 and bool((found[1] == 3).all())
