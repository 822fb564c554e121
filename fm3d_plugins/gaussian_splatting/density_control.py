"""Where gaussians are added and removed while they are optimised.

`AdaptiveDensityControl` is section 5.2 of Kerbl et al. 2023 with the absolute cap that a CPU needs;
`MonteCarloDensityControl` is Kheradmand et al. 2024. Both change the parameters together with the
moments of their Adam optimizers. Every parameter is stored before its activation: `scales` as
logarithms, `opacities` as logits.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import Parameter, ParameterDict
from torch.optim import Optimizer

from fm3d_plugins.gaussian_splatting.recipe import Recipe
from fm3d_plugins.geometry.poses import rotation_from_quaternion_wxyz
from fm3d_plugins.kernels.position_noise import add_position_noise

SPLIT_SHRINK = 1.6
"""Kerbl et al. 2023, section 5.2: a split gaussian's two children are smaller by this factor."""

LARGEST_RELOCATION = 51
"""Copies of one gaussian that one relocation may make, as in Kheradmand et al. 2024."""


@dataclass(frozen=True)
class Schedule:
    """When density control acts, in training steps."""

    start: int
    """First step at which gaussians may be added."""
    stop: int
    """Step from which their number stays as it is."""
    every: int
    """Steps between two changes."""
    reset_opacity_every: int
    """Steps between resets of all opacities; 0: never."""

    def acts_at(self, step: int) -> bool:
        return self.start < step < self.stop and step % self.every == 0

    def resets_at(self, step: int) -> bool:
        if self.reset_opacity_every == 0 or not 0 < step < self.stop:
            return False
        return step % self.reset_opacity_every == 0


class DensityControl(ABC):
    """Called once after every training step."""

    @abstractmethod
    def after_step(
        self,
        params: ParameterDict,
        optimizers: Mapping[str, Optimizer],
        step: int,
        screen_gradient: Float[Tensor, "num_gaussians 2"] | None,
        radii: Int[Tensor, " num_gaussians"],
        image_size: tuple[int, int],
    ) -> None:
        """Change `params` and `optimizers` in place.

        Args:
            params: means, scales, quats, opacities and any further parameters with one row each.
            optimizers: One per parameter, under the same name.
            step: Number of this step.
            screen_gradient: Gradient of the loss with respect to the centres in pixels, or sums
                over pixels of its absolute values.
            radii: Extent in this view in pixels; 0 for a gaussian that is not seen.
            image_size: Width and height of this view in pixels.
        """


class NoDensityControl(DensityControl):
    """The number of gaussians never changes."""

    def after_step(self, params, optimizers, step, screen_gradient, radii, image_size) -> None:
        """Do nothing."""


@dataclass
class AdaptiveDensityControl(DensityControl):
    """Clone small gaussians and split large ones where the image wants to move them."""

    schedule: Schedule
    gradient_threshold: float
    """Mean gradient per half image (normalised device coordinates) that triggers."""
    size_threshold: float
    """Scene units: at most this is cloned, above it is split."""
    smallest_opacity: float
    """Below this a gaussian is removed."""
    largest_size: float
    """Scene units: above this a gaussian is removed once opacities have been reset."""
    max_gaussians: int
    _gradient_sum: Tensor = field(default_factory=lambda: torch.zeros(0), init=False)
    _times_seen: Tensor = field(default_factory=lambda: torch.zeros(0), init=False)

    @torch.no_grad()
    def after_step(self, params, optimizers, step, screen_gradient, radii, image_size) -> None:
        if step >= self.schedule.stop:
            return
        if screen_gradient is not None:
            self._accumulate(screen_gradient, radii, image_size)
        if self.schedule.acts_at(step) and len(self._gradient_sum) == len(params["means"]):
            self._grow(params, optimizers)
            self._prune(params, optimizers, step)
            self._gradient_sum = self._times_seen = torch.zeros(0)
        if self.schedule.resets_at(step):
            self._reset_opacities(params, optimizers)

    def _accumulate(self, screen_gradient, radii, image_size) -> None:
        if len(self._gradient_sum) != len(radii):
            self._gradient_sum = screen_gradient.new_zeros(len(radii))
            self._times_seen = screen_gradient.new_zeros(len(radii))
        half_size = screen_gradient.new_tensor(image_size) / 2
        is_seen = radii > 0
        self._gradient_sum += (screen_gradient * half_size).norm(dim=-1) * is_seen
        self._times_seen += is_seen

    def _grow(self, params, optimizers) -> None:
        mean_gradient = self._gradient_sum / self._times_seen.clamp_min(1)
        wanted = mean_gradient > self.gradient_threshold
        room = max(0, self.max_gaussians - len(wanted))
        if int(wanted.sum()) > room:
            ranked = torch.where(wanted, mean_gradient, -1.0)
            wanted = torch.zeros_like(wanted)
            wanted[ranked.topk(room).indices] = True
        is_small = params["scales"].exp().amax(-1) <= self.size_threshold
        clone = (wanted & is_small).nonzero().squeeze(-1)
        split = wanted & ~is_small
        parents = split.nonzero().squeeze(-1)
        kept = (~split).nonzero().squeeze(-1)
        if len(clone) + len(parents) == 0:
            return
        children = {name: values.data[parents] for name, values in params.items()}
        offsets = [_sample_offsets(children) for _ in range(2)]
        shrink = math.log(SPLIT_SHRINK)

        def grown(name: str, values: Tensor) -> Tensor:
            halves = [children[name], children[name]]
            if name == "means":
                halves = [children[name] + offset for offset in offsets]
            elif name == "scales":
                halves = [children[name] - shrink] * 2
            return torch.cat([values[kept], values[clone], *halves])

        def moments(values: Tensor) -> Tensor:
            fresh = values.new_zeros(len(clone) + 2 * len(parents), *values.shape[1:])
            return torch.cat([values[kept], fresh])

        rebuild(params, optimizers, grown, moments)

    def _prune(self, params, optimizers, step: int) -> None:
        remove = params["opacities"].flatten().sigmoid() < self.smallest_opacity
        if 0 < self.schedule.reset_opacity_every < step:
            remove |= params["scales"].exp().amax(-1) > self.largest_size
        remove |= ~params["means"].isfinite().all(-1)
        if bool(remove.any()) and not bool(remove.all()):
            keep_rows(params, optimizers, ~remove)

    def _reset_opacities(self, params, optimizers) -> None:
        ceiling = math.log(2 * self.smallest_opacity / (1 - 2 * self.smallest_opacity))

        def lowered(name: str, values: Tensor) -> Tensor:
            return values.clamp(max=ceiling) if name == "opacities" else values

        rebuild(params, {"opacities": optimizers["opacities"]}, lowered, torch.zeros_like)


