"""Networks in training: resumed runs equal whole ones, losses fall, options mean what they say."""

import copy
import csv
import json

import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup

from fm3d_plugins.data.synthetic import EndlessRooms
from fm3d_plugins.lvsm.network import LVSM
from fm3d_plugins.lvsm.training import ends, predicted, split
from fm3d_plugins.network_training.model import summarized
from fm3d_plugins.network_training.optimizers import warm_up_decay
from fm3d_plugins.network_training.trainer import score_sentence
from fm3d_plugins.nn.muon import Muon
from tests.network_training.conftest import TINY, tiny_config, train

STEPS = 6


def state_of(trainer, step):
    path = trainer.checkpoint_dir / f"step-{step:09d}.ckpt"
    return torch.load(path, weights_only=True)


def rows_of(trainer):
    with (trainer.base_dir / "steps.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("whole"), STEPS)
    config.pipeline.model.ema_decay = 0.9
    return train(config)


def test_a_run_that_is_gone_on_with_equals_one_without_a_stop(whole, tmp_path):
    config = tiny_config(tmp_path, STEPS)
    config.pipeline.model.ema_decay = 0.9
    first = copy.deepcopy(config)
    first.steps_per_save, first.save_only_latest_checkpoint = 2, False
    trainer = train(first)
    # As if it had been killed after step 2: later checkpoints are gone, rows of steps are not.
    (trainer.checkpoint_dir / "step-000000002.ckpt").rename(tmp_path / "kept")
    for path in trainer.checkpoint_dir.glob("*.ckpt"):
        path.unlink()
    (tmp_path / "kept").rename(trainer.checkpoint_dir / "step-000000002.ckpt")
    config.load_dir = trainer.checkpoint_dir
    resumed = train(config)
    expected, found = state_of(whole, STEPS - 1), state_of(resumed, STEPS - 1)
    assert found["step"] == STEPS - 1
    for name, value in expected["pipeline"].items():
        if not name.endswith("seconds"):
            assert torch.equal(found["pipeline"][name], value), name
    for group in ("matrices", "others"):
        ours, theirs = found["optimizers"][group]["state"], expected["optimizers"][group]["state"]
        assert ours.keys() == theirs.keys()
        for number, parts in theirs.items():
            for name, value in parts.items():
                assert torch.equal(torch.as_tensor(ours[number][name]), torch.as_tensor(value))
    assert rows_of(resumed) == rows_of(whole)


def test_a_run_ends_with_scores_beside_trivial_ones_and_their_errors(whole):
    results = json.loads((whole.base_dir / "eval.json").read_text())["results"]
    for size in (16, 24):
        for name in ("psnr", "copy", "mean_color", "wrong_pose", "above_copy", "wins"):
            assert f"{size}px_{name}" in results and f"{size}px_{name}_error" in results
        difference = results[f"{size}px_psnr"] - results[f"{size}px_copy"]
        assert results[f"{size}px_above_copy"] == pytest.approx(difference, abs=1e-4)
    assert (whole.base_dir / "held_out" / "24px.png").is_file()
    rows = rows_of(whole)
    assert [int(row["step"]) for row in rows] == list(range(STEPS))
    sizes = [int(row["height"]) * int(row["width"]) for row in rows]
    # 16 pixels in the first half, 24 in the second, whatever the aspect.
    assert max(sizes[:3]) < 400 <= min(sizes[3:])


def test_scores_of_a_checkpoint_are_those_of_the_run(whole):
    results = json.loads((whole.base_dir / "eval.json").read_text())["results"]
    torch.manual_seed(5)
    _, pipeline, _, step = eval_setup(whole.base_dir / "config.yml", test_mode="test")
    assert step == STEPS - 1
    again = pipeline.get_average_eval_image_metrics()
    assert again == {name: pytest.approx(value, abs=1e-6) for name, value in results.items()}


def test_a_fixed_small_set_is_learnt():
    """Truth: the squared error of the same four scenes falls to a third, below copying."""
    torch.manual_seed(0)
    network = LVSM(TINY)
    batch = EndlessRooms(3).batch(0, num_scenes=4, num_views=3, height=16, width=16)
    names = network.matrix_names()
    groups = {True: [], False: []}
    for name, parameter in network.named_parameters():
        groups[name in names].append(parameter)
    optimizers = Muon(groups[True], lr=0.02), torch.optim.AdamW(groups[False], lr=3e-3)
    errors = []
    for _ in range(60):
        error = (predicted(network, batch, [0, 2], [1]) - batch.images[:, [1]]).square().mean()
        errors.append(float(error.detach()))
        error.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert errors[-1] < errors[0] / 3


def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, 1, image_sizes=(16,), size_shares=(1.0,))
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    model = trainer.pipeline.model
    before = copy.deepcopy(model.network.state_dict())
    usual = model.loss

    def broken(*arguments):
        loss, metrics = usual(*arguments)
        return loss * torch.nan, metrics

    monkeypatch.setattr(model, "loss", broken)
    trainer.train()
    assert all(
        torch.equal(before[name], value) for name, value in model.network.state_dict().items()
    )
    assert [row["is_taken"] for row in rows_of(trainer)] == ["0"]


def test_the_learning_rate_rises_stays_and_falls():
    shares = [warm_up_decay(step, 100, 0.1, 0.3, 0.02) for step in range(101)]
    assert shares[0] == pytest.approx(0.1) and shares[9:70] == [pytest.approx(1.0)] * 61
    assert shares[85] == pytest.approx(0.51) and shares[100] == pytest.approx(0.02)
    assert sorted(shares[70:], reverse=True) == shares[70:]


@pytest.mark.parametrize("step", range(9))
def test_every_view_is_context_or_target(step):
    context, targets = split(5, 2, step)
    assert sorted(context + targets) == list(range(5)) and len(context) == 2
    assert ends(4, 2) == ([0, 3], [1, 2]) and ends(5, 3) == ([0, 2, 4], [1, 3])


def test_standard_errors_are_those_of_the_mean():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    # Sample variance 5/3, over 4 scenes.
    found = summarized({"psnr": values})
    assert found == {"psnr": 2.5, "psnr_error": pytest.approx((5 / 12) ** 0.5)}
    # One scene alone has no spread; what is not known does not count.
    assert summarized({"psnr": values[:1]}) == {"psnr": 1.0}
    unknown = torch.tensor([torch.nan, 7.0])
    assert summarized({"psnr": unknown, "none": unknown[:1]}) == {"psnr": 7.0}


def test_a_score_is_said_with_its_error_if_it_has_one():
    scores = {"match_error": 1.0, "match_error_error": 0.5, "psnr": 20.0}
    assert score_sentence(scores) == "match_error 1.000 +- 0.500, psnr 20.000"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_sizes": (18,), "size_shares": (1.0,)}, "multiples of the network's patches"),
        ({"size_shares": (1.0,)}, "a share above 0 for each"),
        ({"scenes_per_step": 0}, "at least one of all else"),
        ({"aspects": (9.0,)}, "each from 0.25 to 4"),
    ],
)
def test_options_that_make_no_batch_are_refused_before_anything_begins(tmp_path, change, message):
    with pytest.raises(SystemExit, match=message):
        tiny_config(tmp_path, 1, **change).set_timestamp()
