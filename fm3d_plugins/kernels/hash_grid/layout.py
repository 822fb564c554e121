"""Where each level of a multiresolution hash grid keeps its values."""

import math
from dataclasses import dataclass
from functools import cached_property

FEATURES_PER_LEVEL = 4
PRIMES = (1, 2_654_435_761, 805_459_861)
"""Müller et al. 2022, equation 4."""


@dataclass(frozen=True)
class HashGridLayout:
    """Levels of a hash grid over the unit cube (Müller et al. 2022, "Instant Neural Graphics
    Primitives"), laid out as tiny-cuda-nn does, so that tables can be exchanged with it.

    A level has `resolution`^3 points. Where they fit into 2^log2_table_size entries each has its
    own entry, elsewhere they share entries by a hash of their coordinates.

    Raises:
        ValueError: A number is out of range.
    """

    num_levels: int = 8
    base_resolution: int = 16
    """Grid points along an axis on the coarsest level."""
    growth: float = 2.0
    """Resolution of a level over that of the one before."""
    log2_table_size: int = 17
    """At most 2 to this power entries per level."""

    def __post_init__(self) -> None:
        if self.num_levels < 1 or self.base_resolution < 2 or self.growth < 1.0:
            raise ValueError(
                f"The hash grid has num_levels {self.num_levels}, base_resolution "
                f"{self.base_resolution} and growth {self.growth}. Expected at least 1, 2 and 1.0."
            )
        if not 4 <= self.log2_table_size <= 24:
            raise ValueError(
                f"log2_table_size is {self.log2_table_size}. Expected 4 to 24 (16 to 16 million "
                "entries per level)."
            )

    @property
    def num_features(self) -> int:
        """Features of a position, all levels together."""
        return self.num_levels * FEATURES_PER_LEVEL

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Position in the unit cube to position between grid points, per level, before + 0.5."""
        return tuple(
            self.base_resolution * self.growth**level - 1.0 for level in range(self.num_levels)
        )

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Grid points along an axis, per level."""
        return tuple(math.ceil(scale) + 1 for scale in self.scales)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Entries per level: a multiple of 8, at most the table size."""
        return tuple(
            min(-(-(resolution**3) // 8) * 8, 2**self.log2_table_size)
            for resolution in self.resolutions
        )

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First entry of each level in the table, and the number of all entries."""
        return tuple(sum(self.sizes[:level]) for level in range(self.num_levels + 1))

    @cached_property
    def are_hashed(self) -> tuple[bool, ...]:
        """Whether a level's points share entries."""
        return tuple(
            resolution**3 > size
            for resolution, size in zip(self.resolutions, self.sizes, strict=True)
        )

    @property
    def num_entries(self) -> int:
        """Rows of the table."""
        return self.offsets[-1]
