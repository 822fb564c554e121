"""DUSt3R in training: what it lowers falls, the truth has no error, the export is the network."""

import json

import pytest
import torch

from fm3d_plugins.checkpoints import locate
from fm3d_plugins.cli.main import main
from fm3d_plugins.data.synthetic import EndlessRooms
from fm3d_plugins.dust3r.inference import load_network
from fm3d_plugins.dust3r.network import DUSt3R, DUSt3RConfig, PairPrediction
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.method_configs.dust3r_train import method
from tests.network_training.conftest import tiny_config, train

TINY = DUSt3RConfig(
    encoder_width=32,
    encoder_depth=1,
    encoder_heads=2,
    decoder_width=32,
    decoder_depth=2,
    decoder_heads=2,
    patch_size=8,
    head="linear",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    sizes = {"image_sizes": (16,), "size_shares": (1.0,)}
    return train(tiny_config(tmp_path_factory.mktemp("run"), 2, TINY, method, **sizes))


@pytest.fixture(scope="module")
def batch():
    return EndlessRooms(2).batch(0, num_scenes=3, num_views=2, height=16, width=24)


class Oracle(torch.nn.Module):
    """Says the true points, in another unit."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def forward(self, first, second):
        points = self.batch.points().flatten(1, 3)
        local = 3 * transform_points(invert(self.batch.world_from_camera[:, 0]), points)
        local = local.unflatten(1, (2, *self.batch.size))
        ones = torch.ones_like(local[:, 0, ..., 0])
        return PairPrediction(local[:, 0], ones, local[:, 1], ones)


def test_the_truth_has_no_error_and_trivial_answers_have_some(run, batch):
    scores = run.pipeline.model.score(Oracle(batch), batch).metrics
    assert scores["points"].max() < 1e-5
    assert scores["still"].min() > 1e-3 and scores["flat"].min() > 0.05


def test_a_fixed_small_set_is_learnt(run, batch):
    """Truth: on one batch, the plain error of the points falls below two thirds."""
    torch.manual_seed(0)
    network = DUSt3R(**vars(TINY))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    errors = []
    for step in range(20):
        loss, metrics = run.pipeline.model.loss(network, batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(metrics["points"]))
    assert errors[-1] < errors[0] * 2 / 3


def test_a_run_is_scored_and_exported(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    results = json.loads((run.base_dir / "eval.json").read_text())["results"]
    assert {"16px_points", "16px_flat", "16px_still_error"} <= set(results)
    output = tmp_path / "tiny.safetensors"
    main(["weights", "export", "--load-config", str(run.base_dir), "--output", str(output)])
    network = load_network(locate(str(output)), torch.float32, torch.device("cpu"))
    assert network.config == TINY
    trained = run.pipeline.model.network.state_dict()
    assert all(torch.equal(trained[name], value) for name, value in network.state_dict().items())
