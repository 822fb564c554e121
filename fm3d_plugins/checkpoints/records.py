"""What is remembered about weights: a file's hash and where it came from, licences shown.

Records are small JSON files beside the weights in this package's own folder. For files elsewhere
(a user's own, the hub's cache), which may lie where nothing can be written, they are kept in the
subfolder `records`.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.cache_folder import cache_folder
from fm3d_plugins.checkpoints.catalogue import Licence, PublishedCheckpoint
from fm3d_plugins.files import read_json, require_regular
from fm3d_plugins.progress import say

_CHUNK = 1 << 22


def weights_folder(published: PublishedCheckpoint | None = None) -> Path:
    """This package's folder of weights, or within it the one of a published checkpoint."""
    folder = cache_folder() / "weights"
    return folder / published.name.replace("/", "--") if published else folder


Origin = Literal["hub", "computed"]


@dataclass(frozen=True)
class FileRecord:
    """What is known about one file's bytes."""

    sha256: str
    sha256_from: Origin
    """Who says so: the hub, before the file came, or this computer, which read the file."""
    size: int
    """Bytes."""
    modified_ns: int
    """The file's time of change; while it and the size stay, the file is taken as unchanged."""
    revision: str | None = None
    """Commit of the hub's repository."""

    @classmethod
    def of(cls, file: Path, sha256: str, origin: Origin, revision: str | None) -> "FileRecord":
        """The record of a file as it is now."""
        status = file.stat()
        return cls(sha256, origin, status.st_size, status.st_mtime_ns, revision)

    def is_current(self, file: Path) -> bool:
        """Whether the file has not been written to since."""
        status = file.stat()
        return (status.st_size, status.st_mtime_ns) == (self.size, self.modified_ns)


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal: a few seconds per five gigabytes."""
    digest = hashlib.sha256()
    with require_regular(file).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_record(file: Path) -> FileRecord | None:
    """The record of a file; None if there is none.

    Raises:
        ValueError: There is one, but it cannot be understood.
    """
    path = _beside(file, "")
    try:
        record = FileRecord(**read_json(path))
        if not is_sha256(str(record.sha256)) or record.sha256_from not in ("hub", "computed"):
            raise ValueError("it holds no SHA-256, or does not tell whose")
        return record
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is not a readable record of {file.name} ({error}). Expected JSON as written "
            "when the file was fetched. Delete both files and fetch again, or delete the record "
            "if the weights are your own."
        ) from error


def write_record(file: Path, record: FileRecord) -> None:
    """Keep a record."""
    _write(_beside(file, ""), asdict(record))


def known_sha256(file: Path) -> str:
    """The file's SHA-256, from its record while the file is unchanged, else by reading it.

    Raises:
        ValueError: The file is no longer what the hub handed out.
    """
    record = read_record(file)
    if record and record.is_current(file):
        return record.sha256
    from_hub = sha256_of_hub(file)
    # The name of a file in the hub's cache is believed as long as nothing was written to it.
    sha256 = from_hub if from_hub and not record else file_sha256(file)
    if from_hub and from_hub != sha256:
        raise ValueError(damage(file, from_hub, sha256))
    origin, revision = "hub" if from_hub else "computed", record.revision if record else None
    write_record(file, FileRecord.of(file, sha256, origin, revision))
    return sha256


def sha256_of_hub(file: Path) -> str | None:
    """What the hub said a file's SHA-256 is; None where that is not known.

    It stands in the record of a file that was fetched here; the hub's own cache names large files
    by it.
    """
    record = read_record(file)
    if record:
        return record.sha256 if record.sha256_from == "hub" else None
    real = file.resolve()
    is_blob = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    return real.name if is_blob and is_sha256(real.name) else None


def damage(file: Path, expected: str, found: str) -> str:
    """The message about a file that is not what the hub handed out."""
    return (
        f"{file} has SHA-256 {found} and {file.stat().st_size} bytes; expected {expected}, as the "
        "hub said when it came. It was changed or is damaged: delete it and, if there is one, its "
        f"record {_beside(file, '')}, and fetch it again."
    )


def show_licence_once(licence: Licence, file: Path, published: PublishedCheckpoint | None) -> None:
    """Print the licence before the weights' first use and remember that it was shown.

    Nothing is asked: the same happens where nobody sits before the console.
    """
    path = (
        weights_folder(published) / "licence.json" if published else _beside(file, ".licence.json")
    )
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # Damaged: shown again.
        if read_json(path)["licence"] == asdict(licence):
            return
    name = published.name if published else str(file)
    text = f"Licence of {name}: {licence.name} ({licence.permits})."
    say(f"{text} Its text: {licence.url}" if licence.url else text, style="yellow")
    shown_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    _write(path, {"weights": name, "licence": asdict(licence), "shown_at": shown_at})


def _beside(file: Path, suffix: str) -> Path:
    """Where the record of a file is: beside it in our own folder, apart for files elsewhere."""
    own, name = weights_folder().resolve(), f"{file.name}{suffix or '.json'}"
    folder = file.parent.resolve()
    if own in folder.parents:
        return folder / name
    digest = hashlib.blake2b(str(folder / file.name).encode(), digest_size=10).hexdigest()
    return own / "records" / f"{digest}-{name}"


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256 in hexadecimal (the hub also has shorter git hashes)."""
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)


def _write(path: Path, content: Mapping[str, object]) -> None:
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror}). Expected a folder that can be written, "
            "where hashes and shown licences are remembered. Choose another with FM3D_CACHE_DIR; "
            "the weights themselves may be anywhere: give their path."
        ) from error
