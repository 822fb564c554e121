"""What of a data set is not used, and why: a line on the terminal, and all of it in a file."""

import threading
from collections import defaultdict
from pathlib import Path

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.errors import listed

FILE = "skipped_scenes.txt"
"""In a run's folder."""

MOST_SAID = 3
"""Names for each reason on the terminal."""


class SkippedError(ValueError):
    """A scene, or some frames of it, are not to be used.

    Args:
        reason: Few words, the same for all alike.
        detail: What was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Skipped:
    """Scenes that are left out, and those of which frames are, by reason."""

    def __init__(self) -> None:
        self._scenes: dict[str, dict[str, str]] = defaultdict(dict)
        self._frames: dict[str, dict[str, int]] = defaultdict(dict)
        self._file: Path | None = None
        # Batches are made in the background.
        self._lock = threading.Lock()

    def scene(self, name: str, reason: str, detail: str) -> None:
        """A scene is left out, or one batch goes without it; said once for each reason."""
        with self._lock:
            if name not in self._scenes[reason]:
                self._scenes[reason][name] = detail
                self._write()

    def frames(self, name: str, reason: str, count: int) -> None:
        """So many frames of a scene are left out."""
        with self._lock:
            self._frames[reason][name] = count
            self._write()

    def counts(self) -> dict[str, int]:
        """Scenes by reason."""
        return {reason: len(names) for reason, names in self._scenes.items() if names}

    def frame_counts(self) -> dict[str, int]:
        """Frames by reason."""
        return {reason: sum(names.values()) for reason, names in self._frames.items()}

    def sentence(self) -> str:
        """Counts for each reason, and the first names; empty where all is used."""
        parts = [
            f"{len(names)} {'scene' if len(names) == 1 else 'scenes'} ({reason}: "
            f"{listed(names, MOST_SAID)})"
            for reason, names in self._scenes.items()
        ]
        parts += [
            f"{sum(names.values())} frames of {len(names)} scenes ({reason}: "
            f"{listed(names, MOST_SAID)})"
            for reason, names in self._frames.items()
        ]
        return f"Left out: {'; '.join(parts)}." if parts else ""

    def lines(self) -> list[str]:
        """All of it: reason, scene, and what was found, parted by tabs."""
        rows = [
            (reason, name, detail)
            for reason, names in self._scenes.items()
            for name, detail in names.items()
        ]
        rows += [
            (reason, name, f"{count} frames")
            for reason, names in self._frames.items()
            for name, count in names.items()
        ]
        return ["\t".join(" ".join(part.split()) for part in row) for row in rows]

    def keep_in(self, path: Path) -> None:
        """Write all of it to a file, and what comes later.

        Raises:
            OSError: It cannot be written.
        """
        with self._lock:
            self._file = path
            self._write()

    def _write(self) -> None:
        if self._file is not None:
            text = "".join(f"{line}\n" for line in self.lines())
            with atomic_write(self._file) as temporary:
                temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
