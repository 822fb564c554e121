"""`ns-train lvsm` and `ns-train rayzer` on the pretended device."""

from dataclasses import replace

import pytest

from fm3d_plugins.estimators.rayzer.estimator import Rayzer


def run(config):
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return trainer


def expect_on_device(trainer, cameras):
    outputs = trainer.pipeline.model.eval().get_outputs_for_camera(cameras[:1])
    assert outputs and all(values.is_cuda for values in outputs.values())
    network = trainer.pipeline.model.network
    assert all(parameter.is_cuda for parameter in network.parameters())


@pytest.mark.parametrize("contexts", ["spread", "nearest"])
def test_lvsm_is_fine_tuned_and_scored_on_the_device(cuda, configured, lvsm_weights, contexts):
    model = {"weights": str(lvsm_weights), "image_size": 48, "contexts": contexts}
    model |= {"confidence": True, "first_size": 24, "varied": True, "samples_per_step": 2}
    config = configured("lvsm", steps=4, model=model)
    config.pipeline.test_poses = "photometric:1"
    trainer = run(config)
    expect_on_device(trainer, trainer.pipeline.datamanager.eval_dataset.cameras)


def test_lvsm_without_steps(cuda, configured, lvsm_weights):
    config = configured("lvsm", steps=0, model={"weights": str(lvsm_weights), "image_size": 48})
    assert config.pipeline.model.precision == "bfloat16"
    trainer = run(config)
    expect_on_device(trainer, trainer.pipeline.datamanager.eval_dataset.cameras)


def test_rayzer_predicts_and_is_scored_on_the_device(
    cuda, configured, rayzer_weights, tmp_path, monkeypatch
):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    config = configured("rayzer", steps=None)
    dataparser = config.pipeline.datamanager.dataparser
    estimator = Rayzer(weights=str(rayzer_weights), resolution=32)
    config.pipeline.datamanager.dataparser = replace(dataparser, estimator=estimator)
    config.pipeline.test_poses = "photometric:1"
    trainer = run(config)
    expect_on_device(trainer, trainer.pipeline.datamanager.eval_dataset.cameras)