@dataclass
class MonteCarloDensityControl(DensityControl):
    """Gaussians as samples of a Markov chain: dead ones move onto live ones, and all jitter."""

    schedule: Schedule
    smallest_opacity: float
    """At most this is dead."""
    noise: float
    """Factor of the position noise, over the learning rate of the means."""
    growth: float
    """Share of gaussians added at each change."""
    max_gaussians: int

    @torch.no_grad()
    def after_step(self, params, optimizers, step, screen_gradient, radii, image_size) -> None:
        if self.schedule.acts_at(step):
            self._relocate(params, optimizers)
            self._add(params, optimizers)
        self._jitter(params, optimizers["means"].param_groups[0]["lr"])

    def _relocate(self, params, optimizers) -> None:
        opacities = params["opacities"].flatten().sigmoid()
        is_dead = (opacities <= self.smallest_opacity) | ~params["means"].isfinite().all(-1)
        dead = is_dead.nonzero().squeeze(-1)
        alive = (~is_dead).nonzero().squeeze(-1)
        if len(dead) == 0 or len(alive) == 0:
            return
        chosen = alive[_sample(opacities[alive], len(dead))]
        changed = self._shared_between_copies(params, chosen)

        def moved(name: str, values: Tensor) -> Tensor:
            values = values.clone()
            values[chosen] = changed.get(name, values)[chosen]
            values[dead] = values[chosen]
            return values

        def moments(values: Tensor) -> Tensor:
            values = values.clone()
            values[chosen] = 0
            return values

        rebuild(params, optimizers, moved, moments)

    def _add(self, params, optimizers) -> None:
        count = len(params["means"])
        extra = min(self.max_gaussians, int((1 + self.growth) * count)) - count
        if extra <= 0:
            return
        chosen = _sample(params["opacities"].flatten().sigmoid(), extra)
        changed = self._shared_between_copies(params, chosen)

        def grown(name: str, values: Tensor) -> Tensor:
            values = changed.get(name, values)
            return torch.cat([values, values[chosen]])

        def moments(values: Tensor) -> Tensor:
            return torch.cat([values, values.new_zeros(extra, *values.shape[1:])])

        rebuild(params, optimizers, grown, moments)

    def _shared_between_copies(self, params, chosen: Tensor) -> dict[str, Tensor]:
        """All opacities and scales after every chosen gaussian has been given its copies."""
        opacities, scales = params["opacities"].data, params["scales"].data
        copies = torch.bincount(chosen, minlength=len(opacities)) + 1
        opacity, scale = divide_between_copies(
            opacities.flatten().sigmoid(), scales.exp(), copies.clamp(max=LARGEST_RELOCATION)
        )
        opacity = opacity.clamp(self.smallest_opacity, 1 - 1e-6)
        is_chosen = (copies > 1)[:, None]
        return {
            "opacities": torch.where(is_chosen, opacity.logit()[:, None], opacities),
            "scales": torch.where(is_chosen, scale.log(), scales),
        }

    def _jitter(self, params, learning_rate: float) -> None:
        """Equation 8: noise shaped by the covariance, for gaussians that have little opacity."""
        add_position_noise(
            params["means"],
            params["quats"],
            params["scales"],
            params["opacities"],
            torch.randn_like(params["means"]) * (self.noise * learning_rate),
            self.smallest_opacity,
        )


