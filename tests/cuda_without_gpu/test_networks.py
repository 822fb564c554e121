"""The networks at their published sizes on the pretended device, by shapes alone.

What depends on values cannot run like this: the networks have no such branch.
"""

from dataclasses import replace

import pytest
import torch

from fm3d_plugins.dust3r.inference import PhotoEncodings, decode_pairs
from fm3d_plugins.dust3r.inference import prepared as prepared_dust3r
from fm3d_plugins.dust3r.network import DUSt3R
from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.lvsm.cameras import normalization
from fm3d_plugins.lvsm.network import DECODER_ONLY, ENCODER_DECODER, LVSM
from fm3d_plugins.rayzer.network import RayZer
from fm3d_plugins.vggt.aggregator import AggregatorConfig
from fm3d_plugins.vggt.dense_head import DenseHeadConfig
from fm3d_plugins.vggt.inference import predict, prepared
from fm3d_plugins.vggt.network import VGGT
from fm3d_plugins.vggt.track_head import TrackHeadConfig

CUDA = torch.device("cuda", 0)
FLOAT, HALF = torch.float32, torch.bfloat16

pytestmark = pytest.mark.usefixtures("cuda_of_shapes")


def test_all_heads_of_vggt(stored_in):
    """With four of its 24 pairs of blocks, of which the heads read all."""
    dense = DenseHeadConfig(layers=(0, 1, 2, 3))
    parts = {
        "aggregator": AggregatorConfig(depth=4),
        "depth": dense,
        "points": dense,
        "tracks": TrackHeadConfig(maps=replace(dense, features=128)),
    }
    network = prepared(stored_in(VGGT(**parts), HALF), CUDA)
    images = torch.empty(3, 3, 140, 154, device=CUDA)
    with torch.inference_mode():
        outputs = network(images, torch.empty(5, 2, device=CUDA))
    expected = {
        "depth": (3, 140, 154),
        "depth_confidence": (3, 140, 154),
        "points": (3, 140, 154, 3),
        "points_confidence": (3, 140, 154),
        "visibility": (3, 5),
        "track_confidence": (3, 5),
    }
    for name, shape in expected.items():
        values = getattr(outputs, name)
        assert (values.shape, values.device, values.dtype) == (shape, CUDA, FLOAT), name
    assert {(e.shape, e.device) for e in outputs.pose_encodings} == {((3, 9), CUDA)}
    assert {(e.shape, e.device) for e in outputs.tracks} == {((3, 5, 2), CUDA)}


def test_predictions_of_vggt_come_back_to_the_cpu(stored_in):
    network = prepared(stored_in(VGGT(), torch.float16), CUDA)
    network.point_head = network.track_head = None
    seen = predict(network, torch.empty(10, 3, 56, 70))  # More than the heads take at once.
    assert seen.depth.shape == seen.confidence.shape == (10, 56, 70)
    assert seen.intrinsics.shape == (10, 3, 3)
    for values in vars(seen).values():
        assert values.device.type == "cpu"


def test_pairs_of_dust3r_come_back_to_the_cpu(stored_in):
    network = prepared_dust3r(stored_in(DUSt3R(), HALF), CUDA)
    encodings = PhotoEncodings(network, lambda row: torch.empty(3, 48, 64))
    assert encodings.of([0, 1]).tokens.device == CUDA
    assert all(tokens.device.type == "cpu" for tokens in encodings._tokens.values())
    for _, _, pair in decode_pairs(encodings, [(0, 1), (1, 2), (2, 0)]):
        for values in vars(pair).values():
            assert (values.device.type, values.dtype) == ("cpu", FLOAT)
            assert values.shape[:2] == (48, 64)


@pytest.mark.parametrize("config", [DECODER_ONLY, ENCODER_DECODER])
def test_views_of_lvsm(stored_in, config):
    network = stored_in(LVSM(config), HALF).to(CUDA)
    poses, lenses = torch.empty(1, 5, 4, 4, device=CUDA), torch.empty(1, 5, 3, 3, device=CUDA)
    frame = normalization(poses[:, :2])
    rays = plucker_maps(lenses, frame.apply_to_pose(poses), 256, 256)
    with torch.inference_mode():
        scene = network.encode(torch.empty(1, 2, 3, 256, 256, device=CUDA), rays[:, :2])
        views = network.render(scene, rays[:, 2:])
    assert (views.shape, views.device, views.dtype) == ((1, 3, 3, 256, 256), CUDA, FLOAT)


def test_cameras_and_views_of_rayzer(stored_in):
    network = stored_in(RayZer(), HALF).to(CUDA)
    images = torch.empty(1, 24, 3, 256, 256, device=CUDA)
    number = torch.empty(24, dtype=torch.long, device=CUDA)
    with torch.inference_mode():
        outputs = network(images, number[:16], number[16:])
    cameras = outputs.cameras.world_from_camera()
    for values, shape in ((outputs.renders, (1, 8, 3, 256, 256)), (cameras, (1, 24, 4, 4))):
        assert (values.shape, values.device, values.dtype) == (shape, CUDA, FLOAT)
