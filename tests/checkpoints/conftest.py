"""A hub on this computer, and weights of the published form that are small."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save

from fm3d_plugins.checkpoints.catalogue import CATALOGUE, Licence, PublishedCheckpoint

REVISION = "0123456789abcdef0123456789abcdef01234567"
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5])}


def published(name, files, *, commercial):
    return PublishedCheckpoint(
        name=name,
        files=files,
        licence=Licence("Test Licence", "tests only", commercial, "https://example.org/licence"),
        is_gated=commercial,
        num_tensors=2,
        num_parameters=7,
        estimator="test",
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, and no word about the network in the environment."""
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "FM3D_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    return tmp_path / "cache"


@pytest.fixture
def tiny(cache, monkeypatch):
    """A published checkpoint that forbids commercial use."""
    row = published("fm3d-test/tiny", ("model.safetensors", "model.pt"), commercial=False)
    monkeypatch.setitem(CATALOGUE, row.name, row)
    return row


@pytest.fixture
def tiny_commercial(cache, monkeypatch):
    """A gated one that permits it."""
    row = published("fm3d-test/tiny-commercial", ("commercial.pt",), commercial=True)
    monkeypatch.setitem(CATALOGUE, row.name, row)
    return row


class Hub(ThreadingHTTPServer):
    """Answers as the hub does for large files: hash, size and revision stand in the headers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {"fm3d-test/tiny/model.safetensors": save(TENSORS)}
        self.requests = []
        self.status = 200
        self.announced_sha256 = None
        self.stalls_after = None
        self.breaks_after = None
        self.ignores_ranges = False
        self.redirects = False
        self.tells_hash = True
        self.revision = REVISION
        self.answers = None
        self.tokens = {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def ranges(self):
        return [range_ for method, range_ in self.requests if method == "GET"]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def log_message(self, *_):
        pass

    def _answer(self, with_body):
        hub, range_ = self.server, self.headers.get("Range")
        hub.requests.append((self.command, range_))
        hub.tokens[self.path.split("/")[1]] = self.headers.get("Authorization")
        range_ = None if hub.ignores_ranges else range_
        is_stored, path = self.path.startswith("/storage/"), self.path.removeprefix("/storage")
        repository, _, rest = path.strip("/").partition("/resolve/")
        content = hub.files.get(f"{repository}/{rest.partition('/')[2]}")
        if hub.status != 200 or content is None:
            self.send_response(404 if hub.status == 200 else hub.status)
            self.send_header("X-Error-Code", "EntryNotFound" if content is None else "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin = int(range_.removeprefix("bytes=").split("-")[0]) if range_ else 0
        sha256 = hub.announced_sha256 or hashlib.sha256(content).hexdigest()
        is_sent_on = hub.redirects and not is_stored
        if hub.answers and with_body:
            self._answer_otherwise(*hub.answers)
            return
        sha256 = sha256 if hub.tells_hash else "b" * 40
        self.send_response(302 if is_sent_on else 206 if range_ else 200)
        self.send_header("X-Repo-Commit", hub.revision)
        self.send_header("ETag", f'"{sha256}"')
        self.send_header("X-Linked-Etag", f'"{sha256}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        if range_ and not is_sent_on:
            total = len(content)
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        if is_sent_on:
            port = hub.server_address[1]
            self.send_header("Location", f"http://localhost:{port}/storage{self.path}")
            begin = len(content)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if with_body and not is_sent_on:
            self._send(content[begin:])

    def _answer_otherwise(self, status, content_type, content, more):
        """As no hub does: another status, type or content than what it announced."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        for name, value in more.items():
            self.send_header(name, value)
        if "Transfer-Encoding" not in more:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def _send(self, content):
        hub = self.server
        stop = hub.breaks_after if hub.stalls_after is None else hub.stalls_after
        self.wfile.write(content[:stop])
        self.wfile.flush()
        while hub.stalls_after is not None:
            time.sleep(0.05)
        self.close_connection = stop is not None


@pytest.fixture
def hub(cache, monkeypatch):
    """A running hub that HF_ENDPOINT points to."""
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub, a dependency")
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.stalls_after = None
    server.shutdown()
    thread.join()
    server.server_close()
