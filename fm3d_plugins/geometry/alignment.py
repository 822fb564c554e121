"""Closed-form alignment by similarities, plain and robust."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.geometry.poses import nearest_rotation, pose_from_rotation_translation

MIN_SPREAD_RATIO = 1e-3
"""Below this ratio of second to first principal spread, camera centres count as one line."""

ROBUST_SCORED_POINTS = 2000
"""How many points judge one hypothesis of `robust_umeyama`; more only cost time."""

ROBUST_REFINEMENTS = 10
"""Most rounds of fit and inlier selection; it is usually stable after three."""


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + translation, from a source frame into a target frame."""

    scale: Float[Tensor, "*batch"]
    rotation: Float[Tensor, "*batch 3 3"]
    translation: Float[Tensor, "*batch 3"]

    def apply(self, points: Float[Tensor, "*batch point 3"]) -> Float[Tensor, "*batch point 3"]:
        """Points of the source frame in the target frame."""
        rotated = points @ self.rotation.transpose(-1, -2)
        return self.scale[..., None, None] * rotated + self.translation.unsqueeze(-2)

    def apply_to_pose(
        self, world_from_camera: Float[Tensor, "*batch view 4 4"]
    ) -> Float[Tensor, "*batch view 4 4"]:
        """Rigid camera poses in the target frame: centres are scaled, cameras are not."""
        rotation = self.rotation.unsqueeze(-3) @ world_from_camera[..., :3, :3]
        centers = self.apply(world_from_camera[..., :3, 3])
        return pose_from_rotation_translation(rotation, centers)

    def inverse(self) -> "Similarity":
        """The similarity from the target frame back into the source frame."""
        rotation = self.rotation.transpose(-1, -2)
        scale = 1 / self.scale
        moved = (rotation @ self.translation.unsqueeze(-1)).squeeze(-1)
        return Similarity(scale, rotation, -scale.unsqueeze(-1) * moved)

    def matrix(self) -> Float[Tensor, "*batch 4 4"]:
        """Homogeneous matrix [[scale * rotation, translation], [0, 1]]."""
        linear = self.scale[..., None, None] * self.rotation
        return pose_from_rotation_translation(linear, self.translation)


def umeyama(
    source: Float[Tensor, "*batch point 3"],
    target: Float[Tensor, "*batch point 3"],
    weights: Float[Tensor, "*batch point"] | None = None,
) -> Similarity:
    """Similarity that minimises Σ w |target - (s R source + t)|² (Umeyama 1991).

    Never a reflection. Points on one line leave the turn about it arbitrary; the residual is
    minimal all the same.

    Args:
        weights: Not negative; none means all equal.

    Raises:
        ValueError: Fewer than three points count, some are not finite, or all coincide.
    """
    weights = source.new_ones(source.shape[:-1]) if weights is None else weights
    _require_alignable(source, target, weights)
    similarity, spread = _umeyama_unchecked(source, target, weights)
    for name, points, deviation in zip(
        ("source", "target"), (source, target), spread.unbind(-1), strict=True
    ):
        # Centring rounds at the size of the coordinates: less spread than that is none.
        rounding = 16 * torch.finfo(points.dtype).eps * points.abs().amax(dim=(-2, -1))
        if bool((deviation <= rounding).any()):
            raise ValueError(
                f"All {points.shape[-2]} weighted {name} points coincide; expected at least two "
                "different places. Without spread neither rotation nor scale is determined: "
                "give points that differ."
            )
    return similarity


def robust_umeyama(
    source: Float[Tensor, "point 3"],
    target: Float[Tensor, "point 3"],
    weights: Float[Tensor, " point"] | None = None,
    *,
    num_hypotheses: int = 256,
) -> tuple[Similarity, Bool[Tensor, " point"]]:
    """Similarity of one point set that ignores wrong correspondences, and which are right.

    Hypotheses from random triples are judged by their median residual (least median of squares,
    Rousseeuw 1984), so fewer than half of the points may be wrong; the best is refitted to its
    inliers, those within 2.5 robust standard deviations, until they no longer change. Equal
    arguments give equal results.

    Args:
        weights: Of the refit, not negative; they do not affect which hypothesis wins.

    Raises:
        ValueError: As `umeyama`, also if fewer than three inliers are left.
    """
    weights = source.new_ones(len(source)) if weights is None else weights
    _require_alignable(source, target, weights)
    similarity, median = _least_median_hypothesis(source, target, num_hypotheses)
    # 1.4826 turns a median absolute residual into a Gaussian's standard deviation.
    rounding = 16 * torch.finfo(target.dtype).eps * float(target.abs().max())
    threshold = 2.5 * 1.4826 * median + rounding
    inliers = _residuals(similarity, source, target) <= threshold
    for _ in range(ROBUST_REFINEMENTS):
        similarity = umeyama(source[inliers], target[inliers], weights[inliers])
        previous, inliers = inliers, _residuals(similarity, source, target) <= threshold
        if torch.equal(previous, inliers):
            break
    return similarity, inliers


