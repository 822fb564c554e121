"""DUSt3R in training: what it lowers falls, the truth has no error, the export is the network."""

import json
from dataclasses import replace

import pytest
import torch

from fm3d_plugins.checkpoints import locate
from fm3d_plugins.cli.main import main
from fm3d_plugins.data.synthetic import EndlessRooms
from fm3d_plugins.dust3r.inference import load_network
from fm3d_plugins.dust3r.network import DUSt3R, DUSt3RConfig, PairPrediction
from fm3d_plugins.dust3r.training import NOWHERE, take_matching
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.method_configs.dust3r_train import method
from fm3d_plugins.vggt.training import SmallVGGT
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
    correlation=True,
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
    assert scores["mean"].min() > 0.01
    # The camera that the true points tell; AUC counts errors below whole degrees.
    assert scores["auc30"].min() > 90 and scores["rotation"].max() < 1
    assert scores["auc30_identity"].max() == 0


def test_holes_in_depth_do_not_count_in_scores(run, batch):
    """Truth: without half of one photo's pixels, and all of one scene's, the truth has no error."""
    is_valid = batch.is_valid.clone()
    is_valid[0, 1, :8] = False
    is_valid[2] = False
    scores = run.pipeline.model.score(Oracle(batch), replace(batch, is_valid=is_valid)).metrics
    assert scores["points"][:2].max() < 1e-5 and scores["points"].isnan()[2]
    assert scores["flat"][:2].min() > 0.05 and scores["mean"][:2].isfinite().all()


def test_a_fixed_small_set_is_learnt(run, batch):
    """Truth: on one batch, the plain error of the points falls below two thirds."""
    torch.manual_seed(0)
    network = DUSt3R(**vars(replace(TINY, correlation=False)))
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
    assert {"16px_points", "16px_mean", "16px_still_error", "16px_auc30_first"} <= set(results)
    output = tmp_path / "tiny.safetensors"
    main(["weights", "export", "--load-config", str(run.base_dir), "--output", str(output)])
    network = load_network(locate(str(output)), torch.float32, torch.device("cpu"))
    assert network.config == TINY
    trained = run.pipeline.model.scored.state_dict()
    assert all(torch.equal(trained[name], value) for name, value in network.state_dict().items())


def test_a_matching_is_taken_from_another_network(run):
    """Truth: all of it but what the other made of its own tokens; nowhere is calibrated anew."""
    other = SmallVGGT(width=32, depth=2, head_width=16).build()
    weights = {name: torch.randn_like(value) for name, value in other.state_dict().items()}
    network = DUSt3R(**vars(TINY))
    tokens = network.matching.path.features.tokens.weight.clone()
    take_matching(network, weights)
    own = network.matching.path
    assert torch.equal(own.features.pixels.weight, weights["matching.features.pixels.weight"])
    assert torch.equal(own.pose.queries, weights["matching.pose.queries"])
    assert torch.equal(own.features.tokens.weight, tokens)
    torch.testing.assert_close(own.nowhere, NOWHERE * own.sharpness.exp())
    with pytest.raises(ValueError, match="absent or of another size"):
        take_matching(network, {})
    with pytest.raises(ValueError, match="does not match"):
        take_matching(DUSt3R(**vars(replace(TINY, correlation=False))), weights)
