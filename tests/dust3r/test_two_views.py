"""Two photos without optimisation, against known cameras and the published result."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.dust3r.two_views import INTEGER_CENTER, align_two_views, relative_pose
from fm3d_plugins.geometry.poses import invert, rotation_angle_degrees

SIZES = [(36, 48), (48, 36)]


@pytest.fixture(scope="module")
def scene(alignment_scene):
    """A landscape and a portrait photo of different focal lengths."""
    return alignment_scene.Scene.make(SIZES, [45.0, 52.0])


def sure_pairs(scene, **options):
    return [
        replace(
            pair,
            confidence_first=pair.confidence_first + 3,
            confidence_second=pair.confidence_second + 3,
        )
        for pair in scene.pairs(**options)
    ]


def test_published_result_is_met(shared):
    """Tolerance of poses from points and pixels: 1e-3; of focal lengths 1e-5."""
    golden = load_file(shared / "golden/dust3r_ga.safetensors")
    edges = golden["edges"].tolist()
    names = ("pred1_pts3d", "pred1_conf", "pred2_pts3d_in_other_view", "pred2_conf")
    rows = [edges.index(edge) for edge in golden["pairviewer.edges"].tolist()]
    pairs = [
        PairPointmaps(*edges[row], *(golden[f"noisy.{name}"][row] for name in names))
        for row in rows
    ]
    views = align_two_views(pairs, first_center=INTEGER_CENTER)
    torch.testing.assert_close(views.focals, golden["pairviewer.focals"], rtol=1e-5, atol=0)
    torch.testing.assert_close(
        views.world_from_camera, golden["pairviewer.im_poses"], rtol=0, atol=1e-3
    )
    torch.testing.assert_close(
        torch.stack(views.depth), golden["pairviewer.depth"], rtol=1e-3, atol=1e-3
    )


def test_exact_pairs_give_exact_cameras_and_depth(scene):
    pairs = sure_pairs(scene)
    views = align_two_views(pairs)
    first, second = views.pairs[0].tolist()
    surer = next(pair for pair in pairs if pair.first == first)
    unit = float(surer.points_first[..., 2].mean() / scene.depth[first].float().mean())
    truth = invert(scene.poses[first]) @ scene.poses[second]
    found = views.world_from_camera[second].double()
    assert torch.equal(views.world_from_camera[first], torch.eye(4))
    assert float(rotation_angle_degrees(found[:3, :3], truth[:3, :3])) < 0.01
    torch.testing.assert_close(found[:3, 3], unit * truth[:3, 3], rtol=0, atol=1e-3)
    torch.testing.assert_close(views.intrinsics.double(), scene.intrinsics, rtol=1e-4, atol=0)
    for photo in (0, 1):
        depth = unit * scene.depth[photo].float()
        torch.testing.assert_close(views.depth[photo], depth, rtol=1e-3, atol=0)


@pytest.mark.parametrize("surer", [(0, 1), (1, 0)])
def test_the_surer_pair_gives_the_world_in_either_order(scene, surer):
    pairs = [
        replace(pair, confidence_first=pair.confidence_first + 2 * (pair.first == surer[0]))
        for pair in sure_pairs(scene)
    ]
    for given in (pairs, pairs[::-1]):
        views = align_two_views(given)
        assert views.pairs.tolist() == [list(surer)]
        assert torch.equal(views.world_from_camera[surer[0]], torch.eye(4))


def test_known_intrinsics_are_kept_and_used(scene):
    views = align_two_views(sure_pairs(scene, noise=0.01), scene.intrinsics.float())
    assert torch.equal(views.intrinsics, scene.intrinsics.float())


def test_confidence_is_the_larger_of_both_pairs(scene):
    pairs = sure_pairs(scene)
    by_first = {pair.first: pair for pair in pairs}
    views = align_two_views(pairs)
    for photo in (0, 1):
        seen = (by_first[photo].confidence_first, by_first[1 - photo].confidence_second)
        assert torch.equal(views.confidence[photo], torch.maximum(*seen))


def test_relative_pose_says_how_many_pixels_agree(scene):
    pair = sure_pairs(scene)[0]
    assert relative_pose(pair, scene.intrinsics[pair.second]).inlier_share == 1
    points = pair.points_second_in_first.clone()
    points[: len(points) // 2] = points[: len(points) // 2].flip(1)
    half = replace(pair, points_second_in_first=points)
    assert 0.4 < relative_pose(half, scene.intrinsics[pair.second]).inlier_share < 0.75


def test_pairs_that_are_not_sure_are_an_error_with_their_names(scene):
    pairs = [
        replace(pair, confidence_second=torch.full_like(pair.confidence_second, 1.5))
        for pair in scene.pairs()
    ]
    with pytest.raises(ValueError, match=r"photos \d and \d gives no relative pose.*found 0"):
        align_two_views(pairs)


def test_points_of_nowhere_are_an_error_not_the_identity(scene):
    generator = torch.Generator().manual_seed(0)
    pairs = [
        replace(
            pair,
            points_second_in_first=torch.randn(
                pair.points_second_in_first.shape, generator=generator
            ).exp().cumprod(0).clamp(max=1e6),
        )
        for pair in sure_pairs(scene)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="gives no relative pose"):
        align_two_views(pairs)


@pytest.mark.parametrize("rows", [[0], [0, 0], [0, 1, 1]])
def test_anything_but_both_orders_is_an_error(scene, rows):
    pairs = sure_pairs(scene)
    with pytest.raises(ValueError, match="Give both orders once"):
        align_two_views([pairs[row] for row in rows])
