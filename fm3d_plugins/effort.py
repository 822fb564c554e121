"""How much a run may cost: one word from the user, the photos, the memory, the machine's cores."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from fm3d_plugins.files import read_json
from fm3d_plugins.memory import available_memory
from fm3d_plugins.photos.photo_set import count_photos

Quality = Literal["fast", "balanced", "best"]

TRANSFORMS = "transforms.json"

SHARE_OF_MEMORY = 0.4
"""Of what is free when a run begins: photos, the rasteriser and the viewer need some as well."""

USUAL_ASPECT = 0.75
"""Short side over long side of a usual photo."""


@dataclass(frozen=True)
class Effort:
    """What a recipe may spend."""

    quality: Quality = "balanced"
    photos: int = 0
    """How many there are; 0: unknown."""
    memory: int | None = None
    """Bytes that the method may take; None: unknown."""

    def steps(self, base: int, per_photo: int, most_per_photo: int = 0, fewest: int = 0) -> int:
        """A run's length.

        Args:
            base: So many steps,
            per_photo: or so many for each photo where that is more,
            most_per_photo: or so many for each photo where that is less (0: never),
            fewest: but then not less than that.
        """
        wanted = max(base, per_photo * self.photos)
        if not (self.photos and most_per_photo):
            return wanted
        return min(wanted, max(fewest, most_per_photo * self.photos))

    def within_memory(self, wanted: int, bytes_each: int) -> int:
        """As many things as wanted, or as the memory has room for, to two digits."""
        if self.memory is None:
            return wanted
        most = int(SHARE_OF_MEMORY * self.memory) // bytes_each
        if wanted <= most:
            return wanted
        digits = 10 ** max(0, len(str(most)) - 2)
        return max(1, most // digits * digits)


def effort_for(quality: Quality, data: Path | None, device_type: str) -> Effort:
    """What a run on these photos may spend.

    Args:
        quality: The user's word.
        data: A folder of photos or a posed scene, or a transforms.json; None: unknown.
        device_type: "cpu", "cuda" or "mps".
    """
    return Effort(quality, photos_in(data), _memory(device_type))


def photos_in(data: Path | None) -> int:
    """How many photos a run will have, by names alone; 0 where that cannot be told.

    What is wrong with the folder is said later, by those who read it.
    """
    if data is None:
        return 0
    file = data if data.suffix == ".json" else data / TRANSFORMS
    try:
        if file.is_file():
            frames = read_json(file).get("frames")
            return len(frames) if isinstance(frames, list) else 0
        return count_photos(data)
    except (OSError, ValueError, AttributeError):
        return 0


def _memory(device_type: str) -> int | None:
    if device_type == "cuda" and not torch.cuda.is_available():
        return None  # A configuration for another machine.
    if device_type == "mps":
        return None
    return available_memory(torch.device(device_type))


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def minutes_on_cpu(cpu_seconds: float) -> str:
    """What a user may expect of work that uses all cores: "about 4 minutes on 2 cores"."""
    count = cores()
    minutes = max(1, round(cpu_seconds / count / 60))
    return f"about {minutes} minute{'s' * (minutes > 1)} on {count} core{'s' * (count > 1)}"


def pixels_of(long_side: int) -> int:
    """Of a usual photo."""
    return round(long_side**2 * USUAL_ASPECT)
