"""Bundle adjustment of a few cameras and the cells of the first photo, many scenes at once.

Unknown are, for each scene, rotations and centres of all cameras but the first, one field of view,
and the inverse depth of each cell. Errors are the distances between matched and projected places,
under a Cauchy loss; what the network estimated is a prior. Levenberg-Marquardt, inverse depths
eliminated (Triggs et al. 1999, "Bundle adjustment: a modern synthesis").
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.cell_matching.types import CameraEstimate, Matches
from fm3d_plugins.geometry.poses import so3_exp, so3_log

NEAREST = 0.05
"""Depth, of which the scene's mean distance is 1, up to which a cell counts as behind a camera."""
LARGEST_INVERSE = 10.0
BEHIND = 5.0
"""What a match costs whose cell lies behind the camera: as one that is off by 12 spreads."""
DAMPING, LESS, MORE = 1e-2, 0.3, 4.0


@dataclass(frozen=True)
class AdjustmentOptions:
    """Spreads of what is believed beforehand, and how long errors are lowered."""

    steps: int = 10
    spread: float = 0.03
    """Of right matches, in halves of the longer side."""
    rotation: float = 0.3
    """Of estimated rotations, radians."""
    center: float = 0.5
    """Of estimated centres; what the cameras see is 1 away in the mean."""
    lens: float = 0.2
    """Of the log tangent of half the field of view."""
    inverse_depth: float = 6.7
    """Of cells, around 1."""


@dataclass(frozen=True)
class _State:
    """What is unknown. M: cameras but the first."""

    rotation: Float[Tensor, "scene M 3 3"]
    center: Float[Tensor, "scene M 3"]
    log_tangent: Float[Tensor, " scene"]
    inverse_depth: Float[Tensor, "scene cell"]

    def where(self, condition: Bool[Tensor, " scene"], other: "_State") -> "_State":
        """Of scenes where a condition holds, those of others from elsewhere."""
        pick = lambda a, b: torch.where(condition.view(-1, *[1] * (a.ndim - 1)), a, b)  # noqa: E731
        return _State(
            pick(self.rotation, other.rotation),
            pick(self.center, other.center),
            pick(self.log_tangent, other.log_tangent),
            pick(self.inverse_depth, other.inverse_depth),
        )


@dataclass(frozen=True)
class _Linear:
    """Errors of all matches and their derivatives."""

    errors: Float[Tensor, "scene M cell 2"]
    is_before: Bool[Tensor, "scene M cell"]
    by_camera: Float[Tensor, "scene M cell 2 7"]
    """Rotation vector, centre, log tangent."""
    by_depth: Float[Tensor, "scene M cell 2"]
    """Inverse depth."""


@torch.no_grad()
def adjusted(
    matches: Matches, estimate: CameraEstimate, options: AdjustmentOptions | None = None
) -> CameraEstimate:
    """Cameras that explain the matches best; all of a scene get one field of view.

    Scenes where a step makes nothing better, or is not finite, stay as they were.
    """
    if matches.certainty.shape[1] < 2:  # noqa: PLR2004
        return estimate
    problem = _Problem(matches, estimate, options or AdjustmentOptions())
    state, cost = problem.begin, problem.cost(problem.begin)
    damping = torch.full_like(cost, DAMPING)
    for _ in range(problem.options.steps):
        tried = problem.step(state, damping)
        new_cost = problem.cost(tried)
        is_better = new_cost < cost
        state, cost = tried.where(is_better, state), torch.where(is_better, new_cost, cost)
        damping = torch.where(is_better, LESS * damping, MORE * damping).clamp(1e-6, 1e4)
    return CameraEstimate(
        rotation=torch.cat([estimate.rotation[:, :1], state.rotation], dim=1),
        center=torch.cat([estimate.center[:, :1], state.center], dim=1),
        log_tangent=state.log_tangent[:, None].expand_as(estimate.log_tangent),
    )


