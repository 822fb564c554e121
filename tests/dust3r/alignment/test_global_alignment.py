"""The default alignment on scenes whose cameras and depths are known."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.dust3r.alignment import global_alignment, start
from fm3d_plugins.dust3r.alignment.global_alignment import align_globally
from fm3d_plugins.dust3r.alignment.views import AlignmentPriors
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps, PairStore
from fm3d_plugins.geometry.alignment import Similarity, umeyama
from fm3d_plugins.geometry.pointmaps import pointmap_from_depth
from fm3d_plugins.geometry.poses import rotation_angle_degrees

LANDSCAPE, PORTRAIT, SMALL = (36, 48), (48, 36), (24, 40)


@pytest.fixture(scope="module")
def mixed(alignment_scene):
    """Five photos of three sizes, all focal lengths different."""
    sizes = [LANDSCAPE, PORTRAIT, SMALL, LANDSCAPE, PORTRAIT]
    return alignment_scene.Scene.make(sizes, [45.0, 52.0, 60.0, 48.0, 40.0])


def clouds(poses, intrinsics, depth):
    each = zip(depth, intrinsics, poses, strict=True)
    points = [pointmap_from_depth(d.double(), k.double(), p.double()) for d, k, p in each]
    return torch.cat([point.flatten(0, 1) for point in points])


def errors(views, poses, intrinsics, depth):
    """Largest turn (degrees), centre (scene units), focal (share), and the similarity of both."""
    found = clouds(views.world_from_camera, views.intrinsics, views.depth)
    similarity = umeyama(found, clouds(poses, intrinsics, depth))
    placed = similarity.apply_to_pose(views.world_from_camera)
    turn = rotation_angle_degrees(placed[:, :3, :3], poses[:, :3, :3]).max()
    center = (placed[:, :3, 3] - poses[:, :3, 3]).norm(dim=-1).max()
    focal = (views.intrinsics[:, 0, 0] / intrinsics[:, 0, 0] - 1).abs().max()
    return float(turn), float(center), float(focal), similarity


def errors_of(views, scene):
    return errors(views, scene.poses, scene.intrinsics, scene.depth)


def test_exact_pairs_of_mixed_sizes_give_the_exact_scene(mixed):
    """Single precision of the pairs' points leaves 1e-7 of the depth."""
    views = align_globally(mixed.pairs(), mixed.sizes)
    turn, center, focal, similarity = errors_of(views, mixed)
    assert turn < 1e-4 and center < 1e-5 and focal < 1e-5
    for found, truth in zip(views.depth, mixed.depth, strict=True):
        torch.testing.assert_close(similarity.scale * found.double(), truth, rtol=1e-4, atol=0)
    assert views.report is not None and views.report.is_converged
    assert views.report.residual < 1e-6


def test_world_is_the_first_camera_in_the_mean_unit_of_the_pairs(mixed):
    views = align_globally(mixed.pairs(noise=0.003), mixed.sizes)
    assert torch.equal(views.world_from_camera[0], torch.eye(4, dtype=torch.float64))
    assert float(views.pair_scales.log().mean()) == pytest.approx(0, abs=1e-12)


def test_pair_scales_are_those_the_pairs_were_made_with(mixed):
    pairs = mixed.pairs()
    views = align_globally(pairs, mixed.sizes)
    *_, similarity = errors_of(views, mixed)
    made = torch.stack(
        [
            pair.points_first[0, 0].norm()
            / pointmap_from_depth(mixed.depth[pair.first], mixed.intrinsics[pair.first])[
                0, 0
            ].norm()
            for pair in pairs
        ]
    )
    expected = 1 / (made * similarity.scale)
    torch.testing.assert_close(views.pair_scales, expected.double(), rtol=1e-5, atol=0)


def test_golden_scene_with_noise_and_five_focals_meets_the_bars(shared, monkeypatch):
    """Published result: 1.06 degrees, 0.266, 8.6 %; with its start mended 0.052, 0.0116, 0.36 %.

    There the principal point is (32, 24) with pixel centres at integers: (32.5, 24.5) here.
    """
    golden = load_file(shared / "golden/dust3r_ga.safetensors")
    names = ("pred1_pts3d", "pred1_conf", "pred2_pts3d_in_other_view", "pred2_conf")
    columns = [golden[f"noisy.{name}"] for name in names]
    pairs = [
        PairPointmaps(first, second, *(column[row] for column in columns))
        for row, (first, second) in enumerate(golden["edges"].tolist())
    ]
    points = torch.tensor([[32.5, 24.5]] * 5, dtype=torch.float64)
    monkeypatch.setattr(start, "_principal_points", lambda *_: points)
    views = align_globally(pairs, [(48, 64)] * 5)
    focals = golden["gt_focals"]
    intrinsics = views.intrinsics.clone()
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focals
    turn, center, focal, _ = errors(views, golden["gt_poses"], intrinsics, golden["gt_depth"])
    assert turn <= 0.06 and center <= 0.012 and focal <= 0.004
    # What it does: a tenth of each bar's centre and focal length.
    assert turn <= 0.03 and center <= 0.002 and focal <= 0.0005


