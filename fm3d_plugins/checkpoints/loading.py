"""Tensors out of a file of weights, without running anything that is in it."""

import argparse
import contextlib
import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fm3d_plugins.checkpoints.catalogue import PublishedCheckpoint
from fm3d_plugins.checkpoints.locating import FoundFile
from fm3d_plugins.checkpoints.records import damage, file_sha256, sha256_of_hub
from fm3d_plugins.errors import listed
from fm3d_plugins.files import naming_damage, parse_json, require_regular
from fm3d_plugins.nn.weights import LOSS_PREFIX
from fm3d_plugins.progress import say

WRAPPERS = ("model", "state_dict", "model_state_dict", "extractor")
"""Keys under which training programs put the tensors, beside things of their own (DISK's: the
last)."""

_EXPECTED = "Expected a .safetensors file, or a .pt/.pth file that holds a dictionary of tensors."
_FETCH = "Fetch it again (`fm3d weights fetch`), or give another file."
_LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
_BYTES_PER_MAP = 1 << 28
"""Bytes of tensors after which a file is mapped anew."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found in a file that is in order."""

    sha256: str
    is_hash_of_hub: bool
    """Whether the hash was compared with the hub's; False where no hash of the hub is known."""
    num_tensors: int
    num_parameters: int


def load(file: FoundFile | Path) -> Mapping[str, Tensor]:
    """All tensors of a file by name, on the CPU; their bytes are read from disk when used.

    The format is told by the content, not by the name. Where the tensors are wrapped with other
    things (`model`, `state_dict`), they are taken out and one line says so.

    Raises:
        ValueError: The file is empty, truncated, something else than a checkpoint (a page or
            pointer saved in its place), holds code or other things than tensors.
        OSError: It cannot be read.
    """
    path = file.path if isinstance(file, FoundFile) else file
    with naming_damage(path, f"{_EXPECTED} {_FETCH}"):
        start = _start(path)
        if _is_torch(start):
            return _tensors_only(path, read_torch(path, f"{_EXPECTED} {_FETCH}"))
        return _load_safetensors(path)


def _is_torch(start: bytes) -> bool:
    """Whether a file begins as torch files do: with an archive's or a pickle's mark.

    So may the length of a safetensors file's header, behind which its JSON begins.
    """
    is_marked = start.startswith(b"PK\x03\x04") or start[:1] == b"\x80"
    return is_marked and start[4:9] != b"\0\0\0\0{"


def training_arguments(file: FoundFile | Path) -> dict[str, Any]:
    """What a torch file says of the options that its network was trained with, under `args`.

    Only numbers, texts and containers of them; whatever else there is, is left out. They are the
    file's own words: not to be run. Empty for files that say nothing, such as safetensors.

    Raises:
        ValueError, OSError: As `load`.
    """
    path = file.path if isinstance(file, FoundFile) else file
    with naming_damage(path, f"{_EXPECTED} {_FETCH}"):
        if not _is_torch(_start(path)):
            return {}
        content = read_torch(path, f"{_EXPECTED} {_FETCH}")
        arguments = content.get("args") if isinstance(content, Mapping) else None
        if isinstance(arguments, argparse.Namespace):
            arguments = vars(arguments)
        if not isinstance(arguments, Mapping):
            return {}
        return {str(name): value for name, value in arguments.items() if _is_plain(value)}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason is given")


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(key) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    return value is None or type(value) in (bool, int, float, str)


def verify(found: FoundFile) -> Verification:
    """Read all of a file: its hash against the recorded one, its tensors against the catalogue.

    Raises:
        ValueError: It is damaged, cannot be opened, or holds other tensors than were published.
    """
    sha256 = file_sha256(found.path)
    expected = sha256_of_hub(found.path)
    if expected not in (None, sha256):
        raise ValueError(damage(found.path, expected, sha256))
    tensors = load(found.path)
    names = [name for name in tensors if not name.startswith(LOSS_PREFIX)]
    num_parameters = sum(tensors[name].numel() for name in names)
    if found.published:
        _require_published_size(found.path, found.published, len(names), num_parameters)
    return Verification(
        sha256=sha256,
        is_hash_of_hub=expected is not None,
        num_tensors=len(names),
        num_parameters=num_parameters,
    )


def _require_published_size(
    path: Path, published: PublishedCheckpoint, num_tensors: int, num_parameters: int
) -> None:
    if published.num_tensors is None:
        return
    if (num_tensors, num_parameters) != (published.num_tensors, published.num_parameters):
        raise ValueError(
            f"{path} holds {num_tensors} tensors with {num_parameters} numbers; {published.name} "
            f"has {published.num_tensors} with {published.num_parameters}. It is another network "
            f"or a part of it. {_FETCH}"
        )


def _start(path: Path) -> bytes:
    """The first bytes of a file that is neither empty nor a text in a checkpoint's place."""
    with require_regular(path).open("rb") as stream:
        start = stream.read(512)
    if not start:
        raise ValueError(f"{path} is empty (0 bytes). {_EXPECTED} {_FETCH}")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a Git LFS pointer, a few lines of text in the place of the weights. "
            f"{_EXPECTED} Run `git lfs pull` in its repository, or fetch the file itself."
        )
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ValueError(
            f"{path} is a web page, saved in the place of the weights (perhaps a log-in page). "
            f"{_EXPECTED} Save the file behind the download link, which holds `/resolve/`, not "
            "`/blob/`."
        )
    return start


