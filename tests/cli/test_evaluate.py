"""`fm3d evaluate`: which form is meant, and weights scored by a paper's protocol."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fm3d_plugins.cli import main as cli
from fm3d_plugins.data.protocols import PROTOCOLS
from fm3d_plugins.nn.sizes import to_text
from fm3d_plugins.nn.view_synthesis import published_name
from fm3d_plugins.rayzer.inference import METADATA_KEY
from fm3d_plugins.rayzer.network import RayZer, RayZerConfig

SIDE = 32
"""Of photos and, in these tests, of the protocols' views."""


@pytest.fixture(autouse=True)
def small_and_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("FM3D_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    for name, rules in PROTOCOLS.items():
        monkeypatch.setitem(PROTOCOLS, name, replace(rules, image_size=SIDE))


def entry(name, num_frames):
    """A scene of a chunk: photos of one colour each, by a camera that moves and turns."""
    photos, cameras = [], torch.zeros(num_frames, 18)
    for frame in range(num_frames):
        stream = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), (20 * frame % 256, 90, 200)).save(stream, "PNG")
        photos.append(torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8))
        cosine, sine = np.cos(0.05 * frame), np.sin(0.05 * frame)
        rows = [cosine, 0, sine, 0.1 * frame, 0, 1, 0, 0.2, -sine, 0, cosine, 0.3]
        cameras[frame] = torch.tensor([0.9, 0.9, 0.5, 0.5, 0, 0, *rows])
    return {"key": name, "images": photos, "cameras": cameras}


@pytest.fixture
def rooms(tmp_path):
    """A chunk of four scenes of six frames, and an index of three of them."""
    data, index = tmp_path / "000000.torch", tmp_path / "index.json"
    torch.save([entry(f"room{number}", 6) for number in range(4)], data)
    views = {"context": [0, 5], "target": [1, 2, 4]}
    index.write_text(json.dumps({"room0": views, "room1": None, "room2": views, "room3": views}))
    return data, index


@pytest.fixture
def rayzer_of_24(tmp_path):
    """A small RayZer for 24 photos, random."""
    torch.manual_seed(0)
    sizes = {"camera_depth": 1, "scene_depth": 1, "decoder_depth": 1, "num_latents": 4}
    network = RayZer(RayZerConfig(32, 16, **sizes))
    weights = {published_name(name): value for name, value in network.state_dict().items()}
    path = tmp_path / "rayzer.safetensors"
    save_file(weights, path, {METADATA_KEY: to_text(network.config)})
    return path


def evaluate(*words):
    cli.main(["evaluate", *(str(word) for word in words)])


def test_lvsm_is_scored_beside_the_published_scores(rooms, lvsm_weights, tmp_path, capsys):
    data, index = rooms
    path = tmp_path / "scores.json"
    evaluate("--protocol", "re10k-2view", "--data", data, "--index", index,
             "--weights", lvsm_weights, "--output-path", path)  # fmt: skip
    results = json.loads(path.read_text())
    assert [scene["scene"] for scene in results["scenes"]] == ["room0", "room2", "room3"]
    assert results["skipped"] == {"not in the index, or null there": 1}
    assert results["missing_from_data"] == []
    for metric in ("psnr", "ssim"):
        mean = np.mean([scene["metrics"][metric] for scene in results["scenes"]])
        assert results["means"][metric] == pytest.approx(mean)
    assert "lpips_vgg" not in results["means"]
    said = capsys.readouterr().out
    assert said.count("LPIPS (vgg) is left out") == 1
    (paper,) = (line for line in said.splitlines() if "LVSM decoder-only" in line)
    assert all(number in paper for number in ("29.67", "0.906", "0.098", "README"))
    (ours,) = (line for line in said.splitlines() if "measured here" in line)
    assert f"{results['means']['psnr']:.2f}" in ours and f"{results['means']['ssim']:.3f}" in ours
    assert "Scenes scored: 3; left out: 1 not in the index" in said
    assert "not the whole data set" not in said and "not the paper's" not in said


def test_what_is_not_the_papers_protocol_is_said(rooms, lvsm_weights, tmp_path, capsys):
    data, index = rooms
    words = ("--protocol", "re10k-2view", "--data", data, "--index", index,
             "--weights", lvsm_weights)  # fmt: skip
    evaluate(*words, "--limit", 1)
    said = capsys.readouterr().out
    assert "Scenes scored: 1;" in said and "this is not the paper's protocol" in said
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"elsewhere": content["room0"]}))
    evaluate(*words)
    assert "The data lack 1 scenes of the index" in capsys.readouterr().out


def test_rayzer_is_scored_with_frames_chosen_without_an_index(tmp_path, rayzer_of_24, capsys):
    torch.save([entry("long", 70), entry("short", 30)], tmp_path / "chunk.torch")
    path = tmp_path / "scores.json"
    evaluate("--protocol", "dl3dv-16-8", "--data", tmp_path, "--weights", rayzer_of_24,
             "--precision", "float32", "--device", "cpu", "--output-path", path)  # fmt: skip
    results = json.loads(path.read_text())
    (scene,) = results["scenes"]
    assert (scene["scene"], len(scene["context"]), len(scene["targets"])) == ("long", 16, 8)
    assert results["means"] == pytest.approx(scene["metrics"])
    assert results["skipped"] == {"too short": 1}
    said = capsys.readouterr().out
    assert "25.59" in said and "25.47" in said and "24.36" in said
    assert "Frames were chosen without an index: they are not the paper's." in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--load-config", "a.yml", "--protocol", "re10k-2view"], "given --load-config and --pro"),
        (["--load_config=a.yml", "--protocol=re10k-2view"], "Give one of the two"),
        (["--data", "x"], "neither --load-config nor --protocol"),
        (["--load-config", "nowhere.yml"], "There is no nowhere.yml"),
        (["--protocol", "re10k-2view", "--data", "x"], "No evaluation index was given"),
        (["--protocol", "dl3dv-16-8", "--data", "nowhere.txt"], "nowhere.txt is absent"),
        (["--protocol", "dl3dv-16-8", "--data", "x", "--limit", "0"], "--limit is 0"),
    ],
)
def test_what_cannot_be_scored_ends_with_one_message(words, said):
    with pytest.raises(SystemExit, match=said):
        evaluate(*words)


def test_weights_that_may_not_be_used_commercially_are_refused(rooms, lvsm_weights):
    data, index = rooms
    with pytest.raises(SystemExit, match="licence of .* is unknown, and commercial use was asked"):
        evaluate("--protocol", "re10k-2view", "--data", data, "--index", index,
                 "--weights", lvsm_weights, "--commercial-only")  # fmt: skip


def test_each_form_takes_its_own_options_only(capsys):
    evaluate("--help")
    assert "--protocol NAME --data PATH" in capsys.readouterr().out
    for form, own, other in (
        ("--load-config", "--test-poses", "--limit"),
        ("--protocol", "--limit", "--test-poses"),
    ):
        with pytest.raises(SystemExit):
            evaluate(form, "--help")
        said = capsys.readouterr().out
        assert own in said and other not in said
