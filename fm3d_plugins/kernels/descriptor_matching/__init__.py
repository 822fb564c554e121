"""Matches between the descriptors of two photos, by all products of the two."""

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8

UNIT = 512.0
"""Length of a descriptor."""


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
    from fm3d_plugins.kernels.descriptor_matching.kernels import largest_products

    for descriptors in (first, second):
        if descriptors.shape[1:] != (128,) or descriptors.dtype != np.uint8:
            raise ValueError(
                f"mutual_matches got descriptors of shape {list(descriptors.shape)} and type "
                f"{descriptors.dtype}. Expected [n, 128] of uint8. Pass those of two photos."
            )
    there, back = np.zeros((len(first), 2), np.int32), np.zeros((len(second), 2), np.int32)
    partner, partner_back = np.full(len(first), -1), np.full(len(second), -1)
    largest_products(
        np.ascontiguousarray(first), np.ascontiguousarray(second),
        there, partner, back, partner_back,
    )  # fmt: skip
    rows = np.flatnonzero(_are_clear(there, partner, ratio, widest_angle))
    chosen = partner[rows]
    mutual = partner_back[chosen] == rows
    mutual &= _are_clear(back, partner_back, ratio, widest_angle)[chosen]
    return np.stack([rows[mutual], chosen[mutual]], axis=1)


def _are_clear(
    products: Int32[np.ndarray, "feature 2"],
    partner: Int64[np.ndarray, " feature"],
    ratio: float,
    widest_angle: float,
) -> Bool[np.ndarray, " feature"]:
    angles: Float64[np.ndarray, "feature 2"] = np.arccos(np.minimum(products / UNIT**2, 1.0))
    nearest, next_nearest = angles.T
    return (partner >= 0) & (nearest <= widest_angle) & (nearest < ratio * next_nearest)
