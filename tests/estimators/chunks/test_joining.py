"""Chunks of a long walk joined into one world: accuracy, loops, failures, memory."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from fm3d_plugins.estimators.chunks.joining import JoinedViews, Joint, join_chunks
from fm3d_plugins.estimators.chunks.plan import Chunks, plan_chunks
from fm3d_plugins.estimators.chunks.prediction import ChunkPrediction
from fm3d_plugins.geometry.pose_metrics import evaluate_poses
from fm3d_plugins.geometry.poses import sim3_exp
from fm3d_plugins.photos.similarity import photo_descriptors, similarity_matrix

HEIGHT, WIDTH = 48, 64


NAMES = [f"p{row}.jpg" for row in range(200)]


@pytest.fixture(scope="session")
def walk200(room):
    """Cameras, depth and likeness of a closed walk of 200 photos."""
    poses = room.walk(200)
    depths = torch.stack([room.depth(pose, HEIGHT, WIDTH) for pose in poses])
    photos = (room.colors(pose, HEIGHT, WIDTH) for pose in poses)
    return poses, depths, similarity_matrix(photo_descriptors(photos))


@pytest.fixture(scope="session")
def walk20(room):
    poses = room.walk(20)
    return poses, torch.stack([room.depth(pose, HEIGHT, WIDTH) for pose in poses])


def with_one_loop(similarity):
    """The plan of the walk of 200 photos with the first of its loops alone."""
    plan = plan_chunks(200, chunk_size=24, overlap=8, order=range(200), similarity=similarity)
    count = plan.is_loop.index(True) + 1
    return Chunks(plan.members[:count], plan.centrality[:count], plan.is_loop[:count])


def predictions(room, plan, poses, depths, seed=0, **errors):
    for chunk, photos in enumerate(plan.members):
        yield room.predict(photos, poses, depths, 1000 * seed + chunk, **errors)


def ate_over_extent(joined, poses):
    found, truth = ({str(row): pose for row, pose in enumerate(p)} for p in (joined, poses))
    return evaluate_poses(found, truth).ate_over_extent


def misplaced(prediction, first_wrong, generator):
    """The views from `first_wrong` on are sound among themselves but lie elsewhere."""
    move = sim3_exp(torch.randn(7, generator=generator, dtype=torch.float64))
    scale = torch.linalg.det(move[:3, :3]).pow(1 / 3)
    cameras, depth = prediction.world_from_camera.clone(), prediction.depth.clone()
    cameras[first_wrong:] = move @ cameras[first_wrong:]
    cameras[first_wrong:, :3, :3] /= scale
    depth[first_wrong:] *= float(scale)
    return replace(prediction, world_from_camera=cameras, depth=depth)


def test_exact_chunks_give_the_exact_cameras_and_scales(room, walk20):
    poses, depths = walk20
    plan = plan_chunks(20, chunk_size=8, overlap=3)
    handed = {}

    def sink(photo, depth, confidence):
        assert photo not in handed and confidence.shape == depth.shape
        handed[photo] = depth

    exact = {"noise": 0.0, "outliers": 0.0}
    joined = join_chunks(predictions(room, plan, poses, depths, **exact), plan, NAMES, sink=sink)
    assert ate_over_extent(joined.world_from_camera, poses) < 1e-5
    turned = joined.world_from_camera[:, :3, :3] @ poses[:, :3, :3].transpose(-1, -2)
    torch.testing.assert_close(turned, turned[:1].expand(20, 3, 3), atol=1e-5, rtol=0)
    # Depth in the joined unit is the true depth times one number for the whole walk.
    assert sorted(handed) == list(range(20))
    depth = torch.stack([handed[row] * joined.depth_scale[row] for row in range(20)])
    ratio = depth / depths
    torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4, atol=0)
    assert joined.complaints(NAMES) == []
    expected = room.intrinsics(HEIGHT, WIDTH).expand(20, 3, 3)
    torch.testing.assert_close(joined.intrinsics, expected)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_hundred_photos_with_a_loop_are_joined_within_half_a_percent(room, walk200, seed):
    """1 % noise, 5 % wrong depth, every chunk in a frame and unit of its own."""
    poses, depths, similarity = walk200
    plan = plan_chunks(200, chunk_size=24, overlap=8, order=range(200), similarity=similarity)
    assert any(plan.is_loop)
    joined = join_chunks(predictions(room, plan, poses, depths, seed), plan, NAMES)
    assert ate_over_extent(joined.world_from_camera, poses) <= 0.005
    assert joined.complaints(NAMES) == []


def test_unordered_photos_are_joined_within_half_a_percent(room, walk200):
    poses, depths, similarity = walk200
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    plan = plan_chunks(200, chunk_size=24, overlap=8, similarity=similarity[order][:, order])
    joined = join_chunks(predictions(room, plan, poses[order], depths[order], 1), plan, NAMES)
    assert ate_over_extent(joined.world_from_camera, poses[order]) <= 0.005


def test_closing_the_loop_lessens_the_drift_of_chunks_that_bend(room, walk200):
    """Chunks that each change scale by 1 % and turn by 0.3 degrees on the way."""
    poses, depths, similarity = walk200
    errors = {}
    for name, seen in (("loop", similarity), ("chain", None)):
        plan = plan_chunks(200, chunk_size=24, overlap=8, order=range(200), similarity=seen)
        bent = predictions(room, plan, poses, depths, 1, drift=0.01, tilt=0.005)
        errors[name] = ate_over_extent(join_chunks(bent, plan, NAMES).world_from_camera, poses)
    assert errors["loop"] < 0.6 * errors["chain"] < 0.01


def test_place_that_only_looks_the_same_does_no_harm_and_is_reported(room, walk200):
    """A chunk that joins the ends wrongly: the result is that of the chain without it."""
    poses, depths, similarity = walk200
    plan = with_one_loop(similarity)
    generator = torch.Generator().manual_seed(0)
    *sound, loop = predictions(room, plan, poses, depths, 1)
    joined = join_chunks([*sound, misplaced(loop, 8, generator)], plan, NAMES)
    assert ate_over_extent(joined.world_from_camera, poses) <= 0.005
    (complaint,) = joined.complaints(NAMES)
    assert "contradicted" in complaint and ".jpg" in complaint


def test_failed_loop_is_reported_and_the_rest_is_joined(room, walk200):
    poses, depths, similarity = walk200
    plan = with_one_loop(similarity)
    *sound, loop = predictions(room, plan, poses, depths, 1)
    joined = join_chunks([*sound, replace(loop, depth=torch.zeros_like(loop.depth))], plan, NAMES)
    assert ate_over_extent(joined.world_from_camera, poses) <= 0.005
    assert all("only 0 pixels" in line for line in joined.complaints(NAMES))
    assert len(joined.complaints(NAMES)) == 2


def test_chunk_that_cannot_be_joined_is_an_error_that_names_the_photos(room, walk20):
    poses, depths = walk20
    plan = plan_chunks(20, chunk_size=8, overlap=3)
    given = list(predictions(room, plan, poses, depths))
    given[1] = replace(given[1], depth=torch.zeros_like(given[1].depth))
    with pytest.raises(ValueError, match="p6.jpg.*only 0 pixels"):
        join_chunks(given, plan, NAMES)


def test_chunks_without_common_photos_are_an_error(room, walk20):
    poses, depths = walk20
    members = (tuple(range(10)), tuple(range(10, 20)))
    plan = Chunks(members, ((1.0,) * 10,) * 2, (False, False))
    with pytest.raises(ValueError, match="no photos in common"):
        join_chunks(predictions(room, plan, poses, depths), plan, NAMES)


def test_one_chunk_is_returned_as_it_is(room, walk20):
    poses, depths = walk20
    plan = plan_chunks(20, chunk_size=20, overlap=3)
    (prediction,) = predictions(room, plan, poses, depths)
    joined = join_chunks([prediction], plan, NAMES)
    torch.testing.assert_close(joined.world_from_camera, prediction.world_from_camera)
    assert torch.equal(joined.depth_scale, torch.ones(20, dtype=torch.float64))
    assert joined.joints == ()


def test_predictions_are_let_go_one_after_the_other(room, walk20):
    """Memory: no earlier chunk's depth is alive when the next but one is asked for."""
    poses, depths = walk20
    plan = plan_chunks(20, chunk_size=5, overlap=2)
    alive = []

    def counted():
        for prediction in predictions(room, plan, poses, depths):
            gc.collect()
            assert sum(reference() is not None for reference in alive) <= 1
            alive.append(weakref.ref(prediction.depth))
            yield prediction

    join_chunks(counted(), plan, NAMES)
    assert len(alive) == len(plan.members) > 4


