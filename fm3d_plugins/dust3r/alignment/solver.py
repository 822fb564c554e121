"""Alignment by Levenberg-Marquardt: scales, cameras and focal lengths at once, depths eliminated.

The objective is DUSt3R's (Wang et al. 2024, equation 5): every pair's points, moved into the world,
shall lie where the photos' depths put them. **Departures:**

* A pair's frame is its first photo's camera, which is what the network predicts; only its unit is
  free. The paper frees the whole similarity and so forgets from where the first photo was taken:
  with 0.3 % noise on points, focal lengths then came out 0.3 % wrong instead of 0.01 %.
* Errors count relative to depth, with Geman and McClure's bounded loss instead of their length.
* Second derivatives find the minimum; 300 steps of Adam move away even from a perfect start.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fm3d_plugins.dust3r.alignment.samples import PhotoSamples, Samples
from fm3d_plugins.dust3r.alignment.state import (
    PhotoResidual,
    State,
    photo_residual,
)
from fm3d_plugins.geometry.least_squares import Damping
from fm3d_plugins.geometry.poses import skew
from fm3d_plugins.geometry.robust import geman_mcclure_cost, geman_mcclure_weight

REACH_SPREADS = 3.0
"""At how many median residuals a point has lost three quarters of its weight."""

SMALLEST_SPREAD = 1e-7
"""Share of the depth below which points of exact predictions differ by rounding alone."""

TOLERANCE = 1e-4
"""Relative fall of the cost below which nothing more is gained."""

SETTLED = 0.98
"""The robust loss's reach is narrowed from round to round, until the new one would be more than
this share of the old."""

UNIT_STIFFNESS = 1e6
"""Where nothing fixes the world's unit, the product of all pairs' scales is held by a spring this
many times as stiff as that of a single scale."""


@dataclass(frozen=True)
class Unknowns:
    """Which unknowns are free."""

    cameras: Bool[Tensor, " photo"]
    """Poses that may move."""
    groups: Bool[Tensor, " group"]
    """Focal groups that may change."""
    is_scale_free: bool
    """Whether nothing fixes the world's unit; the product of the pairs' scales then stays what it
    is."""


@dataclass(frozen=True)
class Solution:
    """The best state, and how it was reached."""

    state: State
    reach: float
    steps: int
    is_converged: bool


@dataclass(frozen=True)
class _Elimination:
    """The equations of a photo's eliminated depths, solved once the other unknowns have moved."""

    columns: Int[Tensor, " unknown"]
    """Which unknowns the rows of `coupling` belong to."""
    coupling: Float[Tensor, "pixel unknown"]
    """Derivative of a depth's equation by those unknowns."""
    own: Float[Tensor, " pixel"]
    """Derivative by the depth itself."""
    right: Float[Tensor, " pixel"]
    """Right side of the depth's equation."""


def solve(state: State, samples: Samples, unknowns: Unknowns, max_steps: int) -> Solution:
    """Follow the objective down from a start; only steps that lower it are taken.

    The loss's reach shrinks from one that lets all points count to three median residuals, at most
    by half per step, so that points are not given up before the cameras are about right.
    """
    residuals = _residuals(state, samples)
    reach = _wanted_reach(residuals, samples, 0.9)
    damping, steps, is_converged = Damping(least=1e-9, most=1e8), 0, False
    while steps < max_steps and not is_converged:
        cost = _cost(residuals, samples, reach)
        system = _System(state, residuals, samples, unknowns, reach)
        units = [each.unit for each in residuals]

        def attempt(factor: float, system=system, units=units, reach=reach) -> tuple[State, float]:
            moved = system.step(factor)
            return moved, _cost(_residuals(moved, samples, units), samples, reach)

        found = damping.descend(cost, attempt)
        if found is None:
            break
        state, left = found
        residuals, steps = _residuals(state, samples), steps + 1
        wanted = _wanted_reach(residuals, samples, 0.5)
        is_settled = wanted > SETTLED * reach
        is_converged = is_settled and cost - left <= TOLERANCE * cost
        reach = reach if is_settled else max(wanted, reach / 2)
    return Solution(state, reach, steps, is_converged or damping.is_exhausted)


def pair_influence(solution: Solution, samples: Samples) -> Float[Tensor, " pair"]:
    """Mean factor in [0, 1] that the loss leaves each pair's points, by weight."""
    total = torch.zeros(len(samples.pairs), dtype=torch.float64)
    left = torch.zeros_like(total)
    for photo, each in enumerate(samples.photos):
        size = photo_residual(solution.state, photo, each).size
        total.index_add_(0, each.pairs, each.weights.sum(-1))
        kept = each.weights * geman_mcclure_weight(size.square(), solution.reach)
        left.index_add_(0, each.pairs, kept.sum(-1))
    return left / total


