"""RayZer in training: true cameras at first, photos alone later, and scores that mean something."""

import copy
import csv
import json
from dataclasses import replace

import pytest
import torch

from fm3d_plugins.cell_matching.losses import cameras_of
from fm3d_plugins.checkpoints import locate
from fm3d_plugins.cli.main import main
from fm3d_plugins.data.synthetic import EndlessRooms
from fm3d_plugins.estimators.rayzer.estimator import Rayzer
from fm3d_plugins.geometry.poses import pose_from_rotation_translation, so3_exp
from fm3d_plugins.lvsm.network import LVSM, LVSMConfig
from fm3d_plugins.method_configs.rayzer_train import method
from fm3d_plugins.nn.muon import Muon
from fm3d_plugins.rayzer.inference import load_network
from fm3d_plugins.rayzer.network import RayZer, RayZerConfig, RayZerOutputs
from fm3d_plugins.rayzer.training import (
    RayzerTrainingModel,
    RayzerTrainingModelConfig,
    given_cameras,
    predicted,
    rotation_correlation,
    split,
    take_parts,
)
from tests.network_training.conftest import tiny_config, train

STEPS = 4
TINY = RayZerConfig(
    width=32, head_width=16, patch_size=4, camera_depth=1, scene_depth=1, decoder_depth=1,
    num_latents=8, num_views=4, num_contexts=2, correlation=True,
)  # fmt: skip
DATA = {"image_sizes": (16,), "size_shares": (1.0,), "views_per_scene": 4}


def configured(output):
    config = tiny_config(output, STEPS, TINY, method, **DATA)
    config.pipeline.model.warm_start = 0.5
    return config


