"""How well estimated camera poses agree with reference poses, over all pairs and after Sim(3).

RRA and RTA: share of pairs whose relative rotation, or direction of relative translation, is
within a threshold. AUC: area under the accuracy curve of the larger of the two errors, in
one-degree bins (Jin et al. 2021; Wang et al. 2023, "PoseDiffusion"). ATE: root mean square
distance of the camera centres after the best similarity (Sturm et al. 2012).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.geometry.alignment import align_cameras
from fm3d_plugins.geometry.poses import invert, rotation_angle_degrees

COINCIDENT_BASELINE = 1e-6
"""A pair of centres closer than this share of the set's longest baseline has no direction."""


@dataclass(frozen=True)
class PoseMetrics:
    """Errors of every pair of reference cameras, and the error of the centres."""

    rotation_errors: Float[Tensor, " pair"]
    """Degrees per pair; inf where a photo of the pair has no estimate."""
    translation_errors: Float[Tensor, " pair"]
    """Degrees between the directions of relative translation, 0 to 180; inf likewise."""
    registered: float
    """Share of the reference's photos that have an estimate."""
    ate: float | None
    """In units of the reference; none with fewer than three estimates, which a similarity always
    fits."""
    extent: float | None
    """Root mean square distance of the aligned reference centres from their mean."""

    @property
    def ate_over_extent(self) -> float | None:
        """ATE as a share of the extent; none where there is no ATE or no extent."""
        return self.ate / self.extent if self.ate is not None and self.extent else None

    @property
    def rotation_median(self) -> float | None:
        """Median relative rotation error in degrees over the pairs with both estimates."""
        return _median(self.rotation_errors)

    @property
    def translation_median(self) -> float | None:
        """Median folded direction error in degrees over the pairs with both estimates."""
        return _median(fold(self.translation_errors))

    def rra(self, threshold: float | int) -> float:
        """Share of all pairs with a relative rotation error below `threshold` degrees."""
        return float((self.rotation_errors < threshold).double().mean())

    def rta(self, threshold: float | int) -> float:
        """Share of all pairs with a folded direction error below `threshold` degrees."""
        return float((fold(self.translation_errors) < threshold).double().mean())

    def auc(self, threshold: int, *, signed: bool = False) -> float:
        """Mean over 1, 2, ... `threshold` degrees of the share of pairs with both errors below.

        Args:
            signed: Otherwise opposite directions count as equal (errors are folded to at most
                90), as in the evaluation of PoseDiffusion and VGGT.
        """
        directions = self.translation_errors if signed else fold(self.translation_errors)
        errors = torch.maximum(self.rotation_errors, directions)
        limits = torch.arange(1, threshold + 1, dtype=errors.dtype)
        return float((errors.unsqueeze(-1) < limits).double().mean())

    def summary(self) -> dict[str, float | None]:
        """The usual figures by the names that tables and JSON reports use."""
        shares: dict[str, float | None] = {"registered": self.registered}
        for threshold in (5, 15, 30):
            shares[f"RRA@{threshold}"] = self.rra(threshold)
            shares[f"RTA@{threshold}"] = self.rta(threshold)
        for threshold in (5, 10, 30):
            shares[f"AUC@{threshold}"] = self.auc(threshold)
            shares[f"AUC@{threshold}_signed"] = self.auc(threshold, signed=True)
        return shares | {
            "ATE": self.ate,
            "ATE/extent": self.ate_over_extent,
            "R_median": self.rotation_median,
            "T_median": self.translation_median,
        }


