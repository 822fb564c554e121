"""Which frames of each scene are shown and asked for in an evaluation."""

from dataclasses import dataclass
from pathlib import Path

from fm3d_plugins.files import read_json_object


@dataclass(frozen=True)
class EvaluationViews:
    """Frames of one scene."""

    context: tuple[int, ...]
    """What the network is shown."""
    targets: tuple[int, ...]
    """What its renders are compared with."""

    def in_order(self) -> tuple[list[int], list[int], list[int]]:
        """All frames in the order of the video, and where context and targets stand among them."""
        frames = sorted(self.context + self.targets)
        return (
            frames,
            [frames.index(number) for number in self.context],
            [frames.index(number) for number in self.targets],
        )


def read_evaluation_index(path: Path) -> dict[str, EvaluationViews]:
    """Frames by scene, from pixelSplat's JSON layout; scenes that are null in it are left out.

    Raises:
        ValueError: It is no such file.
        OSError: It cannot be read.
    """
    expected = "for each scene null, or an object with `context` and `target`"
    found = {}
    for scene, entry in read_json_object(path, expected).items():
        if entry is None:
            continue
        views = [entry.get(key) if isinstance(entry, dict) else None for key in _KEYS]
        if not all(
            isinstance(view, list) and view and all(map(_is_number, view)) for view in views
        ):
            raise ValueError(
                f"{path}: the scene {scene} has {entry!r:.80}; expected an object with `context` "
                "and `target`, lists of frame numbers from 0, or null. Correct the entry."
            )
        found[scene] = EvaluationViews(*(tuple(view) for view in views if view))
    if not found:
        raise ValueError(f"{path} names no scene with frames. Expected {expected}. Choose another.")
    return found


LARGEST_FRAME = 10**9
"""No video has more frames."""

_KEYS = ("context", "target")


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < LARGEST_FRAME