def rows_of(trainer):
    with (trainer.base_dir / "steps.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def state_of(trainer):
    path = trainer.checkpoint_dir / f"step-{STEPS - 1:09d}.ckpt"
    return torch.load(path, weights_only=True)["pipeline"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(configured(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def batch():
    return EndlessRooms(2).batch(0, num_scenes=3, num_views=4, height=16, width=16)


def test_true_cameras_are_told_in_the_warm_start_alone(run):
    """Truth: losses of cameras and matches exist in the first half; what they alone teach rests."""
    rows = rows_of(run)
    for name in ("camera", "matching", "estimate"):
        assert [row[name] == "nan" for row in rows] == [False, False, True, True]
    model, batch = run.pipeline.model, run.pipeline.datamanager.batch(STEPS - 1)
    for step, learns in ((1, True), (2, False)):
        model.network.zero_grad()
        model.loss(model.network, batch, step)[0].backward()
        path = [p.grad for p in model.network.matching.parameters()]
        assert any(grad is not None for grad in path) == learns
        assert model.network.pose_predictor.rel_head[2].weight.grad.abs().max() > 0


def test_a_run_that_is_gone_on_with_in_the_second_half_equals_one_without_a_stop(run, tmp_path):
    config = configured(tmp_path)
    first = copy.deepcopy(config)
    first.steps_per_save, first.save_only_latest_checkpoint = 1, False
    trainer = train(first)
    for path in trainer.checkpoint_dir.glob("*.ckpt"):
        if path.stem != "step-000000002":
            path.unlink()
    config.load_dir = trainer.checkpoint_dir
    resumed = train(config)
    expected, found = state_of(run), state_of(resumed)
    for name, value in expected.items():
        if not name.endswith("seconds"):
            assert torch.equal(found[name], value), name
    assert rows_of(resumed) == rows_of(run)


class Oracle(torch.nn.Module):
    """Says the true cameras, and photos that are the better the nearer cameras are to them."""

    def __init__(self, batch, order):
        super().__init__()
        self.batch, self.order = batch, order

    def forward(self, images, context, targets, given=None):
        truth = cameras_of(self.batch.of_views(self.order))
        true = given_cameras(truth, self.order, self.batch)
        height, width = images.shape[-2:]
        used = true if given is None else given
        off = (used.world_from_camera - true.world_from_camera).square().mean((-2, -1))
        shade = 0.01 + off[:, targets, None, None, None]
        cameras = Said(true.world_from_camera, true.intrinsics)
        return RayZerOutputs(cameras, images[:, targets] + shade)


class Said:
    """Cameras in the terms of `PredictedCameras`."""

    def __init__(self, poses, matrices):
        self.poses, self.matrices = poses, matrices

    def world_from_camera(self):
        return self.poses

    def intrinsics(self, height, width):
        return self.matrices


def test_a_network_that_says_the_truth_has_perfect_scores(run, batch):
    """Truth: an offset of 0.01 is 40 dB; cameras at the canonical one lose what the motion is."""
    model = run.pipeline.model
    order = model.network.canonical_first(batch.num_views)
    scores = model.score(Oracle(batch, order), batch).metrics
    torch.testing.assert_close(scores["psnr"], torch.full((3,), 40.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(scores["true"], scores["psnr"])
    assert (scores["above_identity"] > 0).all()
    torch.testing.assert_close(scores["rotation_correlation"], torch.ones(3), atol=1e-4, rtol=0)
    assert scores["auc30"].min() > 99 and scores["rotation"].max() < 0.1
    assert scores["rotation_identity"].min() > 0.1


def test_correlation_is_one_of_proportional_turns_and_zero_of_none():
    turns = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    turns[:, 2] = 0
    poses = [pose_from_rotation_translation(so3_exp(f * turns), torch.zeros(2, 4, 3))
             for f in (1.0, 0.5, 0.0, -1.0)]  # fmt: skip
    for own, expected in zip(poses, (1.0, 1.0, 0.0, -1.0), strict=True):
        found = rotation_correlation(own, poses[0], 2)
        torch.testing.assert_close(found, torch.full((2,), expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("step", range(9))
def test_the_outermost_views_are_contexts_at_three_steps_of_four(step):
    context, targets = split(5, 3, step)
    assert sorted(context + targets) == list(range(5)) and len(context) == 3
    assert step % 4 == 0 or {0, 4} <= set(context)


def test_predictions_are_added_to_cameras_from_matches(batch):
    """Truth: while the heads are zero, cameras are those of the matches, in the photos' order."""
    torch.manual_seed(0)
    network = RayZer(TINY).eval()
    for parameter in network.pose_predictor.parameters():
        parameter.data.zero_()
    outputs = predicted(network, batch, [0, 2], [1, 3])
    order = network.canonical_first(4)
    assert order == [2, 0, 1, 3] and outputs.matched is not None
    ours = outputs.cameras.estimate(batch.size).of_views(order)
    expected = outputs.matched.estimate
    torch.testing.assert_close(ours.rotation, expected.rotation, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.center, expected.center)
    torch.testing.assert_close(ours.log_tangent, expected.log_tangent, atol=1e-5, rtol=1e-5)
    poses = outputs.cameras.world_from_camera()[:, 2]
    torch.testing.assert_close(poses, torch.eye(4).expand_as(poses))


def test_the_option_only_adds_weights_of_its_own():
    plain = RayZer(replace(TINY, correlation=False)).state_dict()
    other = RayZer(TINY).state_dict()
    added = {n for n in other if n.startswith(("matching.", "first_embedder."))}
    assert added and set(other) - set(plain) == added and set(plain) <= set(other)
    with torch.device("meta"):
        assert RayZer().matching is None


def test_a_fixed_small_set_is_learnt(batch):
    """Truth: the squared error of the same scenes falls to half, through predicted cameras."""
    torch.manual_seed(0)
    batch = batch.of_scenes(slice(2))
    network = RayZer(replace(TINY, correlation=False))
    names, groups = network.matrix_names(), {True: [], False: []}
    for name, parameter in network.named_parameters():
        groups[name in names].append(parameter)
    optimizers = Muon(groups[True], lr=0.02), torch.optim.AdamW(groups[False], lr=3e-3)
    errors = []
    for _ in range(40):
        renders = predicted(network, batch, [0, 3], [1, 2]).renders
        error = (renders - batch.images[:, [1, 2]]).square().mean()
        errors.append(float(error.detach()))
        error.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert errors[-1] < errors[0] / 2


def test_what_fits_of_other_networks_is_taken():
    """Truth: by name and shape; LVSM's blocks become those of the decoder, no other stack's."""
    torch.manual_seed(0)
    lvsm = LVSM(LVSMConfig(width=32, head_width=16, patch_size=4, decoder_depth=2))
    others = {lvsm.published_name(name): value for name, value in lvsm.state_dict().items()}
    others |= {"matching.sharpness": torch.tensor(7.0), "matching.nowhere": torch.zeros(2)}
    network = RayZer(TINY)
    before = copy.deepcopy(network)
    take_parts(network, others)
    decoder, block = network.transformer_decoder[0], lvsm.transformer_decoder[0]
    for ours, theirs in zip(decoder.parameters(), block.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert network.matching.sharpness == 7 and network.matching.nowhere.shape == ()
    same = zip(network.transformer_encoder.parameters(), before.transformer_encoder.parameters(),
               strict=True)  # fmt: skip
    assert all(torch.equal(ours, theirs) for ours, theirs in same)
    with pytest.raises(ValueError, match="No part fits"):
        take_parts(network, {"something": torch.zeros(3)})


def test_a_run_is_scored_exported_and_used(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    results = json.loads((run.base_dir / "eval.json").read_text())["results"]
    for name in ("psnr", "above_identity", "rotation_correlation", "auc30_first"):
        assert f"16px_{name}" in results and f"16px_{name}_error" in results
    assert (run.base_dir / "held_out" / "16px.png").is_file()
    output = tmp_path / "tiny.safetensors"
    main(["weights", "export", "--load-config", str(run.base_dir), "--output", str(output)])
    network = load_network(locate(str(output)), torch.float32, torch.device("cpu"))
    assert network.config == TINY
    model = run.pipeline.model
    assert isinstance(model, RayzerTrainingModel)
    photos = EndlessRooms(9).batch(0, 1, 4, 16, 16)
    with torch.no_grad():
        ours, theirs = (predicted(n, photos, [0, 3], [1, 2]) for n in (model.scored, network))
    torch.testing.assert_close(ours.cameras.numbers, theirs.cameras.numbers)
    torch.testing.assert_close(ours.renders, theirs.renders)
    assert Rayzer(weights=str(output)).size() == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warm_start": 1.5}, "a share from 0 to 1"),
        ({"warm_start": 0.0}, "Matches are learnt from true correspondences"),
    ],
)
def test_options_that_teach_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RayzerTrainingModelConfig(**options).resolve("cpu", 10)
