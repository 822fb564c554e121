"""Weights of a trained network as a file: the same network, and how it came to be."""

import json

import pytest
import torch
from safetensors import safe_open

from fm3d_plugins.checkpoints import locate
from fm3d_plugins.cli.main import main
from fm3d_plugins.lvsm.inference import load_network
from tests.network_training.conftest import TINY, tiny_config, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("run"), 2, image_sizes=(16,), size_shares=(1.0,))
    return train(config)


def test_exported_weights_are_the_network_and_tell_their_story(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    output = tmp_path / "tiny.safetensors"
    main(["weights", "export", "--load-config", str(run.base_dir), "--output", str(output)])
    network = load_network(locate(str(output)), torch.float32, torch.device("cpu"))
    assert network.config == TINY
    trained = run.pipeline.model.network.state_dict()
    assert all(torch.equal(trained[name], value) for name, value in network.state_dict().items())
    with safe_open(output, framework="pt") as file:
        story = json.loads(file.metadata()["provenance"])
    assert story["method"] == "lvsm-train" and story["steps"] == 2
    assert story["data"].startswith("synthetic rooms")
    # Two steps of four scenes of four views.
    assert story["images"] == 32 and story["scores"]["16px_psnr"] > 0
    assert story["options"]["datamanager"]["image_sizes"] == [16]
    assert story["options"]["optimizers"]["matrices"]["optimizer"]["lr"] == pytest.approx(4e-3)


def test_other_names_of_files_are_refused(run, tmp_path):
    with pytest.raises(SystemExit, match="ends in .safetensors"):
        main(["weights", "export", "--load-config", str(run.base_dir), "--output", "a.pt"])