def density_control_of(
    recipe: Recipe, size_threshold: float, largest_size: float
) -> DensityControl:
    """The density control that a recipe asks for.

    Args:
        size_threshold: Scene units: gaussians up to this size are cloned, larger ones split.
        largest_size: Scene units: larger gaussians are removed once opacities have been reset.
    """
    schedule = Schedule(
        start=recipe.warmup_length,
        stop=recipe.stop_split_at,
        every=recipe.refine_every,
        reset_opacity_every=recipe.reset_alpha_every * recipe.refine_every,
    )
    if recipe.density_control == "off":
        return NoDensityControl()
    if recipe.density_control == "mcmc":
        return MonteCarloDensityControl(
            schedule=schedule,
            smallest_opacity=0.005,
            noise=recipe.mcmc_noise,
            growth=recipe.mcmc_growth,
            max_gaussians=recipe.max_gaussians,
        )
    return AdaptiveDensityControl(
        schedule=schedule,
        gradient_threshold=recipe.densify_grad_thresh,
        size_threshold=size_threshold,
        smallest_opacity=recipe.cull_alpha_thresh,
        largest_size=largest_size,
        max_gaussians=recipe.max_gaussians,
    )


def divide_between_copies(
    opacities: Float[Tensor, " n"],
    scales: Float[Tensor, "n 3"],
    copies: Int[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Opacity and scale with which `copies` equal gaussians look like one.

    Kheradmand et al. 2024, equation 9. One copy changes nothing.

    Args:
        opacities: In (0, 1).
        scales: Standard deviations, scene units.
        copies: At least 1.
    """
    shared = 1 - (1 - opacities.double()) ** (1 / copies.double())
    total = torch.zeros_like(shared)
    for i in range(1, int(copies.max()) + 1):
        terms = [
            (-1) ** k * math.comb(i - 1, k) / math.sqrt(k + 1) * shared ** (k + 1) for k in range(i)
        ]
        total += torch.where(copies >= i, torch.stack(terms).sum(0), 0.0)
    factor = (opacities.double() / total)[:, None]
    return shared.to(opacities.dtype), (scales.double() * factor).to(scales.dtype)


def keep_rows(
    params: ParameterDict,
    optimizers: Mapping[str, Optimizer],
    keep: Bool[Tensor, " num_gaussians"],
) -> None:
    """Remove all other rows from parameters and optimizer moments."""
    rows = keep.nonzero().squeeze(-1)
    rebuild(params, optimizers, lambda _, values: values[rows], lambda values: values[rows])


def rebuild(
    params: ParameterDict,
    optimizers: Mapping[str, Optimizer],
    new_values: Callable[[str, Tensor], Tensor],
    new_moments: Callable[[Tensor], Tensor],
) -> None:
    """Replace parameters, and what their optimizers remember of them, row by row.

    Args:
        params: Changed in place.
        optimizers: Those of the parameters to change; each holds one parameter.
        new_values: From a parameter's name and values to its new values.
        new_moments: From a moment (shaped like the parameter) to the new one.
    """
    for name in [name for name in optimizers if name in params]:
        optimizer, old = optimizers[name], params[name]
        new = Parameter(new_values(name, old.data).contiguous(), requires_grad=old.requires_grad)
        state = optimizer.state.pop(old, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == old.shape:
                state[key] = new_moments(value).contiguous()
        optimizer.param_groups[0]["params"] = [new]
        if state:
            optimizer.state[new] = state
        params[name] = new


def _sample_offsets(gaussians: Mapping[str, Tensor]) -> Float[Tensor, "n 3"]:
    """One random point of each gaussian, relative to its centre."""
    axes = rotation_from_quaternion_wxyz(gaussians["quats"])
    steps = torch.randn_like(gaussians["means"]) * gaussians["scales"].exp()
    return (axes @ steps[..., None]).squeeze(-1)


def _sample(weights: Float[Tensor, " n"], count: int) -> Int[Tensor, " count"]:
    """Indices drawn with replacement in proportion to `weights`, of any length.

    By the inverse of the cumulative sum: torch.multinomial refuses more than 2^24 categories.
    """
    cumulative = weights.double().cumsum(0)
    draws = torch.rand(count, dtype=torch.float64, device=weights.device) * cumulative[-1]
    return torch.searchsorted(cumulative, draws).clamp(max=len(weights) - 1)
