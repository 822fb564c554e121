"""VGGT in training: what it lowers falls, what it says beside trivial answers is right."""

import json
from dataclasses import replace

import pytest
import torch

from fm3d_plugins.checkpoints import locate
from fm3d_plugins.cli.main import main
from fm3d_plugins.data.synthetic import EndlessRooms
from fm3d_plugins.method_configs.vggt_train import method
from fm3d_plugins.network_training.model import summarized
from fm3d_plugins.vggt.inference import load_network
from fm3d_plugins.vggt.losses import GroundTruth, camera_loss, normalize, total_loss
from fm3d_plugins.vggt.network import VGGTOutputs
from fm3d_plugins.vggt.pose_encoding import encode
from fm3d_plugins.vggt.training import SmallVGGT, VggtTrainingModel, standing
from tests.network_training.conftest import tiny_config, train

TINY = SmallVGGT(width=32, depth=2, head_width=16, dense_features=8, camera_rounds=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    sizes = {"image_sizes": (16,), "size_shares": (1.0,)}
    return train(tiny_config(tmp_path_factory.mktemp("run"), 2, TINY, method, **sizes))


@pytest.fixture(scope="module")
def batch():
    return EndlessRooms(2).batch(0, num_scenes=3, num_views=3, height=16, width=24)


class Oracle(torch.nn.Module):
    """Says the truth, in the first camera's frame and another unit."""

    def __init__(self, truth, unit=1.0):
        super().__init__()
        self.truth, self.unit = truth, unit

    def forward(self, images, heads):
        size = (images.shape[-2], images.shape[-1])
        poses = self.truth.camera_from_world.clone()
        poses[..., :3, 3] *= self.unit
        encodings = encode(poses, self.truth.intrinsics, size)
        depth = self.unit * self.truth.depth
        return VGGTOutputs([encodings], depth, torch.ones_like(depth))


def test_a_network_that_says_the_truth_has_perfect_scores(run, batch):
    """Truth: no error, in whatever unit; standing still has that of the true rotations."""
    truth, _ = normalize(GroundTruth.of(batch))
    scores = run.pipeline.model.score(Oracle(truth, unit=3.0), batch).metrics
    # AUC counts errors below whole degrees: below 0.02 of rounding, all are.
    assert scores["auc30"].tolist() == [pytest.approx(100)] * 3
    assert scores["rotation"].max() < 0.1 < scores["rotation_identity"].min()
    assert scores["abs_rel"].max() < 1e-5 < scores["abs_rel_constant"].min()


def test_holes_in_depth_do_not_count_in_scores(run, batch):
    """Truth: what says the truth has no error where depth is known, whatever stands elsewhere."""
    is_valid = batch.is_valid.clone()
    is_valid[:, :, :9] = False
    is_valid[2] = False
    holey = replace(batch, depth=torch.where(is_valid, batch.depth, 0), is_valid=is_valid)
    truth, _ = normalize(GroundTruth.of(batch))
    scores = run.pipeline.model.score(Oracle(truth), holey)
    assert scores.metrics["abs_rel"][:2].max() < 1e-5
    assert scores.metrics["abs_rel"].isnan().tolist() == [False, False, True]
    assert scores.pictures.isfinite().all()
    assert summarized(scores.metrics)["abs_rel"] < 1e-5


def test_cameras_that_stand_still_are_as_good_as_the_identity(run, batch):
    truth, _ = normalize(GroundTruth.of(batch))
    encodings = standing(truth)
    ours = camera_loss([encodings], truth)
    assert ours.fov == 0 and ours.rotation > 0 and ours.translation > 0
    # The first camera is the world.
    first = camera_loss([encodings[:, :1]], normalize(GroundTruth.of(batch.of_views([0])))[0])
    assert float(first.total) < 1e-5


def test_a_fixed_small_set_is_learnt(batch):
    """Truth: on one batch, the loss and its cameras' part fall to less than half."""
    torch.manual_seed(0)
    pair = batch.of_views([0, 1])
    network = replace(TINY, correlation=False).build()
    truth, _ = normalize(GroundTruth.of(pair))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    totals, cameras = [], []
    for _ in range(25):
        losses = total_loss(network(pair.images, heads=("camera", "depth")), truth)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        totals.append(float(losses.total.detach()))
        cameras.append(float(losses.camera.total.detach()))
    assert totals[-1] < totals[0] / 2 and cameras[-1] < cameras[0] / 2


def test_a_run_is_scored_and_exported(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    results = json.loads((run.base_dir / "eval.json").read_text())["results"]
    assert {"16px_auc30", "16px_rotation_identity", "16px_abs_rel_error"} <= set(results)
    output = tmp_path / "tiny.safetensors"
    main(["weights", "export", "--load-config", str(run.base_dir), "--output", str(output)])
    network = load_network(locate(str(output)), torch.float32, torch.device("cpu"))
    model = run.pipeline.model
    assert isinstance(model, VggtTrainingModel)
    images = EndlessRooms(9).batch(0, 1, 2, 16, 16).images
    with torch.no_grad():
        ours, theirs = model.scored(images, heads=("camera",)), network(images, heads=("camera",))
    torch.testing.assert_close(ours.pose_encodings[-1], theirs.pose_encodings[-1])
