"""Weights come from a hub once, whole and checked. The hub here runs on this computer."""

import hashlib
import os
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save

from fm3d_plugins.checkpoints import downloading, load, locate, verify
from fm3d_plugins.checkpoints.locating import find
from fm3d_plugins.checkpoints.records import read_record


def test_weights_are_fetched_once_and_checked(hub, tiny, cache, capsys):
    file = locate("fm3d-test/tiny")
    assert file.path == cache / "weights/fm3d-test--tiny/model.safetensors"
    assert file.source == "download"
    content = hub.files["fm3d-test/tiny/model.safetensors"]
    assert file.path.read_bytes() == content
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert list(load(file)) == ["a.weight", "b"]
    said = " ".join(capsys.readouterr().out.split())
    assert said.index("Licence of fm3d-test/tiny") < said.index("Fetching fm3d-test/tiny")

    hub.requests.clear()
    assert locate("fm3d-test/tiny").source == "weights folder"
    assert hub.requests == []
    assert verify(find("fm3d-test/tiny")).is_hash_of_hub
    assert sorted(path.name for path in file.path.parent.iterdir()) == [
        ".lock",
        "licence.json",
        "model.safetensors",
        "model.safetensors.json",
    ]


def test_second_choice_of_file_is_taken_where_the_first_is_not_published(hub, tiny):
    hub.files = {"fm3d-test/tiny/model.pt": hub.files.popitem()[1]}
    assert locate("fm3d-test/tiny").path.name == "model.pt"


