"""Perceptual distances from files of weights, and without."""

import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat

from fm3d_plugins.backends.metrics import Lpips
from fm3d_plugins.backends.perceptual import (
    matconvnet_arrays,
    perceptual_distance,
    read_vgg19,
)
from fm3d_plugins.nn.perceptual import CHANNELS, Vgg19, Vgg19Distance


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return {f"vgg.{name}": value for name, value in Vgg19().state_dict().items()}


def matconvnet_layers(weights):
    """Cells of structs as MatConvNet saves them: also of layers without weights."""
    names = ["1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "3_4"]
    names += ["4_1", "4_2", "4_3", "4_4", "5_1", "5_2"]
    layers = [{"name": "relu1_1", "type": "relu"}]
    for place, name in zip(CHANNELS, names, strict=True):
        pair = np.empty((1, 2), dtype=object)
        pair[0, 0] = weights[f"vgg.features.{place}.weight"].permute(2, 3, 1, 0).numpy()
        pair[0, 1] = weights[f"vgg.features.{place}.bias"].numpy()[None]
        layers.append({"name": f"conv{name}", "type": "conv", "weights": pair})
    cells = np.empty((1, len(layers)), dtype=object)
    cells[0, :] = layers
    return cells


def test_both_layouts_hold_the_same_network(weights, tmp_path):
    savemat(tmp_path / "vgg.mat", {"layers": matconvnet_layers(weights)})
    save_file(weights, tmp_path / "vgg.safetensors")
    for name in ("vgg.mat", "vgg.safetensors"):
        found = read_vgg19(tmp_path / name)
        assert set(found) == set(weights)
        assert all(found[key].equal(weights[key]) for key in weights)
        Vgg19Distance(found)


def nested_cells(depth):
    """A MATLAB file of one variable: a cell in a cell in a cell."""

    def header(name):
        dimensions = struct.pack("<6I", 6, 8, 1, 0, 5, 8) + struct.pack("<ii", 1, 1)
        return dimensions + struct.pack("<II", 1, len(name)) + name.ljust(-(-len(name) // 8) * 8)

    inner = len(header(b"")) + 8
    parts = [b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"]
    for level in range(depth):
        start = header(b"layers" if level == 0 else b"")
        parts.append(struct.pack("<II", 14, len(start) + inner * (depth - level - 1)) + start)
    return b"".join(parts)


def test_file_that_crashes_its_reader_gives_an_error(tmp_path):
    path = tmp_path / "deep.mat"
    path.write_bytes(nested_cells(300_000))
    with pytest.raises(ValueError, match=r"deep\.mat is a MATLAB file .*BrokenProcessPool"):
        read_vgg19(path)


def test_damaged_and_other_matlab_files_raise_without_a_crash(weights, tmp_path):
    path = tmp_path / "vgg.mat"
    savemat(path, {"layers": matconvnet_layers(weights)})
    whole = path.read_bytes()
    other = {"layers": np.zeros((3, 3))}, {"something": 1}, {"layers": [{"name": "conv1_1"}]}
    contents = [whole[:size] for size in (6, 127, 128, 200, 5000, len(whole) // 2)]
    contents.append(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    for variables in other:
        savemat(path, variables)
        contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(Exception):  # noqa: B017, PT011
            matconvnet_arrays(path)


def test_files_that_are_no_weights_are_named(tmp_path):
    path = tmp_path / "vgg.mat"
    path.write_bytes(b"<!doctype html> log in first")
    with pytest.raises(ValueError, match=r"vgg\.mat is a web page"):
        perceptual_distance("vgg19", path)
    with pytest.raises(FileNotFoundError, match="absent"):
        perceptual_distance("vgg19", tmp_path / "absent.mat")


def test_without_weights_one_line_says_that_the_loss_is_left_out(capsys):
    assert perceptual_distance("vgg19") is None
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("left out") == 1
    assert "imagenet-vgg-verydeep-19.mat" in said


def test_lpips_is_the_alternative(monkeypatch):
    """It takes images in [0, 1] and gives one distance per image."""

    class Network(torch.nn.Module):
        def forward(self, renders, targets, normalize):
            assert normalize and renders.shape == (6, 3, 4, 5)
            return (renders - targets).mean((1, 2, 3), keepdim=True)

    monkeypatch.setattr(Lpips, "model", lambda self: Network())
    renders = torch.full((2, 3, 3, 4, 5), 0.7, requires_grad=True)
    distance = perceptual_distance("lpips")(renders, torch.zeros(2, 3, 3, 4, 5))
    assert float(distance.detach()) == pytest.approx(0.7)
    distance.backward()
    assert renders.grad.abs().sum() > 0


def test_lpips_without_its_backbone_is_left_out_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("FM3D_OFFLINE", "1")
    assert perceptual_distance("lpips") is None
    assert capsys.readouterr().out.count("left out") == 1