def median_residual(state: State, samples: Samples) -> float:
    """Median distance of the pairs' points from the photos' own, as a share of their depth."""
    return _quantile(_sizes(_residuals(state, samples), samples), 0.5)


def _residuals(
    state: State, samples: Samples, units: list[Float[Tensor, " _"]] | None = None
) -> list[PhotoResidual]:
    return [
        photo_residual(state, photo, each, None if units is None else units[photo])
        for photo, each in enumerate(samples.photos)
    ]


def _sizes(residuals: list[PhotoResidual], samples: Samples) -> Float[Tensor, " any"]:
    """Lengths of all residuals that count."""
    each = zip(residuals, samples.photos, strict=True)
    return torch.cat([residual.size[photo.weights > 0] for residual, photo in each])


def _wanted_reach(residuals: list[PhotoResidual], samples: Samples, share: float) -> float:
    sizes = _sizes(residuals, samples)
    return REACH_SPREADS * max(_quantile(sizes, share), SMALLEST_SPREAD)


def _quantile(values: Float[Tensor, " any"], share: float) -> float:
    """Lower quantile; torch's own refuses more than 2^24 values."""
    return float(values.kthvalue(max(1, int(share * len(values)))).values)


def _cost(residuals: list[PhotoResidual], samples: Samples, reach: float) -> float:
    each = zip(residuals, samples.photos, strict=True)
    return sum(
        float((p.weights * geman_mcclure_cost(r.size.square(), reach)).sum()) for r, p in each
    )