def align_cameras(
    estimated_world_from_camera: Float[Tensor, "view 4 4"],
    reference_world_from_camera: Float[Tensor, "view 4 4"],
) -> Similarity:
    """Similarity from the estimated world into the reference world, for the same cameras.

    Three or more centres that span a plane are aligned by `umeyama`. With fewer, or on a line,
    the cameras' orientations fix what centres leave open: the rotation is the chordal mean of
    what both ask for, each with equal weight, and the scale is the ratio of the spreads. The
    scale is 1 where either set of centres has no spread (one camera, or a pure rotation).

    Raises:
        ValueError: No camera is given, or a pose is not finite.
    """
    estimated, reference = estimated_world_from_camera, reference_world_from_camera
    if len(estimated) == 0 or not bool(torch.isfinite(estimated + reference).all()):
        raise ValueError(
            f"Found {len(estimated)} camera pairs, of which some are not finite or none exist; "
            "expected at least one pair of finite poses. Drop the cameras without a pose."
        )
    source, target = estimated[:, :3, 3], reference[:, :3, 3]
    if len(source) >= 3 and min(_planarity(source), _planarity(target)) > MIN_SPREAD_RATIO:
        return umeyama(source, target)
    source_mean, target_mean = source.mean(0), target.mean(0)
    source_centered, target_centered = source - source_mean, target - target_mean
    source_spread, target_spread = source_centered.norm(), target_centered.norm()
    turns = reference[:, :3, :3] @ estimated[:, :3, :3].transpose(-1, -2)
    wanted = turns.mean(0)
    scale = torch.ones_like(source_spread)
    rounding = 16 * torch.finfo(source.dtype).eps
    has_spread = source_spread > rounding * source.norm() and (
        target_spread > rounding * target.norm()
    )
    if has_spread:
        scale = target_spread / source_spread
        covariance = target_centered.transpose(-1, -2) @ source_centered
        wanted = wanted + covariance / (source_spread * target_spread)
    rotation = nearest_rotation(wanted)
    return Similarity(scale, rotation, target_mean - scale * (rotation @ source_mean))


def _umeyama_unchecked(
    source: Float[Tensor, "*batch point 3"],
    target: Float[Tensor, "*batch point 3"],
    weights: Float[Tensor, "*batch point"],
) -> tuple[Similarity, Float[Tensor, "*batch 2"]]:
    """The similarity, and the root mean square spread of source and target."""
    share = (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
    source_mean = (share * source).sum(-2)
    target_mean = (share * target).sum(-2)
    source_centered = source - source_mean.unsqueeze(-2)
    target_centered = target - target_mean.unsqueeze(-2)
    weighted = share * target_centered
    rotation = nearest_rotation(weighted.transpose(-1, -2) @ source_centered)
    source_variance = (share * source_centered.square()).sum((-2, -1))
    target_variance = (share * target_centered.square()).sum((-2, -1))
    rotated = source_centered @ rotation.transpose(-1, -2)
    scale = (weighted * rotated).sum((-2, -1)) / source_variance
    moved = (rotation @ source_mean.unsqueeze(-1)).squeeze(-1)
    similarity = Similarity(scale, rotation, target_mean - scale.unsqueeze(-1) * moved)
    return similarity, torch.stack([source_variance, target_variance], dim=-1).sqrt()


def _least_median_hypothesis(
    source: Float[Tensor, "point 3"],
    target: Float[Tensor, "point 3"],
    num_hypotheses: int,
) -> tuple[Similarity, float]:
    """The similarity of a random triple with the least median residual, and that residual."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(num_hypotheses, min(len(source), 10**4), generator=generator)
    pool = torch.randperm(len(source), generator=generator)[: draws.shape[-1]]
    triples = pool[draws.topk(3, dim=-1).indices].to(source.device)
    scored = pool[:ROBUST_SCORED_POINTS].to(source.device)
    ones = source.new_ones(num_hypotheses, 3)
    candidates, _ = _umeyama_unchecked(source[triples], target[triples], ones)
    everywhere = source[scored].expand(num_hypotheses, -1, -1)
    medians = (candidates.apply(everywhere) - target[scored]).norm(dim=-1).median(-1).values
    # A triple of coincident points gives nan, which argmin would prefer.
    best = int(medians.nan_to_num(nan=torch.inf, posinf=torch.inf).argmin())
    winner = Similarity(
        candidates.scale[best], candidates.rotation[best], candidates.translation[best]
    )
    return winner, float(medians[best])


def _residuals(
    similarity: Similarity, source: Float[Tensor, "point 3"], target: Float[Tensor, "point 3"]
) -> Float[Tensor, " point"]:
    """Distance of every moved source point from its target."""
    return (similarity.apply(source) - target).norm(dim=-1)


def _planarity(points: Float[Tensor, "point 3"]) -> float:
    """Second over first principal spread: 0 on a line and at one place."""
    spreads = torch.linalg.svdvals(points - points.mean(0))
    rounding = 16 * torch.finfo(points.dtype).eps * points.norm()
    return float(spreads[1] / spreads[0]) if spreads[0] > rounding else 0.0


def _require_alignable(
    source: Float[Tensor, "*batch point 3"],
    target: Float[Tensor, "*batch point 3"],
    weights: Float[Tensor, "*batch point"],
) -> None:
    """Raise ValueError where points are too few or not finite, or weights are negative."""
    finite = torch.isfinite(source).all() & torch.isfinite(target).all()
    if not bool(finite) or not bool(((weights >= 0) & torch.isfinite(weights)).all()):
        raise ValueError(
            "Some points are not finite, or some weights are negative or not finite; expected "
            "finite points and weights of at least 0. Give such points weight 0 after replacing "
            "their coordinates, or drop them."
        )
    num_counting = (weights > 0).sum(-1)
    if num_counting.numel() and int(num_counting.min()) < 3:
        raise ValueError(
            f"Only {int(num_counting.min())} of {source.shape[-2]} points have a positive weight; "
            "expected at least 3, because fewer do not determine a rotation. Give more "
            "correspondences or align the cameras' orientations with `align_cameras`."
        )