def test_views_in_another_order_or_size_and_missing_chunks_are_refused(room, walk20):
    poses, depths = walk20
    plan = plan_chunks(20, chunk_size=12, overlap=4)
    first, second = predictions(room, plan, poses, depths)
    with pytest.raises(ValueError, match="plan's order"):
        join_chunks([second, first], plan, NAMES)
    with pytest.raises(ValueError, match="1 predictions came for 2 chunks"):
        join_chunks([first], plan, NAMES)
    with pytest.raises(ValueError, match="2 chunks|Expected"):
        join_chunks([first, second, second], plan, NAMES)
    smaller = replace(second, depth=second.depth[:, ::2], confidence=second.confidence[:, ::2])
    with pytest.raises(ValueError, match=r"\(24, 64\) in chunk 1"):
        join_chunks([first, smaller], plan, NAMES)


def test_prediction_refuses_repeated_photos_and_cameras_that_are_not_finite():
    cameras, intrinsics = torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1)
    depth = torch.ones(2, 4, 4)
    with pytest.raises(ValueError, match="photos \\[3, 3\\]"):
        ChunkPrediction((3, 3), cameras, intrinsics, depth, depth)
    cameras[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="photos \\[5\\]"):
        ChunkPrediction((3, 5), cameras, intrinsics, depth, depth)


def test_drift_is_that_of_a_chain_of_random_errors():
    """Shifts drawn alike for each joint of a chain, and within each chunk, against their mean."""
    joints = tuple(Joint((n, n + 1), (n,), 1.0, 0.0, 1.0) for n in range(10))
    views = torch.zeros(0, 4, 4), torch.zeros(0, 3, 3), torch.zeros(0)
    drift = JoinedViews(*views, joints).drift
    generator = torch.Generator().manual_seed(0)
    steps, own = torch.randn(2, 20000, 11, generator=generator)
    shifts = steps.cumsum(1) + own
    spread = (shifts - shifts.mean(1, keepdim=True)).square().mean().sqrt()
    assert drift == pytest.approx(float(spread), rel=0.05)
    assert JoinedViews(*views, ()).drift == 1