class _MappedTensors(Mapping[str, Tensor]):
    """Tensors of a safetensors file, mapped into memory when they are asked for.

    The file is mapped anew from time to time: what was read through an earlier map, converted and
    let go then leaves memory. One map of the whole file would keep all of it.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self._path = path
        self._open = partial(safe_open, path, framework="pt", device="cpu")
        self._file = self._open()
        self._names = dict.fromkeys(self._file.keys())
        self._handed_out = 0

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with naming_damage(self._path, f"{_EXPECTED} {_FETCH}"):
            if self._handed_out > _BYTES_PER_MAP:
                self._file, self._handed_out = self._open(), 0
            tensor = self._file.get_tensor(name)
        self._handed_out += tensor.numel() * tensor.element_size()
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _load_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError

    _require_whole_safetensors(path)
    try:
        return _MappedTensors(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is a damaged safetensors file: {error}. {_FETCH}") from error


def _require_whole_safetensors(path: Path) -> None:
    """Eight bytes give the length of a JSON header, which tells where each tensor's bytes end."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(8)
        length = int.from_bytes(first, "little")
        following = stream.read(1)
        if len(first) < 8 or length > _LONGEST_HEADER or following not in (b"{", b""):
            raise ValueError(
                f"{path} is not a checkpoint; it begins with {first + following!r}. "
                f"{_EXPECTED} {_FETCH}"
            )
        needed = 8 + length
        if size >= needed:
            try:
                header = parse_json((following + stream.read(length - 1)).decode())
                ends = [
                    int(entry["data_offsets"][1])
                    for name, entry in header.items()
                    if name != "__metadata__"
                ]
            except Exception as error:
                raise ValueError(
                    f"{path} begins like a safetensors file, but its header cannot be read "
                    f"({_first_line(error)}). {_EXPECTED} {_FETCH}"
                ) from error
            needed += max(ends, default=0)
    if size < needed:
        raise ValueError(
            f"{path} is truncated: it has {size} bytes of at least {needed}. {_EXPECTED} {_FETCH}"
        )


def read_torch(path: Path, expected: str) -> object:
    """All that a torch file holds, if it holds tensors, plain containers and options alone.

    Its bytes are read from disk when they are used.

    Args:
        expected: Sentences that end the message: what the file should be, and what to do.

    Raises:
        ValueError: It is damaged or holds Python objects, none of which was made.
        OSError: It cannot be read.
    """
    require_regular(path)
    try:
        # A Namespace of options is attributes alone, and stands in many published files. Files of
        # torch before 1.6 are plain pickles, which cannot be mapped into memory.
        with (
            naming_damage(path, expected),
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            if zipfile.is_zipfile(path):
                _require_records_within(path)
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            # As bytes: of a file as many would be asked for as a damaged count says.
            stream = io.BytesIO(path.read_bytes())
            if stream.getbuffer()[:2] == b"PK":
                raise ValueError(
                    f"{path} cannot be read: it is truncated, a torch file that lacks its end, at "
                    f"{path.stat().st_size} bytes. {expected}"
                )
            _require_storages_within(stream)
            return torch.load(stream, map_location="cpu", weights_only=True)
    except ValueError as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        raise ValueError(
            f"{path} cannot be read: it holds Python objects beside tensors, or is damaged: "
            f"{_first_refusal(error.__cause__)}. {expected} Objects could run any program when "
            "opened: get the tensors alone, or from someone you trust."
        ) from error


def _require_records_within(path: Path) -> None:
    """Raise ValueError where a record of an archive claims to be larger than the file."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.file_size > size:
                raise ValueError(f"its {record.filename!r:.80} has {record.file_size} bytes")


def _require_storages_within(stream: io.BytesIO) -> None:
    """Raise ValueError where tensors of an old torch file claim to be larger than the file.

    torch would ask for their memory before it reads them. Four pickles come first: two numbers that
    tell the format, the system, and the objects, in which `(storage, type, key, place, numbers,
    view)` stands for a tensor's memory.
    """
    size, numbers, claimed = len(stream.getbuffer()), [], 0
    with contextlib.suppress(Exception):  # Of what is no pickle torch says what is wrong with it.
        for _ in range(4):
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "MARK":
                    numbers = []
                elif operation.name == "BINPERSID":
                    claimed = max(claimed, *numbers, 0)
                elif isinstance(argument, int):
                    numbers.append(argument)
    stream.seek(0)
    if claimed > size:
        raise ValueError(f"it has a tensor of {claimed} numbers in {size} bytes")


def _first_refusal(error: Exception) -> str:
    """The sentence of torch's long message that names what was found."""
    named = re.search(r"(Unsupported (global|class|operand)|Trying to load)[^\n]*", str(error))
    return named.group().rstrip(" .") if named else _first_line(error)


def _is_whole(value: object) -> bool:
    """Whether something is a tensor with a number in every place: not sparse, quantised or empty
    of memory."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_quantized or value.is_nested)
    )


def _tensors_only(path: Path, content: object) -> dict[str, Tensor]:
    """The dictionary of tensors, taken out of its wrapper if it has one."""
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                rest = sorted(str(other) for other in content if other != key)
                beside = f"; left out: {', '.join(rest)}" if rest else ""
                say(f"{path.name}: the tensors are taken from its entry {key!r}{beside}")
                content = content[key]
                break
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}. {_EXPECTED} {_FETCH}")
    others = [
        f"{name!r} ({type(value).__name__})"
        for name, value in content.items()
        if not isinstance(name, str) or not _is_whole(value)
    ]
    if others or not content:
        found = f"{len(others)} entries that are not tensors: {listed(others)}"
        raise ValueError(
            f"{path} holds {found if others else 'no entries'}. {_EXPECTED} Save the tensors "
            "alone, or under the key 'state_dict'."
        )
    return {name: value.detach() for name, value in content.items()}
