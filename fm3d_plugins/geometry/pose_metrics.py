"""How well estimated camera poses agree with reference poses, over all pairs and after Sim(3).

RRA and RTA: share of pairs whose relative rotation, or direction of relative translation, is
within a threshold. AUC: area under the accuracy curve of the larger of the two errors, in
one-degree bins (Jin et al. 2021; Wang et al. 2023, "PoseDiffusion"). ATE: root mean square
distance of the camera centres after the best similarity (Sturm et al. 2012).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fm3d_plugins.geometry.alignment import align_cameras
from fm3d_plugins.geometry.poses import invert, rotation_angle_degrees

PAIRS_AT_ONCE = 1 << 15
"""Of which intermediate results are held: some ten megabytes."""

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
        return self._share_below([threshold], lambda rotation, _: rotation)

    def rta(self, threshold: float | int) -> float:
        """Share of all pairs with a folded direction error below `threshold` degrees."""
        return self._share_below([threshold], lambda _, direction: fold(direction))

    def auc(self, threshold: int, *, signed: bool = False) -> float:
        """Mean over 1, 2, ... `threshold` degrees of the share of pairs with both errors below.

        Args:
            signed: Otherwise opposite directions count as equal (errors are folded to at most
                90), as in the evaluation of PoseDiffusion and VGGT.
        """

        def larger(rotation: Tensor, direction: Tensor) -> Tensor:
            return torch.maximum(rotation, direction if signed else fold(direction))

        return self._share_below(range(1, threshold + 1), larger)

    def _share_below(
        self, limits: Sequence[float | int], error: Callable[[Tensor, Tensor], Tensor]
    ) -> float:
        """Mean over limits of the share of pairs whose error of both errors is below.

        Counted block by block: a copy of all pairs per limit would be gigabytes.
        """
        below = 0
        for rotation, direction in zip(
            self.rotation_errors.split(PAIRS_AT_ONCE),
            self.translation_errors.split(PAIRS_AT_ONCE),
            strict=True,
        ):
            errors = error(rotation, direction)
            below += sum(int((errors < limit).sum()) for limit in limits)
        return below / (len(self.rotation_errors) * len(limits))

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
    inverses, poses = (invert(source), invert(target)), (source, target)
    longest = [torch.zeros((), dtype=torch.float64) for _ in poses]
    for first, second in _pairs(len(target)):
        counted = (found[first] & found[second], torch.ones_like(first, dtype=torch.bool))
        for index in range(2):
            baselines = (inverses[index][first] @ poses[index][second])[:, :3, 3]
            lengths = torch.where(counted[index], baselines.norm(dim=-1), 0)
            longest[index] = torch.maximum(longest[index], lengths.max())
    count = len(target) * (len(target) - 1) // 2
    rotation_errors, translation_errors = target.new_empty(count), target.new_empty(count)
    start = 0
    for first, second in _pairs(len(target)):
        estimate, truth = inverses[0][first] @ source[second], inverses[1][first] @ target[second]
        angles = rotation_angle_degrees(estimate[:, :3, :3], truth[:, :3, :3])
        a, b = estimate[:, :3, 3], truth[:, :3, 3]
        sine = torch.linalg.cross(a, b).norm(dim=-1)
        directions = torch.rad2deg(torch.atan2(sine, (a * b).sum(-1)))
        # No direction: nothing to be wrong about in the reference, worst in the estimate (a right
        # angle, which stays worst when folded).
        directions[a.norm(dim=-1) <= COINCIDENT_BASELINE * longest[0]] = 90.0
        directions[b.norm(dim=-1) <= COINCIDENT_BASELINE * longest[1]] = 0.0
        both, end = found[first] & found[second], start + len(first)
        rotation_errors[start:end] = torch.where(both, angles, torch.inf)
        translation_errors[start:end] = torch.where(both, directions, torch.inf)
        start = end
    return rotation_errors, translation_errors


def _pairs(count: int) -> Iterator[tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]]:
    """All pairs, first < second, by the first and then the second, so many at once."""
    views = torch.arange(count)
    for rows in views[:-1].split(max(1, PAIRS_AT_ONCE // count)):
        row, second = (views > rows[:, None]).nonzero(as_tuple=True)
        yield rows[row], second


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
    finite = errors[errors.isfinite()].numpy()
    if not len(finite):
        return None
    # torch.quantile takes no more than 16 million numbers.
    low, high = (len(finite) - 1) // 2, len(finite) // 2
    middle = np.partition(finite, (low, high))[[low, high]]
    return float(middle.mean())