def evaluate_poses(
    estimated: Mapping[str, Float[Tensor, "4 4"]],
    reference: Mapping[str, Float[Tensor, "4 4"]],
) -> PoseMetrics:
    """Compare `world_from_camera` poses (OpenCV axes) by photo name, up to a similarity.

    All pairs of the reference count: a photo without an estimate, or with one that is not finite,
    makes its pairs wrong at every threshold. Estimates without a reference are ignored.

    Raises:
        ValueError: The reference has fewer than two poses, or no name occurs in both.
    """
    if len(reference) < 2:
        raise ValueError(
            f"The reference has {len(reference)} poses; expected at least 2, because errors are "
            "measured between pairs. Give the poses of more photos."
        )
    if estimated and not set(estimated) & set(reference):
        raise ValueError(
            f"None of the {len(estimated)} estimated photos (first: {next(iter(estimated))!r}) is "
            f"among the {len(reference)} of the reference (first: {next(iter(reference))!r}). "
            "Expected the same names in both: compare file names without their folders."
        )
    names = list(reference)
    identity = torch.eye(4, dtype=torch.float64)
    target = torch.stack([reference[name].detach().cpu().double() for name in names])
    source = torch.stack([estimated.get(name, identity).detach().cpu().double() for name in names])
    found = torch.tensor([name in estimated for name in names]) & source.isfinite().all((-2, -1))
    rotation_errors, translation_errors = _pair_errors(source, target, found)
    ate, extent = _trajectory_error(source[found], target[found])
    return PoseMetrics(
        rotation_errors=rotation_errors,
        translation_errors=translation_errors,
        registered=float(found.double().mean()),
        ate=ate,
        extent=extent,
    )


def fold(errors_degrees: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Angles between lines instead of directions: at most 90; inf stays inf."""
    return torch.where(
        errors_degrees.isinf(), errors_degrees, torch.minimum(errors_degrees, 180 - errors_degrees)
    )


def _pair_errors(
    source: Float[Tensor, "view 4 4"],
    target: Float[Tensor, "view 4 4"],
    found: Bool[Tensor, " view"],
) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Rotation and signed direction errors in degrees of `first_from_second`, first < second."""
    first, second = torch.triu_indices(len(target), len(target), offset=1)
    estimate = invert(source)[first] @ source[second]
    truth = invert(target)[first] @ target[second]
    rotation_errors = rotation_angle_degrees(estimate[:, :3, :3], truth[:, :3, :3])
    a, b = estimate[:, :3, 3], truth[:, :3, 3]
    sine = torch.linalg.cross(a, b).norm(dim=-1)
    translation_errors = torch.rad2deg(torch.atan2(sine, (a * b).sum(-1)))
    # No direction: nothing to be wrong about in the reference, worst in the estimate (a right
    # angle, which stays worst when folded).
    both = found[first] & found[second]
    translation_errors[_has_no_direction(a, both)] = 90.0
    translation_errors[_has_no_direction(b, torch.ones_like(both))] = 0.0
    infinite = torch.full_like(rotation_errors, torch.inf)
    return (
        torch.where(both, rotation_errors, infinite),
        torch.where(both, translation_errors, infinite),
    )


def _has_no_direction(
    baselines: Float[Tensor, "pair 3"], counted: Bool[Tensor, " pair"]
) -> Bool[Tensor, " pair"]:
    """Which baselines vanish beside the longest of the counted ones."""
    lengths = baselines.norm(dim=-1)
    longest = torch.where(counted, lengths, 0).max()
    return lengths <= COINCIDENT_BASELINE * longest


def _trajectory_error(
    source: Float[Tensor, "view 4 4"], target: Float[Tensor, "view 4 4"]
) -> tuple[float | None, float | None]:
    """Root mean square distance of aligned centres, and the extent of the reference's."""
    if len(source) < 3:
        return None, None
    centers = target[:, :3, 3]
    moved = align_cameras(source, target).apply(source[:, :3, 3])
    error = (moved - centers).square().sum(-1).mean().sqrt()
    extent = (centers - centers.mean(0)).square().sum(-1).mean().sqrt()
    return float(error), float(extent)


def _median(errors: Float[Tensor, " pair"]) -> float | None:
    """Median of the finite errors, the mean of the middle two; none if there are none."""
    finite = errors[errors.isfinite()]
    return float(finite.quantile(0.5)) if len(finite) else None
