"""Which weights an estimate was made with, also after they are gone."""

import json
from pathlib import Path

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.cache_folder import cache_folder
from fm3d_plugins.checkpoints import find
from fm3d_plugins.checkpoints.records import is_sha256, known_sha256
from fm3d_plugins.files import read_json


def weights_sha256(name_or_path: str) -> str:
    """SHA-256 of the weights of a name or path; nothing is fetched.

    Weights that are no longer here count as those that were here last: what was estimated with
    them stays of use on a computer that has no room for them. Empty if they never were here.

    Raises:
        ValueError: This is neither a file, nor a folder, nor a known name, and never was.
    """
    ledger = cache_folder() / "weights" / "last_used.json"
    known = _read(ledger)
    try:
        found = find(name_or_path)
    except ValueError:
        if name_or_path in known:
            return known[name_or_path]
        raise
    if found is None:
        return known.get(name_or_path, "")
    digest = known_sha256(found.path)
    if known.get(name_or_path) != digest:
        ledger.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(ledger) as temporary:
            temporary.write_text(json.dumps(known | {name_or_path: digest}, indent=1), "utf8")
    return digest


def _read(ledger: Path) -> dict[str, str]:
    """What is written there; nothing where it is absent or damaged, as it can be made anew."""
    try:
        content = read_json(ledger)
    except (OSError, ValueError):
        return {}
    known = content.items() if isinstance(content, dict) else ()
    return {name: digest for name, digest in known if is_sha256(str(digest))}
