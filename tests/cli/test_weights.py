"""`fm3d weights` says what is here, where it is, and how to get what is absent."""

import pytest
import torch
from safetensors.torch import save_file

from fm3d_plugins.checkpoints.catalogue import CATALOGUE, Licence, PublishedCheckpoint
from fm3d_plugins.cli import main as cli


@pytest.fixture
def placed(tmp_path, monkeypatch):
    """A small published file in the folder of weights, and no network."""
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("FM3D_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "300")
    licence = Licence("Test Licence", "tests only", False, "https://example.org/licence")
    row = PublishedCheckpoint("org/tiny", ("model.pt",), licence, False, 1, 3, "test")
    monkeypatch.setitem(CATALOGUE, row.name, row)
    path = tmp_path / "weights/org--tiny/model.pt"
    path.parent.mkdir(parents=True)
    save_file({"a": torch.ones(3)}, path)
    return path


def run(*words):
    cli.main(["weights", *(str(word) for word in words)])


def test_list_tells_what_is_here_and_what_may_be_done_with_it(placed, capsys):
    run("list")
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.startswith(" ")}
    assert set(CATALOGUE) <= set(rows)  # Whole names, also where they are long.
    # 1 256 537 516 numbers of 4 bytes.
    assert "about 5.03 GB" in rows["facebook/VGGT-1B"]
    assert str(placed) in rows["org/tiny"]
    assert " no " in rows["org/tiny"]
    assert "absent" in rows["facebook/VGGT-1B"]
    assert "non-commercial" in rows["facebook/VGGT-1B"]
    assert " yes " in rows["facebook/VGGT-1B-Commercial"]


def test_licence_of_several_weights_is_told_once(capsys):
    run("list")
    said = " ".join(capsys.readouterr().out.split())
    for licence in {published.licence for published in CATALOGUE.values()}:
        assert said.count(licence.url) == 1


def test_path_prints_the_path_alone(placed, capsys):
    run("path", "org/tiny")
    assert capsys.readouterr().out == f"{placed}\n"


@pytest.mark.parametrize("word", ["path", "verify", "fetch"])
def test_absent_weights_end_with_the_message_how_to_get_them(placed, word, capsys):
    with pytest.raises(SystemExit, match="not on this computer") as caught:
        run(word, "facebook/VGGT-1B")
    lines = str(caught.value).splitlines()
    assert len(lines) <= 8 and all(len(line) <= 160 for line in lines)
    said = [line.strip() for line in lines]
    # 1 256 537 516 numbers of 4 bytes.
    assert said[1] == "Fetch them (about 5.03 GB):"
    assert said[2] == "fm3d weights fetch facebook/VGGT-1B"
    assert said[4].endswith("facebook/VGGT-1B/resolve/main/model.safetensors")
    assert said[5].endswith("weights/facebook--VGGT-1B/model.safetensors")
    assert capsys.readouterr().out == ""


def test_verify_tells_hash_and_size_or_the_damage(placed, capsys):
    run("verify", "org/tiny")
    assert "is in order: 1 tensors, 3 numbers" in capsys.readouterr().out
    placed.write_bytes(placed.read_bytes()[:-1])
    with pytest.raises(SystemExit, match="truncated"):
        run("verify", placed)


def test_fetch_of_what_is_here_shows_the_licence_and_the_place(placed, capsys):
    run("fetch", "org/tiny")
    said = " ".join(capsys.readouterr().out.split())
    assert "Test Licence" in said and f"org/tiny is at {placed}" in said
    with pytest.raises(SystemExit, match="forbids commercial use"):
        run("fetch", "org/tiny", "--commercial-only")


def test_help_names_the_words_and_an_unknown_one_is_refused(capsys):
    run()
    said = capsys.readouterr().out
    assert all(word in said for word in ("list", "fetch", "verify", "path"))
    with pytest.raises(SystemExit, match="no word 'get'"):
        run("get")
