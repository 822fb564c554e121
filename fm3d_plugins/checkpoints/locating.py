"""Weights found by name or path: on this computer first, from the hub only when absent."""

import difflib
import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fm3d_plugins.checkpoints.catalogue import (
    CATALOGUE,
    UNKNOWN_LICENCE,
    Licence,
    PublishedCheckpoint,
    require_commercial,
)
from fm3d_plugins.checkpoints.records import known_sha256, show_licence_once, weights_folder

SUFFIXES = (".safetensors", ".pt", ".pth")
"""File names that are taken as weights, the preferred format first."""

PACKAGED = Path(__file__).resolve().parent.parent / "small_weights"
"""Folder of the weights that come with this package."""

Source = Literal["file", "package", "weights folder", "hub cache", "download"]


@dataclass(frozen=True)
class FoundFile:
    """A file on this computer that holds weights; not opened yet."""

    path: Path
    source: Source
    published: PublishedCheckpoint | None
    """Its row of the catalogue; None for a user's own file."""

    @property
    def licence(self) -> Licence:
        """What may be done with it."""
        return self.published.licence if self.published else UNKNOWN_LICENCE


@dataclass(frozen=True)
class CheckpointFile(FoundFile):
    """A file of weights ready for use: its licence was shown, its identity is known."""

    sha256: str
    """Of the file's bytes, in hexadecimal; the part of an estimate's identity."""


def locate(name_or_path: str | Path, *, commercial_only: bool = False) -> CheckpointFile:
    """The file that holds some weights: found on this computer, or fetched once.

    Looked for in this order: a local file or folder of that name, what comes with this package, its
    folder of weights, the cache of huggingface_hub. Nothing is contacted when the file is found.

    Args:
        name_or_path: A name of the catalogue (`fm3d weights list`), a file, or a folder with one.
        commercial_only: Refuse weights whose licence forbids commercial use or is not known.

    Raises:
        ValueError: The name is not known, the licence is refused, or the file is not what the
            hub handed out.
        FileNotFoundError: The weights are absent and cannot be fetched. The message says which
            file to get, where, and where to put it.
    """
    found = require_obtainable(name_or_path, commercial_only=commercial_only)
    published = found.published if found else CATALOGUE[str(name_or_path)]
    if found is None:
        from fm3d_plugins.checkpoints.downloading import download

        assert published is not None
        found = FoundFile(download(published), "download", published)
    show_licence_once(found.licence, found.path, published)
    return CheckpointFile(found.path, found.source, published, known_sha256(found.path))


def require_obtainable(
    name_or_path: str | Path, *, commercial_only: bool = False
) -> FoundFile | None:
    """Refuse weights that `locate` would refuse, before anything is fetched or read.

    Returns:
        The file if it is on this computer; none if it is to be fetched.

    Raises:
        ValueError, FileNotFoundError: As `locate`.
    """
    found = find(name_or_path)
    published = found.published if found else CATALOGUE[str(name_or_path)]
    if commercial_only:
        licence = published.licence if published else UNKNOWN_LICENCE
        require_commercial(licence, str(name_or_path), published)
    if found is None and is_offline():
        from fm3d_plugins.checkpoints.downloading import absent

        assert published is not None
        raise FileNotFoundError(absent(published, "the network is switched off"))
    return found


def find(name_or_path: str | Path) -> FoundFile | None:
    """The file that holds some weights if it is on this computer; nothing is contacted.

    Raises:
        ValueError: Neither a file or folder nor a name of the catalogue, or a folder that does
            not tell which of its files is meant.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        published = _published_in(path)
        return FoundFile(_weights_file(path, published), "file", published)
    published = CATALOGUE.get(str(name_or_path))
    if published is None:
        raise ValueError(_unknown_name(str(name_or_path)))
    if published.comes_with_package:
        return FoundFile(PACKAGED / published.files[0], "package", published)
    for file in published.files:
        candidate = weights_folder(published) / file
        if candidate.is_file():
            return FoundFile(candidate, "weights folder", published)
    for file in published.files:
        cached = _in_hub_cache(published, file)
        if cached:
            return FoundFile(cached, "hub cache", published)
    return None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE or FM3D_OFFLINE say that the network is not to be used."""
    words = (os.environ.get(name, "").upper() for name in ("HF_HUB_OFFLINE", "FM3D_OFFLINE"))
    return any(word in ("1", "ON", "YES", "TRUE") for word in words)


def _weights_file(path: Path, published: PublishedCheckpoint | None) -> Path:
    """The file itself, or the one in a folder that holds weights."""
    if path.is_file():
        if path.suffix.lower() in SUFFIXES:
            return path
        raise ValueError(
            f"{path} ends in {path.suffix!r}; expected weights in a file ending in "
            f"{', '.join(SUFFIXES)}. Give that file, or rename it if it is one of these."
        )
    if published:
        for file in published.files:
            if (path / file).is_file():
                return path / file
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if len(files) == 1:
        return files[0]
    listed = ", ".join(file.name for file in files) or "none"
    raise ValueError(
        f"The folder {path} holds {len(files)} files of weights ({listed}); expected exactly one "
        f"that ends in {', '.join(SUFFIXES)}. Give the path of the file itself."
    )


def _published_in(path: Path) -> PublishedCheckpoint | None:
    """The row of a file or folder that lies under the row's name (a clone, a cache)."""
    parts = path.resolve().parts
    pairs = {f"{first}/{second}" for first, second in zip(parts, parts[1:], strict=False)}
    for name, published in CATALOGUE.items():
        repository = published.repository
        # A repository of several networks tells them apart by their files.
        is_meant = name == repository or path.name in published.files
        is_there = repository in pairs or f"models--{repository.replace('/', '--')}" in parts
        if name.replace("/", "--") in parts or (is_there and is_meant):
            return published
    return None


def _in_hub_cache(published: PublishedCheckpoint, file: str) -> Path | None:
    """The file in huggingface_hub's cache (HF_HOME, HF_HUB_CACHE), if both are there."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        return None  # Without the library there is no cache of it to honour.
    cached = hub.try_to_load_from_cache(published.repository, file)
    return Path(cached) if isinstance(cached, str) else None


def _unknown_name(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), [known.lower() for known in CATALOGUE], n=1)
    known = {entry.lower(): entry for entry in CATALOGUE}
    hint = f" Did you mean {known[close[0]]}?" if close else ""
    return (
        f"{name} is neither a file nor a folder, nor published weights known here. Expected a "
        f"path, or one of: {', '.join(CATALOGUE)}.{hint}"
    )
