"""Truth keeps its digits within autocast."""

from dataclasses import fields

import pytest
import torch

from fm3d_plugins.cell_matching.losses import cameras_of, true_cells
from fm3d_plugins.data.synthetic import EndlessRooms
from fm3d_plugins.dust3r.losses import LossConfig, PairTruth, pair_errors
from fm3d_plugins.dust3r.network import PairPrediction
from fm3d_plugins.dust3r.training import true_points
from fm3d_plugins.geometry.precision import in_full_precision
from fm3d_plugins.rayzer.training import rotation_correlation
from fm3d_plugins.vggt.losses import GroundTruth, normalize
from fm3d_plugins.vggt.pose_encoding import encode


@pytest.fixture(scope="module")
def batch():
    return EndlessRooms(2).batch(0, num_scenes=2, num_views=2, height=16, width=24)


def under_autocast(function, *arguments):
    with torch.autocast("cpu", torch.bfloat16):
        return function(*arguments)


def vggt_truth(batch):
    truth, scale = normalize(GroundTruth.of(batch))
    encoding = encode(truth.camera_from_world, truth.intrinsics, batch.size)
    return [truth.camera_from_world, truth.depth, truth.points, scale, encoding]


def dust3r_truth(batch):
    truth = PairTruth.of(batch)
    ones = torch.ones(2, 16, 24)
    said = PairPrediction(torch.ones(2, 16, 24, 3), ones, torch.ones(2, 16, 24, 3), ones)
    errors = pair_errors(said, truth, LossConfig())
    return [
        truth.points_first,
        truth.points_second,
        errors.first,
        errors.second,
        true_points(batch),
    ]


def matches_truth(batch):
    cameras = cameras_of(batch)
    places, is_seen, _ = true_cells(batch, 4, 6)
    return [*(getattr(cameras, field.name) for field in fields(cameras)), places, is_seen.float()]


def turns(batch):
    poses = batch.world_from_camera
    return [rotation_correlation(poses, poses, 0)]


@pytest.mark.parametrize("truth", [vggt_truth, dust3r_truth, matches_truth, turns])
def test_truth_is_the_same_within_autocast(batch, truth):
    """Truth: not a bit differs, as the same operations run; bfloat16 would be off by 1e-3."""
    for found, expected in zip(under_autocast(truth, batch), truth(batch), strict=True):
        assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_autocast_is_as_it_was_afterwards():
    """Truth: products outside of the function stay reduced, also after it failed."""
    matrix = torch.rand(4, 4)

    @in_full_precision
    def squared(matrix):
        return matrix @ matrix

    with torch.autocast("cpu", torch.bfloat16):
        assert squared(matrix).dtype == torch.float32
        assert (matrix @ matrix).dtype == torch.bfloat16
        with pytest.raises(RuntimeError):
            squared(torch.rand(2, 3))
        assert (matrix @ matrix).dtype == torch.bfloat16
    assert (matrix @ matrix).dtype == torch.float32