class _System:
    """Normal equations of all unknowns but the depths, which are eliminated photo by photo.

    Unknowns are the pairs' log scales, the cameras' tangents (6 each), the log focals of groups.
    """

    def __init__(
        self,
        state: State,
        residuals: list[PhotoResidual],
        samples: Samples,
        unknowns: Unknowns,
        reach: float,
    ) -> None:
        self._state = state
        num_pairs, num_photos = len(state.log_scales), len(state.world_from_camera)
        self._sizes = (num_pairs, 6 * num_photos, len(state.log_focals))
        size = sum(self._sizes)
        self._matrix = torch.zeros(size, size, dtype=torch.float64)
        self._right = torch.zeros(size, dtype=torch.float64)
        self._eliminated: list[_Elimination] = []
        for photo, residual in enumerate(residuals):
            self._add_photo(photo, residual, samples.photos[photo], reach)
        # What the unit is held by must not dampen the single scales.
        self._diagonal = self._matrix.diagonal().clone()
        if unknowns.is_scale_free:
            # The pairs' points are noisy, so a smaller world would always fit better.
            stiffness = UNIT_STIFFNESS * self._diagonal[:num_pairs].mean()
            self._matrix[:num_pairs, :num_pairs] += stiffness
        free = (
            torch.ones(num_pairs, dtype=torch.bool),
            unknowns.cameras.repeat_interleave(6),
            unknowns.groups,
        )
        self._free = torch.cat(free).nonzero().flatten()

    def step(self, damping: float) -> State:
        """The state after the damped step."""
        matrix = self._matrix[self._free[:, None], self._free]
        diagonal = self._diagonal[self._free]
        # A pair of no influence may be the only one that holds an unknown: it then stays.
        matrix.diagonal().add_(damping * diagonal + 1e-14 * diagonal.max())
        factor, fault = torch.linalg.cholesky_ex(matrix)
        step = torch.zeros_like(self._right)
        if int(fault) == 0:
            right = self._right[self._free, None]
            step[self._free] = torch.cholesky_solve(right, factor).flatten()
        else:
            step[:] = torch.nan
        depth = [
            before + (each.right - each.coupling @ step[each.columns]) / each.own
            for before, each in zip(self._state.depth, self._eliminated, strict=True)
        ]
        scales, cameras, groups = step.split(self._sizes)
        return self._state.moved(scales, cameras.view(-1, 6), groups, depth)

    def _add_photo(
        self, photo: int, residual: PhotoResidual, samples: PhotoSamples, reach: float
    ) -> None:
        """Add one photo's residuals, its depths eliminated by the Schur complement."""
        weights = geman_mcclure_weight(residual.size.square(), reach) / residual.unit.square()
        weights = samples.weights * weights
        by_pair = self._by_pair(residual, samples)
        by_photo = self._by_photo(photo, residual, samples)
        pull = weights.unsqueeze(-1) * residual.difference
        pair_columns, columns = self._columns(photo, samples)
        # Blocks of each pair with itself, of pairs with the photo, and of the photo.
        weighted = (by_pair * weights[..., None, None]).flatten(1, 2)
        own = weighted.transpose(-1, -2) @ by_pair.flatten(1, 2)
        repeated = by_photo.expand(len(own), -1, -1, -1).flatten(1, 2)
        cross = weighted.transpose(-1, -2) @ repeated
        total = weights.sum(0)
        of_photo = torch.einsum("pci,pcj,p->ij", by_photo, by_photo, total)
        photo_columns = columns[pair_columns.numel() :]
        block = (pair_columns[:, :, None], pair_columns[:, None, :])
        self._matrix.index_put_(block, own, accumulate=True)
        mixed = (pair_columns[:, :, None], photo_columns.expand(len(own), 1, -1))
        self._matrix.index_put_(mixed, cross, accumulate=True)
        transposed = (photo_columns[:, None].expand(len(own), -1, 1), pair_columns[:, None, :])
        self._matrix.index_put_(transposed, cross.transpose(-1, -2), accumulate=True)
        self._matrix.index_put_((photo_columns[:, None], photo_columns), of_photo, accumulate=True)
        right = torch.cat(
            [
                -torch.einsum("epci,epc->ei", by_pair, pull).flatten(),
                -torch.einsum("pci,epc->i", by_photo, pull),
            ]
        )
        self._eliminate(residual, weights, by_pair, by_photo, pull, columns, right)

    def _eliminate(
        self,
        residual: PhotoResidual,
        weights: Float[Tensor, "pair pixel"],
        by_pair: Float[Tensor, "pair pixel 3 7"],
        by_photo: Float[Tensor, "pixel 3 7"],
        pull: Float[Tensor, "pair pixel 3"],
        columns: Int[Tensor, " unknown"],
        right: Float[Tensor, " unknown"],
    ) -> None:
        """Schur complement of a photo's depths; a depth moves a residual by minus its ray."""
        rays, total = residual.rays, weights.sum(0)
        of_pairs = -torch.einsum("epci,pc,ep->pei", by_pair, rays, weights).flatten(1)
        of_photo = -torch.einsum("pci,pc,p->pi", by_photo, rays, total)
        coupling = torch.cat([of_pairs, of_photo], dim=-1)
        own = total * rays.square().sum(-1)
        # A pixel without weight in any pair has no depth to eliminate, and keeps the one it has.
        own = own.clamp(min=1e-12 * float(own.max()) + 1e-300)
        depth_right = torch.einsum("epc,pc->p", pull, rays)
        scaled = coupling / own.unsqueeze(-1)
        self._matrix.index_put_(
            (columns[:, None], columns), -(scaled.T @ coupling), accumulate=True
        )
        self._right.index_add_(0, columns, right - scaled.T @ depth_right)
        self._eliminated.append(_Elimination(columns, coupling, own, depth_right))

    def _by_pair(
        self, residual: PhotoResidual, samples: PhotoSamples
    ) -> Float[Tensor, "pair pixel 3 7"]:
        """Derivative of the residuals by the pair's log scale and its first camera's tangent."""
        first = self._state.first_of_pair[samples.pairs]
        centers = self._state.world_from_camera[first, None, :3, 3]
        by_scale = (residual.world - centers).unsqueeze(-1)
        return torch.cat([by_scale, _by_motion(residual.world)], dim=-1)

    def _by_photo(
        self, photo: int, residual: PhotoResidual, samples: PhotoSamples
    ) -> Float[Tensor, "pixel 3 7"]:
        """Derivative of the residuals by the camera's tangent and the log of its focal length."""
        state = self._state
        by_camera = -_by_motion(residual.world[0] - residual.difference[0])
        bent = state.rays(photo, samples.pixels) * state.depth[photo].unsqueeze(-1)
        bent[:, 2] = 0
        by_focal = bent @ state.world_from_camera[photo, :3, :3].T
        return torch.cat([by_camera, by_focal.unsqueeze(-1)], dim=-1)

    def _columns(
        self, photo: int, samples: PhotoSamples
    ) -> tuple[Int[Tensor, "pair 7"], Int[Tensor, " unknown"]]:
        """Where the unknowns of a photo's pairs are, and of these together with the photo's own.

        A camera comes several times where it is the first one of several pairs; what is added
        to the equations adds up.
        """
        cameras = self._sizes[0] + 6 * torch.arange(len(self._state.world_from_camera))[:, None]
        cameras = cameras + torch.arange(6)
        of_first = cameras[self._state.first_of_pair[samples.pairs]]
        pairs = torch.cat([samples.pairs[:, None], of_first], dim=-1)
        group = self._sizes[0] + self._sizes[1] + self._state.group_of_photo[photo]
        return pairs, torch.cat([pairs.flatten(), cameras[photo], group.reshape(1)])


def _by_motion(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 6"]:
    """Derivative of points by a tangent (τ, φ) to their left: τ + φ × p."""
    eye = torch.eye(3, dtype=points.dtype).expand(*points.shape, 3)
    return torch.cat([eye, -skew(points)], dim=-1)
