"""The similarity between two chunks, measured on the photos that are in both."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.geometry.alignment import Similarity, robust_umeyama
from fm3d_plugins.geometry.pose_graph import points_information
from fm3d_plugins.geometry.poses import nearest_rotation
from fm3d_plugins.geometry.robust import geman_mcclure_weight

LEAST_POINTS = 64
"""Fewer pixels with depth in both chunks say nothing reliable."""

LEAST_INLIER_SHARE = 0.3
"""Fewer points in agreement are chance: two clouds along the same rays always agree a little."""

INLIER_DISTANCE = 0.05
"""Largest distance between two points that agree, as a share of their depth."""

CAMERA_SHARE = 0.1
"""Weight of the shared cameras' places and orientations, as a share of that of all points."""

CONFIDENCE_LIMITS = (0.1, 4.0)
"""Confidence as a multiple of the median: pixels below are left out, above none counts for more."""

MAX_REWEIGHTINGS = 50

_TUKEY_SPREADS = 3.0
"""Distance in robust standard deviations at which a point has lost three quarters of its weight."""

_SMALLEST_SPREAD = 1e-7
"""Share of the depth below which points of exact predictions differ by rounding alone."""


@dataclass(frozen=True)
class SharedView:
    """Some pixels of a photo as one chunk sees them; the same pixels in all its chunks."""

    points: Float[Tensor, "pixel 3"]
    """In the chunk's world."""
    depth: Float[Tensor, " pixel"]
    """Their z-depth in the photo, in the chunk's unit; not positive is unknown."""
    confidence: Float[Tensor, " pixel"]
    """In any unit; 0 must not be used."""
    world_from_camera: Float[Tensor, "4 4"]
    """The photo's rigid camera in the chunk's world."""


@dataclass(frozen=True)
class JointMeasurement:
    """How one chunk lies in another, and how well the two agree."""

    first_from_second: Float[Tensor, "4 4"]
    """From the second chunk's world and unit into the first's."""
    information: Float[Tensor, "7 7"]
    """Of `first_from_second` for `solve_pose_graph`: the mean squared displacement of the shared
    points, as a share of their depth, over their mean squared disagreement."""
    inlier_share: float
    """Share of the shared points that lie within `INLIER_DISTANCE` of each other."""
    residual: float
    """Median distance of the shared points, as a share of their depth."""


@dataclass(frozen=True)
class _Pairs:
    """Corresponding points and cameras of both chunks, double precision."""

    first: Float[Tensor, "point 3"]
    second: Float[Tensor, "point 3"]
    first_depth: Float[Tensor, " point"]
    second_depth: Float[Tensor, " point"]
    weights: Float[Tensor, " point"]
    first_cameras: Float[Tensor, "view 4 4"]
    second_cameras: Float[Tensor, "view 4 4"]


def measure_joint(first: Sequence[SharedView], second: Sequence[SharedView]) -> JointMeasurement:
    """Robust similarity from points of the same pixels and the cameras of the same photos.

    Points are weighted by confidence and by their inverse squared depth, because depth is wrong
    in proportion. After a start by least median of squares, wrong points are faded out with
    Geman and McClure's weights. The scale is the ratio of both sets' spreads (Horn 1987, section
    2.D): unlike the least squares one it is not too small where both sets are noisy, an error
    that would grow with every joint of a chain.

    Args:
        first: The shared photos as the first chunk sees them.
        second: The same photos, pixel for pixel, as the second one does.

    Raises:
        ValueError: Too few points, or too few that agree; the message says how many.
    """
    pairs = _corresponding(first, second)
    start, _ = robust_umeyama(pairs.second, pairs.first, pairs.weights)
    similarity, weights, distances = _reweight(pairs, start)
    inlier_share = float((distances <= INLIER_DISTANCE).double().mean())
    if inlier_share < LEAST_INLIER_SHARE:
        raise ValueError(
            f"of {len(distances)} points only {inlier_share:.0%} agree within "
            f"{INLIER_DISTANCE:.0%} of their depth under the best similarity; at least "
            f"{LEAST_INLIER_SHARE:.0%} are needed"
        )
    residual = float(distances.median())
    variance = (max(residual, _SMALLEST_SPREAD) * 1.4826) ** 2
    shares = weights / (weights * pairs.second_depth.square()).sum()
    return JointMeasurement(
        similarity.matrix(),
        points_information(pairs.second, shares / variance),
        inlier_share,
        residual,
    )