def test_token_is_shown_to_the_hub_and_not_to_the_storage_it_sends_on_to(hub, tiny, monkeypatch):
    """As the real hub does with large files: another host, an address that is signed already."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.redirects = True
    content = hub.files["fm3d-test/tiny/model.safetensors"]
    assert locate("fm3d-test/tiny").path.read_bytes() == content
    assert hub.tokens == {"fm3d-test": "Bearer hf_secret", "storage": None}


def test_other_bytes_than_announced_are_removed_and_refused(hub, tiny, cache):
    hub.announced_sha256 = "0" * 64
    with pytest.raises(OSError, match=f"the hub announced {'0' * 64}"):
        locate("fm3d-test/tiny")
    assert find("fm3d-test/tiny") is None
    assert not list(cache.rglob("*.safetensors*"))
    hub.announced_sha256 = None
    assert locate("fm3d-test/tiny").source == "download"


def test_later_damage_is_found(hub, tiny):
    path = locate("fm3d-test/tiny").path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    record = read_record(path)
    os.utime(path, ns=(record.modified_ns, record.modified_ns))  # A disk does not tell.
    with pytest.raises(ValueError, match="changed or is damaged"):
        verify(find("fm3d-test/tiny"))
    os.utime(path)
    with pytest.raises(ValueError, match="changed or is damaged"):
        locate("fm3d-test/tiny")


@pytest.mark.parametrize("status", [401, 403])
def test_refusal_of_gated_weights_says_what_to_do(hub, tiny_commercial, status):
    hub.files["fm3d-test/tiny-commercial/commercial.pt"] = b"x"
    hub.status = status
    with pytest.raises(FileNotFoundError) as caught:
        locate("fm3d-test/tiny-commercial")
    message = str(caught.value)
    assert f"HTTP {status}" in message
    assert "accepted terms:\n    https://huggingface.co/fm3d-test/tiny-commercial" in message
    assert "sfm, which needs no weights" in message


def test_weights_that_the_hub_does_not_have_are_reported(hub, tiny):
    hub.files.clear()
    with pytest.raises(FileNotFoundError, match="no longer has it"):
        locate("fm3d-test/tiny")


def test_unreachable_hub_gives_the_message_of_absent_weights(hub, tiny, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # The port of nothing.
    with pytest.raises(
        FileNotFoundError, match="(?s)cannot be fetched.*resolve/main/model.safetens"
    ):
        locate("fm3d-test/tiny")


def test_place_that_cannot_be_written_is_named_with_the_way_out(hub, tiny, cache):
    cache.write_text("a file in the folder's place")
    with pytest.raises(OSError, match="fm3d-test--tiny cannot be made.*FM3D_CACHE_DIR"):
        locate("fm3d-test/tiny")
    assert hub.requests == []


SCRIPT = """
import sys
from fm3d_plugins.checkpoints.catalogue import CATALOGUE, Licence, PublishedCheckpoint
from fm3d_plugins.checkpoints.downloading import download
licence = Licence("Test Licence", "tests only", False, "")
download(PublishedCheckpoint("fm3d-test/tiny", ("model.safetensors",), licence, False, 1, 1, "x"))
"""


def test_download_of_a_killed_process_goes_on_where_it_stopped(hub, tiny, cache):
    content = save({"a": torch.arange(2**20, dtype=torch.float32)})
    hub.files = {"fm3d-test/tiny/model.safetensors": content}
    hub.stalls_after = 5 * 2**19
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(part.stat().st_size >= 2**20 for part in cache.rglob("*-model.safetensors")):
            break
        time.sleep(0.05)
    assert process.poll() is None
    process.kill()
    process.wait()
    (part,) = cache.rglob("*-model.safetensors")
    arrived = part.stat().st_size
    assert find("fm3d-test/tiny") is None, "half a file does not count"

    hub.stalls_after = None
    hub.requests.clear()
    assert locate("fm3d-test/tiny").path.read_bytes() == content
    assert hub.ranges() == [f"bytes={arrived}-"]


@pytest.fixture
def impatient(monkeypatch):
    """No waiting between attempts, and blocks of which the small file has several."""
    monkeypatch.setattr(downloading.time, "sleep", lambda _: None)
    monkeypatch.setattr(downloading, "_CHUNK", 10)


def test_broken_connections_go_on_where_they_broke(hub, tiny, impatient):
    content = hub.files["fm3d-test/tiny/model.safetensors"]
    hub.breaks_after = 50
    assert locate("fm3d-test/tiny").path.read_bytes() == content
    begins = range(0, len(content), 50)
    assert hub.ranges() == [f"bytes={begin}-" for begin in begins]


def test_connection_that_brings_nothing_is_given_up(hub, tiny, impatient):
    hub.breaks_after = 0
    with pytest.raises(FileNotFoundError, match="fetching goes on there"):
        locate("fm3d-test/tiny")
    assert hub.ranges() == ["bytes=0-"] * 4


def test_hub_that_cannot_begin_in_the_middle_is_taken_from_the_start(hub, tiny, impatient):
    content = hub.files["fm3d-test/tiny/model.safetensors"]
    hub.breaks_after, hub.ignores_ranges = len(content) // 2, True
    with pytest.raises(FileNotFoundError):
        locate("fm3d-test/tiny")
    hub.breaks_after = None
    assert locate("fm3d-test/tiny").path.read_bytes() == content


OCTETS = "application/octet-stream"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, "text/html; charset=utf-8", b"<html>Log in</html>", {}), "a page .text/html"),
        ((200, "text/html", b"", {}), "a page"),
        ((200, "application/json", b'{"error": 1}', {}), "a page"),
        ((206, "text/plain", b"Log in", {}), "a page"),
        ((204, OCTETS, b"", {}), "HTTP 204"),
        ((203, OCTETS, b"x", {}), "HTTP 203"),
        ((200, OCTETS, b"", {}), "without an error and without a byte"),
        ((206, OCTETS, b"", {}), "without an error and without a byte"),
        ((206, OCTETS, b"xx", {"Content-Range": "bytes 7-8/400"}), "another part .bytes 7-8/400"),
    ],
)
def test_server_that_ends_without_an_error_is_given_up(hub, tiny, impatient, cache, answer, said):
    hub.answers = answer
    with pytest.raises(FileNotFoundError, match=said):
        locate("fm3d-test/tiny")
    assert len(hub.ranges()) <= 4
    assert find("fm3d-test/tiny") is None
    hub.answers = None
    content = hub.files["fm3d-test/tiny/model.safetensors"]
    assert locate("fm3d-test/tiny").path.read_bytes() == content


@pytest.mark.parametrize("status", [200, 206])
def test_no_more_is_taken_than_was_announced(hub, tiny, impatient, cache, status):
    content = hub.files["fm3d-test/tiny/model.safetensors"]
    endless = content + b"x" * 10_000_000
    hub.answers = (status, OCTETS, endless, {})
    assert locate("fm3d-test/tiny").path.read_bytes() == content


def test_partial_file_that_is_longer_than_announced_is_begun_anew(hub, tiny, impatient, cache):
    hub.breaks_after = 0
    with pytest.raises(FileNotFoundError):
        locate("fm3d-test/tiny")
    (part,) = cache.rglob("*-model.safetensors")
    part.write_bytes(b"x" * 100_000)
    hub.breaks_after = None
    content = hub.files["fm3d-test/tiny/model.safetensors"]
    assert locate("fm3d-test/tiny").path.read_bytes() == content


def test_weights_without_a_hash_are_said_to_be_unchecked(hub, tiny, capsys):
    locate("fm3d-test/tiny")
    assert "not checked" not in capsys.readouterr().out
    path = find("fm3d-test/tiny").path
    path.unlink()
    hub.tells_hash = False
    file = locate("fm3d-test/tiny")
    said = capsys.readouterr().out
    assert "model.safetensors was not checked" in said and file.sha256 in said
    assert not verify(find("fm3d-test/tiny")).is_hash_of_hub


@pytest.mark.parametrize("revision", ["../../../evil", "/tmp/evil", "..", "a" * 400, "x\ty"])
def test_server_does_not_choose_where_anything_is_written(
    hub, tiny, impatient, cache, revision, tmp_path
):
    hub.revision, hub.tells_hash, hub.breaks_after = revision, False, 0
    with pytest.raises(FileNotFoundError):
        locate("fm3d-test/tiny")
    (part,) = (path for path in tmp_path.rglob("*model.safetensors") if path.is_file())
    assert part.parent == cache / "weights/fm3d-test--tiny/.partial"
    hub.breaks_after = None
    path = locate("fm3d-test/tiny").path
    assert path.parent == cache / "weights/fm3d-test--tiny"
    assert read_record(path).revision == "main"
