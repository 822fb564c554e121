"""Captured scenes in the place of drawn rooms."""

import copy
import json

import pytest
import torch
from safetensors import safe_open

from fm3d_plugins.cli.run_configs import read_run_config
from fm3d_plugins.cli.trained_weights import write_trained_weights
from fm3d_plugins.method_configs.lvsm_train import method
from tests.data.written_layouts import room, write_blended_mvs, write_nerfstudio
from tests.network_training.conftest import tiny_config, train


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two data sets; by their names, 2 of 6 scenes are held out at a share of one half."""
    root = tmp_path_factory.mktemp("data")
    for number in range(4):
        write_nerfstudio(root / "first" / f"scene{number}", room(number), with_depth=number != 0)
    write_blended_mvs(root / "second" / "scene4", room(4))
    write_blended_mvs(root / "second" / "scene5", room(5))
    (root / "first" / "broken").mkdir()
    (root / "first" / "broken" / "transforms.json").write_text("{")
    return root / "first", root / "second"


def manager_of(folders, **options):
    config = copy.deepcopy(method.config.pipeline.datamanager)
    config.data, config.more_data = folders[0], tuple(folders[1:])
    config.image_sizes, config.scenes_per_step, config.views_per_scene = (16,), 3, 3
    config.size_shares, config.held_out_share, config.num_steps = (1.0,), 0.5, 100
    for name, value in options.items():
        setattr(config, name, value)
    return config.setup(device="cpu")


def lenses(batches):
    """They tell the rooms apart."""
    return {round(float(f), 3) for batch in batches for f in batch.intrinsics[:, 0, 0, 0]}


def test_scenes_to_score_with_are_never_trained_on(folders, capsys):
    manager = manager_of(folders, aspects=(1.0,))
    held_out = list(manager.held_out(16))
    training = [manager.next_batch(step) for step in range(6)]
    assert lenses(held_out).isdisjoint(lenses(training))
    assert len(lenses(held_out)) + len(lenses(training)) == 6
    said = capsys.readouterr().out
    assert "held out" in said and "1 scene (cannot be read: " in said
    # The same scenes in the same views each time, and at most as many as were asked for.
    again = list(manager.held_out(16))
    assert torch.equal(held_out[0].images, again[0].images)
    few = manager_of(folders, held_out_scenes=1)
    assert sum(len(batch) for batch in few.held_out(16)) == 1


def test_batches_of_a_resumed_run_are_those_of_a_whole_one(folders):
    whole, resumed = manager_of(folders), manager_of(folders)
    batches = [whole.next_batch(step) for step in range(4)]
    assert torch.equal(batches[3].images, resumed.next_batch(3).images)
    assert batches[3].images.shape[-2:] == (whole.shape_at(3).height, whole.shape_at(3).width)


def test_report_lies_where_it_is_asked_for(folders, tmp_path):
    manager_of(folders).keep_report(tmp_path)
    (line,) = (tmp_path / "skipped_scenes.txt").read_text().splitlines()
    reason, name, detail = line.split("\t")
    assert reason == "cannot be read" and name.endswith("broken/transforms.json")
    assert "is no JSON" in detail


def test_run_on_captured_scenes_is_trained_scored_and_read_again(folders, tmp_path):
    config = tiny_config(
        tmp_path, 2, data=folders[0], more_data=(folders[1],), held_out_share=0.5,
        image_sizes=(16,), size_shares=(1.0,),
    )  # fmt: skip
    trainer = train(config)
    assert (trainer.base_dir / "eval.json").is_file()
    assert "cannot be read" in (trainer.base_dir / "skipped_scenes.txt").read_text()
    assert trainer.base_dir.parts[-3] == "first"
    output = tmp_path / "own.safetensors"
    write_trained_weights(trainer.base_dir, output)
    with safe_open(output, framework="pt") as file:
        story = json.loads(file.metadata()["provenance"])
    assert story["data"] == "captured scenes: first, second"
    saved = read_run_config(trainer.base_dir / "config.yml")
    assert saved.pipeline.datamanager.folders() == folders
