"""What the network says of pairs of photos, and where that is kept."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

FILE_LIMIT = 1e4
"""Points further away than this many median distances are kept at it: half precision ends at
65 504."""


@dataclass(frozen=True)
class PairPointmaps:
    """Two photos as one ordered pair shows them. Every pair has a unit of its own.

    Any device and precision.
    """

    first: int
    """Number of the photo whose camera the points refer to (OpenCV axes)."""
    second: int
    """Number of the other photo."""
    points_first: Float[Tensor, "rows columns 3"]
    """What the first photo's pixels see, in the first camera's frame."""
    confidence_first: Float[Tensor, "rows columns"]
    """In (1, inf)."""
    points_second_in_first: Float[Tensor, "rows2 columns2 3"]
    """What the second photo's pixels see, in the **first** camera's frame."""
    confidence_second: Float[Tensor, "rows2 columns2"]
    """As of the first."""

    @property
    def sides(self) -> tuple[tuple[int, Tensor, Tensor], tuple[int, Tensor, Tensor]]:
        """Photo, points and confidence of the first photo, then of the second."""
        return (
            (self.first, self.points_first, self.confidence_first),
            (self.second, self.points_second_in_first, self.confidence_second),
        )


class PairStore:
    """Pairs kept as files in half precision while they are made; read one at a time.

    Rounding moves a point by at most 0.05 % of its distance, less than the network can tell.
    Can be iterated any number of times. The files are the caller's to delete.
    """

    def __init__(self, folder: Path) -> None:
        """Args:
        folder: An existing folder, best a temporary one: a pair of 512 x 384 takes 3 MB.
        """
        self._folder = folder
        self._kept: list[tuple[int, int, float, list[tuple[int, ...]]]] = []

    def put(self, pair: PairPointmaps) -> None:
        """Keep one pair behind those already kept.

        Raises:
            ValueError: Points or confidences are not finite.
        """
        maps = [getattr(pair, field.name).detach().cpu() for field in fields(pair)[2:]]
        if not all(bool(each.isfinite().all()) for each in maps):
            raise ValueError(
                f"The pair of photos {pair.first} and {pair.second} has points or confidences "
                "that are not finite. Expected finite ones; the network's weights or its "
                "precision are at fault: try float32."
            )
        # In units of the median distance, so that half precision fits any pair.
        unit = float(pair.points_first.norm(dim=-1).median().clamp(min=1e-30))
        with (self._folder / f"{len(self._kept)}.pair").open("wb") as file:
            for each in maps:
                scaled = each / unit if each.ndim == 3 else each
                scaled.clamp(-FILE_LIMIT, FILE_LIMIT).half().numpy().tofile(file)
        self._kept.append((pair.first, pair.second, unit, [tuple(m.shape) for m in maps]))

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[PairPointmaps]:
        for number, (first, second, unit, shapes) in enumerate(self._kept):
            maps = []
            with (self._folder / f"{number}.pair").open("rb") as file:
                for shape in shapes:
                    flat = np.fromfile(file, dtype=np.float16, count=int(np.prod(shape)))
                    values = torch.from_numpy(flat.reshape(shape)).float()
                    maps.append(values * unit if len(shape) == 3 else values)
            yield PairPointmaps(first, second, *maps)
