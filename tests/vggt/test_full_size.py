"""The published sizes, with real tensors."""

import json

import pytest
import torch

from fm3d_plugins.vggt.network import VGGT
from fm3d_plugins.vggt.pose_encoding import decode
from fm3d_plugins.vggt.weights import load_official


@pytest.mark.slow
def test_full_size_network_loads_strictly_and_runs(shared, golden_weights):
    """Two photos of 392 x 518; the backbone in bfloat16, as a laptop would hold it."""
    manifest = json.loads((shared / "golden" / "vggt_1b_manifest.json").read_text())
    with torch.device("meta"):
        network = VGGT().eval()
    matrices = network.matrix_names()
    weights = {}
    for name, shape in manifest.items():
        value = torch.from_numpy(golden_weights.golden_array(name, shape))
        weights[name] = value.bfloat16() if name in matrices else value
    load_official(network, weights, dtype=torch.bfloat16)
    images = torch.rand(2, 3, 392, 518, generator=torch.Generator().manual_seed(0))
    queries = torch.tensor([[100.0, 50.0], [400.0, 300.0]])
    with torch.inference_mode():
        outputs = network(images, queries)
    assert outputs.depth.shape == outputs.points_confidence.shape == (2, 392, 518)
    assert outputs.tracks[-1].shape == (2, 2, 2)
    assert outputs.tracks[-1][0].equal(queries)
    for value in (outputs.depth, outputs.points, outputs.pose_encodings[-1], outputs.visibility):
        assert value.isfinite().all()
    camera_from_world, _ = decode(outputs.pose_encodings[-1], (392, 518))
    assert camera_from_world.isfinite().all()
