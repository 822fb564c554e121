"""Weights on this computer are found before anything is contacted, and their licence is said."""

import hashlib
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from fm3d_plugins.checkpoints.locating import find, is_offline, locate

CONTENT = save({"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5])})
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to reach another computer fails the test."""

    def refuse(*arguments, **_):
        pytest.fail(f"the network was contacted: {arguments}")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def placed(tiny, cache):
    """The file where the message of absent weights says to put it."""
    return put(cache / "weights/fm3d-test--tiny/model.safetensors")


def test_placed_weights_are_found_without_contacting_anything(no_network, placed, tiny):
    file = locate("fm3d-test/tiny")
    assert (file.path, file.source, file.sha256) == (placed, "weights folder", SHA256)
    assert file.licence == tiny.licence


def test_absent_weights_offline_give_one_message_with_file_source_place_and_alternatives(
    no_network, tiny, cache, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError) as caught:
        locate("fm3d-test/tiny")
    message = str(caught.value)
    assert "https://huggingface.co/fm3d-test/tiny/resolve/main/model.safetensors" in message
    assert str(cache / "weights/fm3d-test--tiny/model.safetensors") in message
    assert "model.pt" in message
    assert "sfm, which needs no weights." in message


def test_message_about_gated_weights_says_where_the_terms_are(
    no_network, tiny_commercial, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        FileNotFoundError, match="terms:\n +https://huggingface.co/fm3d-test/tiny-commercial\n"
    ):
        locate("fm3d-test/tiny-commercial")


@pytest.mark.parametrize(("word", "expected"), [("1", True), ("true", True), ("0", False)])
def test_environment_switches_the_network_off(cache, monkeypatch, word, expected):
    assert not is_offline()
    monkeypatch.setenv("HF_HUB_OFFLINE", word)
    assert is_offline() is expected


def test_a_local_file_is_found_with_unknown_licence(tmp_path, cache):
    path = put(tmp_path / "mine.safetensors")
    file = locate(path)
    assert (file.path, file.source, file.sha256) == (path, "file", SHA256)
    assert file.licence.commercial is None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache", "mine.safetensors"]


def test_a_folder_stands_for_the_only_weights_in_it(tmp_path, cache):
    path = put(tmp_path / "mine/net.pth")
    assert find(path.parent).path == path
    put(tmp_path / "mine/other.pt")
    with pytest.raises(ValueError, match=r"2 files of weights \(net.pth, other.pt\)"):
        find(path.parent)


def test_a_clone_of_the_repository_keeps_its_licence_and_preferred_file(tmp_path, tiny):
    put(tmp_path / "fm3d-test/tiny/model.pt")
    preferred = put(tmp_path / "fm3d-test/tiny/model.safetensors")
    found = find(tmp_path / "fm3d-test/tiny")
    assert (found.path, found.licence) == (preferred, tiny.licence)


def test_other_suffixes_are_refused(tmp_path, cache):
    with pytest.raises(ValueError, match=r"'\.zip'.*\.safetensors, \.pt, \.pth"):
        find(put(tmp_path / "weights.zip"))


def test_unknown_name_lists_the_known_ones_and_the_closest(tiny):
    with pytest.raises(ValueError, match="Did you mean fm3d-test/tiny?") as caught:
        find("fm3d-test/tinny")
    assert "facebook/VGGT-1B" in str(caught.value)


def test_licence_is_shown_and_recorded_once(placed, tiny, capsys):
    locate("fm3d-test/tiny")
    assert "Test Licence (tests only)" in " ".join(capsys.readouterr().out.split())
    record = json.loads((placed.parent / "licence.json").read_text())
    assert record["licence"]["name"] == "Test Licence"
    assert record["weights"] == "fm3d-test/tiny"
    locate("fm3d-test/tiny")
    assert "Licence" not in capsys.readouterr().out
    for damaged in ("garbage{", "[1]", "null"):
        (placed.parent / "licence.json").write_text(damaged)
        locate("fm3d-test/tiny")
        assert "Licence" in capsys.readouterr().out


def test_commercial_only_refuses_and_names_the_alternative(placed, tiny, tiny_commercial, capsys):
    with pytest.raises(ValueError, match="forbids commercial use.*: fm3d-test/tiny-commercial"):
        locate("fm3d-test/tiny", commercial_only=True)
    assert "Licence" not in capsys.readouterr().out


def test_commercial_only_refuses_before_anything_is_fetched(no_network, tiny, tiny_commercial):
    with pytest.raises(ValueError, match="forbids"):
        locate("fm3d-test/tiny", commercial_only=True)


def test_commercial_only_takes_weights_that_permit_it_and_refuses_unknown_ones(
    tiny_commercial, cache, tmp_path
):
    put(cache / "weights/fm3d-test--tiny-commercial/commercial.pt")
    assert locate(tiny_commercial.name, commercial_only=True).licence.commercial
    with pytest.raises(ValueError, match="unknown"):
        locate(put(tmp_path / "mine.pt"), commercial_only=True)


def test_weights_in_the_cache_of_huggingface_hub_are_used_and_not_copied(tmp_path, cache):
    """Its layout: files named by their hash, links to them per revision."""
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub, a dependency")
    repository = tmp_path / "home/hub/models--facebook--VGGT-1B"
    put(repository / "blobs" / SHA256)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("5" * 40)
    link = repository / "snapshots" / ("5" * 40) / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(repository / "blobs" / SHA256)
    script = (
        "import socket; socket.socket.connect = socket.getaddrinfo = None\n"
        "from fm3d_plugins.checkpoints import locate\n"
        "file = locate('facebook/VGGT-1B')\n"
        "print(file.path, file.source, file.sha256, sep='|')"
    )
    environment = {"HF_HOME": str(tmp_path / "home"), "FM3D_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1].split("|") == [str(link), "hub cache", SHA256]
    assert not list(cache.rglob("*.safetensors"))