class _Problem:
    """The errors of a batch of scenes."""

    def __init__(
        self, matches: Matches, estimate: CameraEstimate, options: AdjustmentOptions
    ) -> None:
        self.options = options
        self.own, self.places = matches.places[:, 0], matches.places[:, 1:]
        self.weights = matches.certainty[:, 1:] ** 2
        self.begin = _State(
            estimate.rotation[:, 1:],
            estimate.center[:, 1:],
            estimate.log_tangent.mean(1),
            torch.ones_like(matches.certainty[:, 0]),
        )
        self.num = estimate.center.shape[1] - 1
        spreads = [options.rotation] * (3 * self.num) + [options.center] * (3 * self.num)
        self.precision = self.own.new_tensor([*spreads, options.lens]) ** -2
        self.cell_precision = options.inverse_depth**-2

    def _rays(self, state: _State) -> Float[Tensor, "scene cell 3"]:
        scaled = self.own * state.log_tangent.exp()[:, None, None]
        return torch.cat([scaled, torch.ones_like(scaled[..., :1])], dim=-1)

    def _local(self, state: _State) -> Float[Tensor, "scene M cell 3"]:
        """Cells in the cameras' frames, times their inverse depths."""
        moved = state.inverse_depth[:, None, :, None] * state.center[:, :, None]
        return (self._rays(state)[:, None] - moved) @ state.rotation.mT

    def _projected(
        self, local: Float[Tensor, "scene M cell 3"], state: _State
    ) -> Float[Tensor, "scene M cell 2"]:
        tangent = state.log_tangent.exp()[:, None, None, None]
        return local[..., :2] / (tangent * local[..., 2:].clamp_min(NEAREST))

    def cost(self, state: _State) -> Float[Tensor, " scene"]:
        """Twice the negative log of the posterior, up to a constant; infinite if not finite."""
        local = self._local(state)
        errors = self._projected(local, state) - self.places
        squared = errors.square().sum(-1) / self.options.spread**2
        robust = torch.where(local[..., 2] > NEAREST, torch.log1p(squared), BEHIND)
        prior = (self.precision * self._offsets(state).square()).sum(-1)
        of_cells = self.cell_precision * (state.inverse_depth - 1).square().sum(-1)
        total = (self.weights * robust).sum((1, 2)) + prior + of_cells
        return torch.where(total.isfinite(), total, torch.inf)

    def _offsets(self, state: _State) -> Float[Tensor, "scene unknown"]:
        """Of the cameras from what was estimated: rotations, then centres, then the lens."""
        turned = so3_log(state.rotation @ self.begin.rotation.mT)
        shifted = state.center - self.begin.center
        lens = state.log_tangent - self.begin.log_tangent
        return torch.cat([turned.flatten(1), shifted.flatten(1), lens[:, None]], dim=-1)

    def _linear(self, state: _State) -> _Linear:
        local, rays = self._local(state), self._rays(state)
        z, tangent = local[..., 2].clamp_min(NEAREST), state.log_tangent.exp()[:, None, None]
        projected = self._projected(local, state)
        zero, one = torch.zeros_like(z), torch.ones_like(z)
        # 1. Projection by local coordinates, over z and the tangent.
        rows = [
            torch.stack([one, zero, -local[..., 0] / z], dim=-1),
            torch.stack([zero, one, -local[..., 1] / z], dim=-1),
        ]
        by_local = torch.stack(rows, dim=-2) / (z * tangent)[..., None, None]
        # 2. Local coordinates by a small rotation w (w x local), by the centre, and by rays.
        by_turn = torch.linalg.cross(local[..., None, :].expand_as(by_local), by_local, dim=-1)
        by_ray = by_local @ state.rotation[:, :, None]
        by_center = -state.inverse_depth[:, None, :, None, None] * by_ray
        by_depth = -(by_ray @ state.center[:, :, None, :, None])[..., 0]
        flat = torch.cat([rays[..., :2], torch.zeros_like(rays[..., 2:])], dim=-1)
        by_lens = (by_ray @ flat[:, None, :, :, None])[..., 0] - projected
        return _Linear(
            projected - self.places,
            local[..., 2] > NEAREST,
            torch.cat([by_turn, by_center, by_lens[..., None]], dim=-1),
            by_depth,
        )

    def step(self, state: _State, damping: Float[Tensor, " scene"]) -> _State:
        """One damped step of Gauss and Newton."""
        linear, num = self._linear(state), self.num
        squared = linear.errors.square().sum(-1) / self.options.spread**2
        weights = self.weights * linear.is_before / (1 + squared) / self.options.spread**2
        weighted = linear.by_camera * weights[..., None, None]
        blocks = torch.einsum("smnki,smnkj->smij", weighted, linear.by_camera)
        slopes = torch.einsum("smnki,smnk->smi", weighted, linear.errors)
        couplings = torch.einsum("smnki,smnk->smni", weighted, linear.by_depth)
        by_depth = weights[..., None] * linear.by_depth
        own = (by_depth * linear.by_depth).sum((1, 3)) + self.cell_precision
        own_slope = (by_depth * linear.errors).sum((1, 3))
        own_slope = own_slope + self.cell_precision * (state.inverse_depth - 1)
        matrix, slope, coupling = self._assembled(blocks, slopes, couplings)
        matrix = matrix + torch.diag(self.precision)
        slope = slope + self.precision * self._offsets(state)
        factor = 1 + damping
        matrix = matrix + torch.diag_embed(damping[:, None] * matrix.diagonal(dim1=1, dim2=2))
        own = own * factor[:, None]
        reduced = matrix - torch.einsum("sni,snj->sij", coupling / own[..., None], coupling)
        right = slope - torch.einsum("sni,sn->si", coupling, own_slope / own)
        change = -torch.linalg.solve_ex(reduced, right)[0]
        deeper = -(own_slope + torch.einsum("sni,si->sn", coupling, change)) / own
        turn = change[:, : 3 * num].unflatten(1, (num, 3))
        shift = change[:, 3 * num : 6 * num].unflatten(1, (num, 3))
        return _State(
            so3_exp(turn) @ state.rotation,
            state.center + shift,
            state.log_tangent + change[:, -1],
            (state.inverse_depth + deeper).clamp(0, LARGEST_INVERSE),
        )

    def _assembled(
        self,
        blocks: Float[Tensor, "scene M 7 7"],
        slopes: Float[Tensor, "scene M 7"],
        couplings: Float[Tensor, "scene M cell 7"],
    ) -> tuple[
        Float[Tensor, "scene unknown unknown"],
        Float[Tensor, "scene unknown"],
        Float[Tensor, "scene cell unknown"],
    ]:
        """The cameras' blocks in one system, in the order of `_offsets`."""
        num = self.num
        size = 6 * num + 1
        matrix = blocks.new_zeros(len(blocks), size, size)
        slope = blocks.new_zeros(len(blocks), size)
        coupling = blocks.new_zeros(len(blocks), couplings.shape[2], size)
        for m in range(num):
            first = [3 * m, 3 * m + 1, 3 * m + 2]
            index = torch.tensor(
                [*first, *(3 * num + each for each in first), size - 1], device=blocks.device
            )
            matrix[:, index[:, None], index] += blocks[:, m]
            slope[:, index] += slopes[:, m]
            coupling[:, :, index] += couplings[:, m]
        return matrix, slope, coupling