# --- Known cameras ---


def test_known_poses_are_kept_exactly_and_fix_world_and_unit(mixed):
    known_poses = {photo: mixed.poses[photo] for photo in (1, 3, 4)}
    views = align_globally(
        mixed.pairs(noise=0.003), mixed.sizes, AlignmentPriors(world_from_camera=known_poses)
    )
    for photo, pose in known_poses.items():
        assert torch.equal(views.world_from_camera[photo], pose)
    off = views.world_from_camera[[0, 2], :3, 3] - mixed.poses[[0, 2], :3, 3]
    assert float(off.norm(dim=-1).max()) < 0.01


@pytest.mark.parametrize("photo", [0, 2])
def test_one_known_pose_holds_the_world_but_not_the_unit(mixed, photo):
    known = AlignmentPriors(world_from_camera={photo: mixed.poses[photo]})
    views = align_globally(mixed.pairs(noise=0.003), mixed.sizes, known)
    assert torch.equal(views.world_from_camera[photo], mixed.poses[photo])
    assert float(views.pair_scales.log().mean()) == pytest.approx(0, abs=1e-12)
    turn, *_, similarity = errors_of(views, mixed)
    assert turn < 0.1
    angle = rotation_angle_degrees(similarity.rotation, torch.eye(3, dtype=torch.float64))
    assert float(angle) < 0.1


def test_two_known_poses_at_one_place_do_not_fix_the_unit(alignment_scene):
    scene = alignment_scene.Scene.make([LANDSCAPE] * 4, [45.0] * 4)
    scene.poses[1, :3, 3] = scene.poses[0, :3, 3]
    depth = alignment_scene.surface_depth(scene.poses[1], scene.intrinsics[1], LANDSCAPE)
    scene.depth[1] = depth
    known = AlignmentPriors(world_from_camera={photo: scene.poses[photo] for photo in (0, 1)})
    views = align_globally(scene.pairs(), scene.sizes, known)
    assert torch.equal(views.world_from_camera[:2], scene.poses[:2])
    assert errors_of(views, scene)[1] < 1e-4


def test_known_intrinsics_are_kept_exactly(mixed):
    known = AlignmentPriors(intrinsics={photo: mixed.intrinsics[photo] for photo in (0, 2)})
    views = align_globally(mixed.pairs(noise=0.003), mixed.sizes, known)
    torch.testing.assert_close(
        views.intrinsics[[0, 2]], mixed.intrinsics[[0, 2]], rtol=0, atol=1e-12
    )
    assert errors_of(views, mixed)[2] < 5e-3


def test_known_intrinsics_with_two_focals_and_a_shifted_middle_are_used(alignment_scene):
    """Pixels that are not square: every photo's known focal lengths differ by a fifth."""
    scene = alignment_scene.Scene.make([LANDSCAPE] * 3, [45.0] * 3)
    scene.intrinsics[:, 1, 1] *= 1.2
    scene.intrinsics[:, 0, 2] += 4
    each = zip(scene.poses, scene.intrinsics, scene.sizes, strict=True)
    scene.depth[:] = [alignment_scene.surface_depth(*camera) for camera in each]
    known = AlignmentPriors(intrinsics=dict(enumerate(scene.intrinsics)))
    turn, center, *_ = errors_of(align_globally(scene.pairs(), scene.sizes, known), scene)
    assert turn < 1e-4 and center < 1e-5


def test_photos_of_a_group_share_one_focal_length(alignment_scene):
    scene = alignment_scene.Scene.make([LANDSCAPE] * 4, [45.0, 45.0, 60.0, 60.0])
    known = AlignmentPriors(focal_groups=(7, 7, 2, 2))
    views = align_globally(scene.pairs(noise=0.01), scene.sizes, known)
    focals = views.intrinsics[:, 0, 0]
    assert focals[0] == focals[1] != focals[2] == focals[3]
    assert errors_of(views, scene)[2] < 5e-3


