"""Matches between two photos whose cameras are nearly known, without all products of features."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8


def guided_matches(
    first: tuple[Float64[np.ndarray, "_one 2"], UInt8[np.ndarray, "_one 128"]],
    second: tuple[Float64[np.ndarray, "_two 2"], UInt8[np.ndarray, "_two 128"]],
    fundamental: Float64[np.ndarray, "3 3"],
    *,
    band: float,
    ratio: float,
) -> Int64[np.ndarray, "_match 2"]:
    """Rows of features that are each other's nearest among those near its epipolar line.

    Args:
        first: Pinhole pixels and descriptors of one photo.
        second: Of the other.
        fundamental: F with x₂ᵀ F x₁ = 0.
        band: Pixels by which a feature may be off the other's line.
        ratio: Most of the distance of the second nearest (Lowe 2004) that the nearest may have.
            The second nearest, too, is sought near the line.

    Raises:
        ValueError: Counts of pixels and descriptors do not agree.
    """
    from fm3d_plugins.kernels.guided_matching.kernels import nearest_by_line

    for pixels, descriptors in (first, second):
        if len(pixels) != len(descriptors) or descriptors.shape[1:] != (128,):
            raise ValueError(
                f"guided_matches got {len(pixels)} pixels and descriptors of shape "
                f"{list(descriptors.shape)}. Expected [n, 2] and [n, 128]. Pass those of one photo."
            )
    there, back = (_Nearest.of(len(pixels)) for pixels, _ in (first, second))
    nearest_by_line(
        *_arrays(first), *_arrays(second), fundamental, band,
        there.squared, there.row, back.squared, back.row,
    )  # fmt: skip
    rows = np.flatnonzero(there.are_clear(ratio))
    partner = there.row[rows]
    mutual = (back.row[partner] == rows) & back.are_clear(ratio)[partner]
    return np.stack([rows[mutual], partner[mutual]], axis=1)


@dataclass(frozen=True)
class _Nearest:
    """What is nearest to each feature of a photo."""

    squared: Int64[np.ndarray, "feature 2"]
    """Distances of the two nearest."""
    row: Int64[np.ndarray, " feature"]
    """The nearest; -1 for none."""

    @staticmethod
    def of(count: int) -> "_Nearest":
        return _Nearest(np.empty((count, 2), np.int64), np.empty(count, np.int64))

    def are_clear(self, ratio: float) -> Bool[np.ndarray, " feature"]:
        return (self.row >= 0) & (self.squared[:, 0] < ratio**2 * self.squared[:, 1])


def _arrays(features: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(features[0]), np.ascontiguousarray(features[1])
