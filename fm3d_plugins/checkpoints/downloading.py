"""Weights from the Hugging Face hub: resumed where they stopped, checked before they count.

huggingface_hub (0.23 to 2) tells what the hub has, finds the user's token and words its refusals.
The bytes are fetched here, because a download of that library's version 2 begins anew in every
process. They are gathered in a folder `.partial` beside the file's place, under the hash they are
to have; the file moves to its place once its SHA-256 is the hub's, after the record of that hash.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock

from fm3d_plugins.checkpoints.catalogue import HUB, PublishedCheckpoint
from fm3d_plugins.checkpoints.records import (
    FileRecord,
    file_sha256,
    is_sha256,
    show_licence_once,
    weights_folder,
    write_record,
)
from fm3d_plugins.disk_space import size_of
from fm3d_plugins.errors import require
from fm3d_plugins.files import require_replaceable
from fm3d_plugins.progress import say, track

_PARTIAL = ".partial"
_WHOLE_CONTENT, _PARTIAL_CONTENT = 200, 206
_CHUNK = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SILENCE = 30.0
"""Seconds without a byte after which a connection counts as broken."""
_ATTEMPTS = 4
"""Answers in a row, none of which brought anything, after which it is given up."""
_PAGES = ("text/", "application/json", "application/xhtml")
"""Types of content that are pages and messages, as of a portal that asks for a log-in."""


@dataclass(frozen=True)
class _Offer:
    """What the hub says about a file before it is fetched."""

    file: str
    revision: str
    sha256: str | None
    """None for a file that the hub keeps in git itself, whose hash is another one."""
    size: int
    """Bytes."""
    etag: str
    """The hub's name of these bytes."""

    @property
    def partial_name(self) -> str:
        """Of the partial file: of these bytes alone, and no path whatever the hub says."""
        identity = f"{self.etag}\0{self.revision}\0{self.size}".encode()
        return f"{hashlib.blake2b(identity, digest_size=16).hexdigest()}-{self.file}"


def absent(published: PublishedCheckpoint, reason: str) -> str:
    """The one message about weights that are not here, in lines: what, why, and how to get them."""
    file, folder = published.files[0], weights_folder(published)
    others = f" (or {', '.join(published.files[1:])})" if published.files[1:] else ""
    lines = [
        f"The weights {published.name} are not on this computer, and {reason}.",
        f"  Fetch them (about {size_of(published.num_bytes)}):",
        f"    fm3d weights fetch {published.name}",
        f"  Or put this file{others} at this place by hand:",
        f"    {published.url(file)}",
        f"    {folder / file}",
    ]
    if published.is_gated:
        lines += [
            "  They need a log-in (`hf auth login`, or HF_TOKEN) and accepted terms:",
            f"    {HUB}/{published.repository}",
        ]
    return "\n".join([*lines, f"  Or {published.instead}."])


