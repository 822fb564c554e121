"""Cameras and depth of exactly two photos, without optimisation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.backends.opencv import absolute_pose
from fm3d_plugins.dust3r.alignment.views import AlignedViews
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.focal import weiszfeld_focal
from fm3d_plugins.geometry.pointmaps import depth_from_pointmap
from fm3d_plugins.geometry.poses import invert
from fm3d_plugins.geometry.rays import pixel_centers

PNP_ITERATIONS, PNP_PIXELS = 100, 5.0
"""Hypotheses and largest reprojection error, in pixels, of the second camera's pose."""

LEAST_CONFIDENCE = 3.0
"""Pixels below it do not take part in the pose."""

LEAST_INLIER_SHARE = 0.2
"""Fewer confident pixels that agree with the pose are chance."""

INTEGER_CENTER, CORNER_CENTER = 0.0, 0.5
"""Where the published code has the first pixel's centre, and where this package has it."""


@dataclass(frozen=True)
class RelativePose:
    """The second photo of a pair, as seen from the first.

    Attributes:
        first_from_second: Rigid, OpenCV axes, unit of the pair.
        inlier_share: Of the confident pixels, those whose point the camera sees where it should.
    """

    first_from_second: Float[Tensor, "4 4"]
    inlier_share: float


def relative_pose(
    pair: PairPointmaps,
    intrinsics_second: Float[Tensor, "3 3"],
    *,
    first_center: float = CORNER_CENTER,
    least_confidence: float | int = LEAST_CONFIDENCE,
) -> RelativePose:
    """Pose of a pair's second camera by its pixels' points in the first camera's frame.

    Args:
        intrinsics_second: In pixels of the pointmap.
        first_center: Where the first pixel's centre is, for which the intrinsics hold.

    Raises:
        ValueError: Too few pixels are confident or agree on a pose; the message names the pair.
    """
    height, width = pair.confidence_second.shape
    pixels = pixel_centers(height, width) - CORNER_CENTER + first_center
    sure = pair.confidence_second > least_confidence
    try:
        second_from_first, agrees = absolute_pose(
            pair.points_second_in_first[sure],
            pixels[sure],
            intrinsics_second.to(pair.points_second_in_first),
            threshold=PNP_PIXELS,
            iterations=PNP_ITERATIONS,
        )
    except ValueError as error:
        raise ValueError(
            f"The pair of photos {pair.first} and {pair.second} gives no relative pose. {error}"
        ) from error
    share = float(agrees.float().mean())
    if share < LEAST_INLIER_SHARE:
        raise ValueError(
            f"The pair of photos {pair.first} and {pair.second} gives no relative pose: only "
            f"{share:.0%} of its confident pixels agree with the best one within {PNP_PIXELS} px; "
            f"expected at least {LEAST_INLIER_SHARE:.0%}. The photos may not show the same place, "
            "or the intrinsics are wrong."
        )
    return RelativePose(invert(second_from_first), share)


@torch.no_grad()
def align_two_views(
    pairs: Sequence[PairPointmaps],
    intrinsics: Float[Tensor, "2 3 3"] | None = None,
    *,
    first_center: float = CORNER_CENTER,
    least_confidence: float | int = LEAST_CONFIDENCE,
) -> AlignedViews:
    """Cameras and depth of two photos from the pair that is surer, in its unit.

    Each focal length is that of the photo's own pointmap. The world is the camera of the surer
    pair's first photo; the other's pose is found from its pixels and points.

    Args:
        pairs: Photos 0 and 1 in both orders, any order of the two.
        intrinsics: Known ones; none estimates focal lengths, principal points in the middle.
        first_center: Where the first pixel's centre is; also of the result's intrinsics. 0 with
            principal points at half the size is what the published code has.
        least_confidence: Pixels below it do not take part in the pose.

    Raises:
        ValueError: Not exactly these two pairs, or no pose is found; the message names the pair.
    """
    by_first = _by_first(pairs)
    if intrinsics is None:
        intrinsics = torch.stack(
            [_estimated_intrinsics(by_first[photo], first_center) for photo in (0, 1)]
        )
    first = int(_score(by_first[1]) > _score(by_first[0]))
    surer, second = by_first[first], 1 - first
    pose = relative_pose(
        surer, intrinsics[second], first_center=first_center, least_confidence=least_confidence
    ).first_from_second
    poses = torch.eye(4).to(pose).repeat(2, 1, 1)
    poses[second] = pose
    depth = [surer.points_first[..., 2]] * 2
    depth[second] = depth_from_pointmap(surer.points_second_in_first, invert(pose))
    confidence = [
        torch.maximum(by_first[photo].confidence_first, by_first[1 - photo].confidence_second)
        for photo in (0, 1)
    ]
    return AlignedViews(
        world_from_camera=poses,
        intrinsics=intrinsics,
        depth=[each.clamp(min=0) for each in depth],
        confidence=confidence,
        pairs=torch.tensor([[first, second]]),
        pair_scales=pose.new_ones(1),
        report=None,
    )


def _by_first(pairs: Sequence[PairPointmaps]) -> dict[int, PairPointmaps]:
    """Both pairs by their first photo."""
    if len(pairs) != 2 or {(p.first, p.second) for p in pairs} != {(0, 1), (1, 0)}:
        raise ValueError(
            f"Two views are aligned from the pairs (0, 1) and (1, 0); found "
            f"{[(pair.first, pair.second) for pair in pairs]}. Give both orders once."
        )
    return {pair.first: pair for pair in pairs}


def _score(pair: PairPointmaps) -> float:
    """How sure a pair is."""
    return float(pair.confidence_first.mean() * pair.confidence_second.mean())


def _estimated_intrinsics(pair: PairPointmaps, first_center: float) -> Float[Tensor, "3 3"]:
    """Of a pair's first photo, by its own pointmap."""
    height, width = pair.confidence_first.shape
    middle = torch.tensor([width / 2, height / 2]).to(pair.points_first)
    pixels = pixel_centers(height, width).to(middle) - CORNER_CENTER + first_center - middle
    try:
        focal = weiszfeld_focal(pixels.flatten(0, 1), pair.points_first.flatten(0, 1))
    except ValueError as error:
        raise ValueError(
            f"The focal length of photo {pair.first} cannot be estimated. {error}"
        ) from error
    return intrinsics_matrix(focal, focal, middle[0], middle[1])
