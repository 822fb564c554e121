"""Weights from the Hugging Face hub: resumed where they stopped, checked before they count.

huggingface_hub (0.23 to 2) tells what the hub has, finds the user's token and words its refusals.
The bytes are fetched here, because a download of that library's version 2 begins anew in every
process. They are gathered in a folder `.partial` beside the file's place, under the hash they are
to have; the file moves to its place once its SHA-256 is the hub's, after the record of that hash.
"""

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

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
from fm3d_plugins.errors import require
from fm3d_plugins.files import require_replaceable
from fm3d_plugins.progress import say, track

_PARTIAL = ".partial"
_PARTIAL_CONTENT = 206
_CHUNK = 1 << 20
_SILENCE = 30.0
"""Seconds without a byte after which a connection counts as broken."""
_ATTEMPTS = 4
"""Broken connections in a row, none of which brought anything, after which it is given up."""


@dataclass(frozen=True)
class _Offer:
    """What the hub says about a file before it is fetched."""

    file: str
    revision: str
    sha256: str | None
    """None for a file that the hub keeps in git itself, whose hash is another one."""
    size: int
    """Bytes."""


def absent(published: PublishedCheckpoint, reason: str) -> str:
    """The one message about weights that are not here: what, why, where from, where to."""
    file, folder = published.files[0], weights_folder(published)
    others = f" (or {', '.join(published.files[1:])})" if published.files[1:] else ""
    terms = (
        f" Its owner lets in only those who are logged in and accepted the terms at "
        f"{HUB}/{published.repository}; a token of yours is taken from HF_TOKEN or `hf auth login`."
        if published.is_gated
        else ""
    )
    return (
        f"The weights {published.name} are not on this computer, and {reason}. "
        f"Expected the file {file}{others}. Get {published.url(file)} and put it at "
        f"{folder / file}, or run `fm3d weights fetch {published.name}` where there is a network."
        f"{terms} Estimators that work without weights: sfm."
    )


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
        if not metadata.size:
            raise OSError(f"the hub does not tell the size of {file}")
        return _Offer(
            file=file,
            revision=metadata.commit_hash or "main",
            sha256=etag if is_sha256(etag) else None,
            size=metadata.size,
        )
    assert missing is not None
    raise missing


def _fetch(hub: ModuleType, published: PublishedCheckpoint, offer: _Offer) -> Path:
    """Bring the file to the folder of partial ones; what came before is not fetched again.

    Raises:
        OSError: The hub refuses, or the connection breaks and brings nothing in several attempts.
    """
    folder = weights_folder(published)
    say(
        f"Fetching {published.name} ({offer.file}, {offer.size / 1e9:.2f} GB) from "
        f"{_endpoint() or HUB}. This needs the network once. To do it by hand: put "
        f"{published.url(offer.file)} at {folder / offer.file}"
    )
    partial = folder / _PARTIAL / f"{offer.sha256 or offer.revision}-{offer.file}"
    partial.parent.mkdir(exist_ok=True)
    partial.touch()
    url = hub.hf_hub_url(
        published.repository, offer.file, revision=offer.revision, endpoint=_endpoint()
    )
    attempts = 0
    while (arrived := partial.stat().st_size) < offer.size:
        try:
            _append(url, hub.utils.build_hf_headers(), partial, offer)
        except OSError as error:
            attempts = 0 if partial.stat().st_size > arrived else attempts + 1
            if attempts >= _ATTEMPTS or getattr(error, "response", None) is not None:
                raise
            time.sleep(attempts)
    return partial


def _append(url: str, headers: Mapping[str, str], partial: Path, offer: _Offer) -> None:
    """Fetch what a partial file still lacks, until the end or until the connection breaks."""
    requests = require("requests", purpose="Fetching weights", install="requests")
    arrived = partial.stat().st_size
    # The library drops the token when the hub sends it on to another host.
    wanted = {**headers, "Accept-Encoding": "identity", "Range": f"bytes={arrived}-"}
    with requests.get(url, headers=wanted, stream=True, timeout=_SILENCE) as response:
        response.raise_for_status()
        goes_on = response.status_code == _PARTIAL_CONTENT
        num_chunks = -(-(offer.size - (arrived if goes_on else 0)) // _CHUNK)
        with partial.open("ab" if goes_on else "wb") as stream:
            chunks = response.iter_content(_CHUNK)
            for chunk in track(chunks, f"{offer.file} (MiB)", num_chunks):
                stream.write(chunk)


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