def download(published: PublishedCheckpoint) -> Path:
    """Fetch a published checkpoint into this package's folder of weights.

    Processes that want the same file wait for the first. The licence is shown before.

    Raises:
        FileNotFoundError: The hub cannot be reached or does not hand it out.
        OSError: What arrived is not what the hub announced; or there is no room for it.
        ImportError: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", purpose="Fetching weights", install="huggingface_hub>=0.23")
    folder = weights_folder(published)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"The folder {folder} cannot be made ({error.strerror}). Expected a place that can be "
            "written for the weights. Choose another with FM3D_CACHE_DIR."
        ) from error
    with FileLock(folder / ".lock"):
        for file in published.files:  # Another process may have fetched it meanwhile.
            if (folder / file).is_file():
                return folder / file
        show_licence_once(published.licence, folder / published.files[0], published)
        try:
            offer = _ask(hub, published)
        except _failures(hub) as error:
            raise FileNotFoundError(absent(published, _reason(error, published))) from error
        _require_room(folder, offer)
        try:
            staged = _fetch(hub, published, offer)
        except _failures(hub) as error:
            reason = f"{_reason(error, published)}; what came is kept, and fetching goes on there"
            raise FileNotFoundError(absent(published, reason)) from error
        return _accept(staged, folder / offer.file, offer)


def _ask(hub: ModuleType, published: PublishedCheckpoint) -> _Offer:
    """What the hub has of the accepted files: the first that exists."""
    missing: Exception | None = None
    for file in published.files:
        url = hub.hf_hub_url(published.repository, file, endpoint=_endpoint())
        try:
            metadata = hub.get_hf_file_metadata(url, timeout=10)
        except hub.utils.EntryNotFoundError as error:
            missing = error
            continue
        etag = metadata.etag or ""
        if not metadata.size or metadata.size < 0:
            raise OSError(f"the hub does not tell the size of {file}")
        commit = metadata.commit_hash or ""
        return _Offer(
            file=file,
            revision=commit if _COMMIT.fullmatch(commit) else "main",
            sha256=etag if is_sha256(etag) else None,
            size=metadata.size,
            etag=etag,
        )
    assert missing is not None
    raise missing


def _fetch(hub: ModuleType, published: PublishedCheckpoint, offer: _Offer) -> Path:
    """Bring the file to the folder of partial ones; what came before is not fetched again.

    Raises:
        OSError: The hub refuses, answers with something else than the file, or brings nothing in
            several attempts.
    """
    folder = weights_folder(published)
    say(
        f"Fetching {published.name} ({offer.file}, {offer.size / 1e9:.2f} GB) from "
        f"{_endpoint() or HUB}. This needs the network once. To do it by hand: put "
        f"{published.url(offer.file)} at {folder / offer.file}"
    )
    partial = folder / _PARTIAL / offer.partial_name
    partial.parent.mkdir(exist_ok=True)
    require_replaceable(partial)
    partial.touch()
    if partial.stat().st_size > offer.size:
        os.truncate(partial, 0)
    url = hub.hf_hub_url(
        published.repository, offer.file, revision=offer.revision, endpoint=_endpoint()
    )
    attempts = 0
    while (arrived := partial.stat().st_size) < offer.size:
        failure: OSError | None = None
        try:
            _append(url, hub.utils.build_hf_headers(), partial, offer)
        except OSError as error:
            failure = error
        if failure is not None and getattr(failure, "response", None) is not None:
            raise failure
        attempts = 0 if partial.stat().st_size > arrived else attempts + 1
        if attempts >= _ATTEMPTS:
            raise failure or OSError(
                f"the server ended {attempts} answers without an error and without a byte"
            )
        time.sleep(attempts)
    return partial


def _append(url: str, headers: Mapping[str, str], partial: Path, offer: _Offer) -> None:
    """Fetch what a partial file still lacks, until the end or until the connection breaks.

    Raises:
        OSError: The connection breaks, or the answer is no part of the file.
    """
    requests = require("requests", purpose="Fetching weights", install="requests")
    arrived = partial.stat().st_size
    # The library drops the token when the hub sends it on to another host.
    wanted = {**headers, "Accept-Encoding": "identity", "Range": f"bytes={arrived}-"}
    with requests.get(url, headers=wanted, stream=True, timeout=_SILENCE) as response:
        response.raise_for_status()
        goes_on = response.status_code == _PARTIAL_CONTENT
        _require_part(response, goes_on, arrived, offer)
        left = offer.size - (arrived if goes_on else 0)
        with partial.open("ab" if goes_on else "wb") as stream:
            chunks = response.iter_content(_CHUNK)
            for chunk in track(chunks, f"{offer.file} (MiB)", -(-left // _CHUNK)):
                stream.write(chunk[:left])
                left -= len(chunk)
                if left <= 0:  # Whatever else the server has to say.
                    break


def _require_part(response: Any, goes_on: bool, arrived: int, offer: _Offer) -> None:
    """Refuse an answer that is not the file, or not its part from where it stopped.

    Raises:
        OSError: With the answer as `response`: to ask again would bring the same.
    """
    kind = response.headers.get("Content-Type", "").lower()
    begin = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    fault = None
    if response.status_code not in (_WHOLE_CONTENT, _PARTIAL_CONTENT):
        fault = f"HTTP {response.status_code}, which brings no file"
    elif kind.startswith(_PAGES):
        fault = f"a page ({kind}), perhaps one to log in to the network"
    elif goes_on and begin and (int(begin[1]), begin[2]) not in (
        (arrived, str(offer.size)), (arrived, "*"),
    ):  # fmt: skip
        fault = f"another part ({begin[0]}) than was asked for (from byte {arrived})"
    if fault:
        error = OSError(f"the server answered with {fault}")
        error.response = response  # type: ignore[attr-defined]
        raise error


def _accept(staged: Path, target: Path, offer: _Offer) -> Path:
    """Move a file that is what the hub announced to its place; remove one that is not."""
    sha256 = file_sha256(staged)
    if offer.sha256 not in (None, sha256):
        size = staged.stat().st_size
        shutil.rmtree(target.parent / _PARTIAL)
        raise OSError(
            f"{offer.file} arrived with SHA-256 {sha256} and {size} bytes; the hub announced "
            f"{offer.sha256} and {offer.size} bytes. It was damaged on its way and has been "
            "removed: fetch it again, and if that ends alike, look at the proxy or mirror "
            "in between (HF_ENDPOINT)."
        )
    if offer.sha256 is None:
        say(
            f"{offer.file} was not checked: the hub tells no SHA-256 of it, only its size, "
            f"{offer.size} bytes. It has {sha256}: compare that with what its owner says.",
            "yellow",
        )
    origin = "hub" if offer.sha256 else "computed"
    write_record(target, FileRecord.of(staged, sha256, origin, offer.revision))
    require_replaceable(target)
    os.replace(staged, target)
    shutil.rmtree(target.parent / _PARTIAL)
    return target


def _require_room(folder: Path, offer: _Offer) -> None:
    partial = sum(file.stat().st_size for file in (folder / _PARTIAL).rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if free + partial < offer.size:
        raise OSError(
            f"{folder} has {free / 1e9:.2f} GB of room; expected {offer.size / 1e9:.2f} GB for "
            f"{offer.file}. Make room, or choose another folder with FM3D_CACHE_DIR."
        )


def _endpoint() -> str | None:
    """A mirror of the hub that the user chose."""
    return os.environ.get("HF_ENDPOINT") or None


def _failures(hub: ModuleType) -> tuple[type[BaseException], ...]:
    """What the library raises when the hub is out of reach or refuses.

    Beside OSError these are the errors of its HTTP library (requests, httpx or httpx2, by
    version), which the library's own HTTP error has as a base.
    """
    return (OSError, *hub.utils.HfHubHTTPError.__bases__)


def _reason(error: BaseException, published: PublishedCheckpoint) -> str:
    """Why it could not be fetched, as the middle of a sentence."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return f"the hub refuses it (HTTP {status}: no access to {published.name})"
    if status == 404:
        return "the hub no longer has it (HTTP 404)"
    lines = str(error).strip().splitlines()
    return f"it cannot be fetched ({type(error).__name__}: {lines[0] if lines else 'no more said'})"