def _corresponding(first: Sequence[SharedView], second: Sequence[SharedView]) -> _Pairs:
    """Points that both chunks know, with the weight of their confidence."""
    counts = [_usable(a) & _usable(b) for a, b in zip(first, second, strict=True)]
    num_points = int(sum(int(count.sum()) for count in counts))
    if num_points < LEAST_POINTS:
        raise ValueError(
            f"only {num_points} pixels have a depth and a confidence in both; at least "
            f"{LEAST_POINTS} are needed"
        )

    def gather(views: Sequence[SharedView], name: str) -> Tensor:
        parts = [getattr(view, name)[used] for view, used in zip(views, counts, strict=True)]
        return torch.cat(parts).double()

    certainty = torch.ones(num_points, dtype=torch.float64)
    for views in (first, second):
        confidence = gather(views, "confidence")
        certainty *= (confidence / confidence.median()).clamp(max=CONFIDENCE_LIMITS[1])
    cameras = (
        torch.stack([v.world_from_camera for v in views]).double() for views in (first, second)
    )
    return _Pairs(
        gather(first, "points"),
        gather(second, "points"),
        gather(first, "depth"),
        gather(second, "depth"),
        certainty.sqrt(),
        *cameras,
    )


def _usable(view: SharedView) -> Bool[Tensor, " pixel"]:
    """Pixels with a depth and not the least confident ones of the photo."""
    known = (view.depth > 0) & view.depth.isfinite() & (view.confidence > 0)
    known &= view.confidence.isfinite()
    if not bool(known.any()):
        return known
    return known & (view.confidence >= CONFIDENCE_LIMITS[0] * view.confidence[known].median())


def _reweight(
    pairs: _Pairs, similarity: Similarity
) -> tuple[Similarity, Float[Tensor, " point"], Float[Tensor, " point"]]:
    """Refine until stable: the similarity, the last weights, and distances per depth."""
    previous = similarity.matrix()
    weights, distances = pairs.weights, pairs.weights
    for _ in range(MAX_REWEIGHTINGS):
        # The larger depth of both: a pixel that one chunk wrongly sees close must not count more.
        depth = torch.maximum(pairs.first_depth, similarity.scale * pairs.second_depth)
        distances = (similarity.apply(pairs.second) - pairs.first).norm(dim=-1) / depth
        spread = 1.4826 * float(distances.median())
        reach = _TUKEY_SPREADS * max(spread, _SMALLEST_SPREAD)
        robust = geman_mcclure_weight(distances.square(), reach)
        weights = pairs.weights * robust / depth.square()
        similarity = _fit(pairs, weights)
        matrix = similarity.matrix()
        change = (matrix - previous).abs().max() / matrix.abs().max()
        previous = matrix
        if float(change) < 1e-10:
            break
    # In the second chunk's unit, as the information is.
    return similarity, weights * similarity.scale.square(), distances


def _fit(pairs: _Pairs, weights: Float[Tensor, " point"]) -> Similarity:
    """Weighted similarity of points and camera centres, turned by the cameras' axes as well."""
    num_views = len(pairs.first_cameras)
    of_camera = CAMERA_SHARE * weights.sum() / num_views
    shares = torch.cat([weights, of_camera.expand(num_views)])
    shares = (shares / shares.sum()).unsqueeze(-1)
    first = torch.cat([pairs.first, pairs.first_cameras[:, :3, 3]])
    second = torch.cat([pairs.second, pairs.second_cameras[:, :3, 3]])
    first_mean, second_mean = (shares * first).sum(0), (shares * second).sum(0)
    first, second = first - first_mean, second - second_mean
    first_spread = (shares * first.square()).sum().sqrt()
    second_spread = (shares * second.square()).sum().sqrt()
    covariance = (shares * first).T @ second / (first_spread * second_spread)
    turns = pairs.first_cameras[:, :3, :3] @ pairs.second_cameras[:, :3, :3].transpose(-1, -2)
    rotation = nearest_rotation(covariance + CAMERA_SHARE * turns.mean(0) / 3)
    scale = first_spread / second_spread
    return Similarity(scale, rotation, first_mean - scale * (rotation @ second_mean))
