"""Matches between the descriptors of two photos, by all products of the two."""

import numpy as np
from jaxtyping import Float64, Int64, UInt8

UNIT = 512.0
"""Length of a descriptor."""

Features = tuple[Float64[np.ndarray, "_feature 2"], UInt8[np.ndarray, "_feature _length"]]
"""Pixels and descriptors."""


def prepare() -> None:
    """Load the compiled code, or compile it; otherwise the first call does."""
    nothing = np.zeros((1, 128), np.uint8)
    mutual_matches(nothing, nothing, ratio=1.0, widest_angle=0.0)


def mutual_matches(
    first: UInt8[np.ndarray, "_one _length"],
    second: UInt8[np.ndarray, "_two _length"],
    *,
    ratio: float,
    widest_angle: float,
) -> Int64[np.ndarray, "_match 2"]:
    """Rows of descriptors that are each other's nearest, and clearly nearer than the next.

    Descriptors are compared by the angle between them; all are, none is left out by a search tree.

    Args:
        first: SIFT of one photo, of length 512 each.
        second: Of the other.
        ratio: Most of the angle of the second nearest (Lowe 2004) that the nearest may have, in
            both directions.
        widest_angle: Beyond which nothing matches, radians.

    Raises:
        ValueError: Descriptors do not have 128 numbers.
    """
    _expect_features(first, second)
    return _matches(first, second, np.empty((0, 3)), np.empty((0, 2)), -1.0, ratio, widest_angle)


def guided_matches(
    first: Features, second: Features, fundamental: Float64[np.ndarray, "3 3"], *, band: float,
    ratio: float,
) -> Int64[np.ndarray, "_match 2"]:  # fmt: skip
    """Rows of features that are each other's nearest among those near its epipolar line.

    Args:
        first: Pinhole pixels and SIFT, of length 512, of one photo.
        second: Of the other.
        fundamental: F with x₂ᵀ F x₁ = 0.
        band: Pixels by which a feature may be off the other's line in the second photo.
        ratio: As of `mutual_matches`. The second nearest, too, is sought near the line.

    Raises:
        ValueError: Counts of pixels and descriptors do not agree, or these do not have 128 numbers.
    """
    _expect_features(first[1], second[1])
    for pixels, descriptors in (first, second):
        if len(pixels) != len(descriptors):
            raise ValueError(
                f"guided_matches got {len(pixels)} pixels and descriptors of shape "
                f"{list(descriptors.shape)}. Expected as many. Pass those of one photo."
            )
    lines = np.pad(first[0], ((0, 0), (0, 1)), constant_values=1.0) @ fundamental.T
    return _matches(first[1], second[1], lines, second[0], band, ratio, np.pi)


def _expect_features(*photos: np.ndarray) -> None:
    for descriptors in photos:
        if descriptors.shape[1:] != (128,):
            raise ValueError(
                f"Matching got descriptors of shape {list(descriptors.shape)}. Expected [n, 128]. "
                "Pass those of two photos."
            )


def _matches(
    first: UInt8[np.ndarray, "one 128"],
    second: UInt8[np.ndarray, "two 128"],
    lines: Float64[np.ndarray, "_line 3"],
    pixels: Float64[np.ndarray, "_place 2"],
    band: float,
    ratio: float,
    widest_angle: float,
) -> Int64[np.ndarray, "_match 2"]:
    from fm3d_plugins.kernels.descriptor_matching.kernels import largest_products

    products = [np.zeros((len(each), 2), np.int32) for each in (first, second)]
    there, back = (np.full(len(each), -1, np.int64) for each in (first, second))
    largest_products(
        np.ascontiguousarray(first), np.ascontiguousarray(second), np.ascontiguousarray(lines),
        np.ascontiguousarray(pixels), band, products[0], there, products[1], back,
    )  # fmt: skip
    are_clear = [
        (angles[:, 0] <= widest_angle) & (angles[:, 0] < ratio * angles[:, 1])
        for angles in (np.arccos(np.minimum(each / UNIT**2, 1.0)) for each in products)
    ]
    rows = np.flatnonzero((there >= 0) & are_clear[0])
    partner = there[rows]
    mutual = (back[partner] == rows) & are_clear[1][partner]
    return np.stack([rows[mutual], partner[mutual]], axis=1)