def test_a_known_focal_length_is_that_of_its_whole_group(alignment_scene):
    scene = alignment_scene.Scene.make([LANDSCAPE] * 3, [45.0] * 3)
    known = AlignmentPriors(intrinsics={1: scene.intrinsics[1]}, focal_groups=(0, 0, 0))
    views = align_globally(scene.pairs(noise=0.01), scene.sizes, known)
    torch.testing.assert_close(views.intrinsics[:, 0, 0], scene.intrinsics[:, 0, 0])


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (AlignmentPriors(world_from_camera={9: torch.eye(4)}), "do not exist"),
        (AlignmentPriors(world_from_camera={1: 2 * torch.eye(4)}), "not rigid"),
        (AlignmentPriors(focal_groups=(0, 0)), "one for each of the 5"),
        (
            AlignmentPriors(
                intrinsics={0: torch.eye(3), 1: 2 * torch.eye(3)}, focal_groups=(0, 0, 1, 1, 1)
            ),
            r"photos \[0, 1\] share a focal length",
        ),
    ],
)
def test_senseless_knowledge_is_an_error(mixed, known, message):
    with pytest.raises(ValueError, match=message):
        align_globally(mixed.pairs(), mixed.sizes, known)


# --- Wrong pairs, few pairs, broken pairs ---


def wrong_pair(pair, confidence):
    """The second photo turned by 40 degrees about the first camera and moved, and very sure."""
    turn = torch.tensor([[0.766, 0, 0.643], [0, 1, 0], [-0.643, 0, 0.766]])
    moved = pair.points_second_in_first @ turn.T + torch.tensor([0.5, -0.3, 0.8])
    return replace(
        pair,
        points_second_in_first=moved,
        confidence_first=torch.full_like(pair.confidence_first, confidence),
        confidence_second=torch.full_like(pair.confidence_second, confidence),
    )


def test_a_wrong_pair_has_little_influence_however_sure_it_is(mixed):
    pairs = mixed.pairs(noise=0.003)
    without = errors_of(align_globally(pairs, mixed.sizes), mixed)
    pairs[3] = wrong_pair(pairs[3], confidence=20.0)
    views = align_globally(pairs, mixed.sizes)
    turn, center, focal, _ = errors_of(views, mixed)
    assert turn < 2 * without[0] + 0.02
    assert center < 2 * without[1] + 0.002
    assert focal < 2 * without[2] + 0.001
    influence = views.report.pair_influence
    # Half of the pair is right: what it says of its own first photo.
    assert float(influence[3]) < 0.6 < float(influence[torch.arange(len(pairs)) != 3].min())


def test_wrong_pixels_have_little_influence(mixed):
    """A sixth of the rows of every pair's second map, other ones each time, at half the depth."""
    pairs = []
    for row, pair in enumerate(mixed.pairs(noise=0.003)):
        points = pair.points_second_in_first.clone()
        points[row % 6 :: 6] *= 0.5
        pairs.append(replace(pair, points_second_in_first=points))
    turn, center, focal, _ = errors_of(align_globally(pairs, mixed.sizes), mixed)
    assert turn < 0.1 and center < 0.01 and focal < 0.005


def test_a_chain_of_pairs_is_enough(alignment_scene):
    count = 8
    scene = alignment_scene.Scene.make([LANDSCAPE] * count, [45.0] * count, spread=2.0)
    edges = [(photo, photo + 1) for photo in range(count - 1)]
    views = align_globally(scene.pairs(edges), scene.sizes)
    turn, center, focal, _ = errors_of(views, scene)
    assert turn < 1e-3 and center < 1e-4 and focal < 1e-5


def test_two_photos_are_enough(alignment_scene):
    scene = alignment_scene.Scene.make([LANDSCAPE, PORTRAIT], [45.0, 52.0])
    turn, center, focal, _ = errors_of(align_globally(scene.pairs(), scene.sizes), scene)
    assert turn < 1e-3 and center < 1e-4 and focal < 1e-5


def test_photos_without_a_chain_of_pairs_are_named(mixed):
    pairs = mixed.pairs([(0, 1), (2, 3), (3, 4)])
    with pytest.raises(ValueError, match=r"photos \[2, 3, 4\] are not joined to photo 0"):
        align_globally(pairs, mixed.sizes)


def test_a_photo_that_is_never_first_is_named(mixed):
    pairs = [pair for pair in mixed.pairs() if pair.first != 2]
    with pytest.raises(ValueError, match=r"No pair has the photos \[2\] as its first"):
        align_globally(pairs, mixed.sizes)


def broken(pair, kind):
    ones = torch.ones_like(pair.confidence_second)
    return {
        "nan": replace(pair, points_first=pair.points_first * torch.nan),
        "unsure": replace(pair, confidence_second=ones),
        "one place": replace(
            pair, points_second_in_first=torch.zeros_like(pair.points_second_in_first)
        ),
        "itself": replace(pair, second=pair.first),
        "size": replace(
            pair, points_second_in_first=torch.ones(3, 4, 3), confidence_second=torch.ones(3, 4)
        ),
        "behind": replace(pair, points_first=pair.points_first * torch.tensor([1.0, 1, -1])),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "photos 2 and 1 says nothing of photo 2: some values are not finite"),
        ("unsure", "photos 2 and 1 says nothing of photo 1: all confidences are 1"),
        ("one place", "photos 2 and 1 cannot be aligned"),
        ("itself", "photos 2 and 2 cannot be used"),
        ("size", r"photos 2 and 1 has maps of .* for photo 1; expected \(48, 36\)"),
        ("behind", "focal length of photo 2 cannot be estimated"),
    ],
)
def test_broken_pairs_are_named(mixed, kind, message):
    pairs = mixed.pairs()
    row = next(row for row, pair in enumerate(pairs) if (pair.first, pair.second) == (2, 1))
    pairs[row] = broken(pairs[row], kind)
    with pytest.raises(ValueError, match=message):
        align_globally(pairs, mixed.sizes)


def test_a_pair_given_twice_is_an_error(mixed):
    pairs = mixed.pairs()
    with pytest.raises(ValueError, match="every ordered pair once"):
        align_globally([*pairs, pairs[0]], mixed.sizes)


def test_an_iterator_that_is_used_up_is_an_error(mixed):
    with pytest.raises(ValueError, match="read only once"):
        align_globally(iter(mixed.pairs()), mixed.sizes)


def test_fewer_samples_give_nearly_the_same(mixed, monkeypatch):
    pairs = mixed.pairs(noise=0.003)
    monkeypatch.setattr(global_alignment, "SAMPLES_PER_PHOTO", 300)
    turn, center, focal, _ = errors_of(align_globally(pairs, mixed.sizes), mixed)
    assert turn < 0.1 and center < 0.01 and focal < 0.005


def test_order_of_pairs_does_not_matter(mixed):
    pairs = mixed.pairs(noise=0.003)
    first, second = (align_globally(p, mixed.sizes) for p in (pairs, pairs[::-1]))
    torch.testing.assert_close(first.world_from_camera, second.world_from_camera, rtol=0, atol=1e-3)


def test_unit_and_frame_of_the_pairs_do_not_matter(mixed):
    """Each pair stretched by its own factor: the same cameras, up to the world's unit."""
    pairs = mixed.pairs(noise=0.003)
    stretched = [
        replace(
            pair,
            points_first=pair.points_first * (1 + row),
            points_second_in_first=pair.points_second_in_first * (1 + row),
        )
        for row, pair in enumerate(pairs)
    ]
    first, second = (align_globally(p, mixed.sizes) for p in (pairs, stretched))
    ratio = float(second.depth[0].mean() / first.depth[0].mean())
    scaled = Similarity(
        torch.tensor(ratio).double(), torch.eye(3).double(), torch.zeros(3).double()
    ).apply_to_pose(first.world_from_camera)
    torch.testing.assert_close(scaled, second.world_from_camera, rtol=0, atol=1e-3 * ratio)


# --- The store ---


def test_store_gives_pairs_back_to_half_precision_as_often_as_wanted(mixed, tmp_path):
    store = PairStore(tmp_path)
    pairs = mixed.pairs(noise=0.003)
    for pair in pairs:
        store.put(pair)
    assert len(store) == len(pairs)
    for _ in range(2):
        for kept, pair in zip(store, pairs, strict=True):
            assert (kept.first, kept.second) == (pair.first, pair.second)
            for name in ("points_first", "points_second_in_first", "confidence_second"):
                wanted = getattr(pair, name)
                size = float(wanted.abs().max())
                torch.testing.assert_close(getattr(kept, name), wanted, rtol=0, atol=5e-4 * size)


def test_alignment_from_the_store_is_as_good_as_from_memory(mixed, tmp_path):
    store = PairStore(tmp_path)
    for pair in mixed.pairs():
        store.put(pair)
    turn, center, focal, _ = errors_of(align_globally(store, mixed.sizes), mixed)
    assert turn < 0.02 and center < 1e-3 and focal < 3e-4


def test_store_refuses_values_that_are_not_finite(mixed, tmp_path):
    pair = broken(mixed.pair(2, 1), "nan")
    with pytest.raises(ValueError, match="photos 2 and 1 has points or confidences"):
        PairStore(tmp_path).put(pair)
