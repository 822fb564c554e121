"""The model of Mildenhall et al. 2020 as a nerfstudio model."""

import time
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from fm3d_plugins.geometry.volume_rendering import (
    composite,
    median_distance,
    weights_from_density,
)
from fm3d_plugins.nerf.losses import squared_error
from fm3d_plugins.nerf.ray_model import RayModel, RayModelConfig, composited
from fm3d_plugins.nerf.vanilla import RadianceMlp, joined_samples, stratified_distances
from fm3d_plugins.running.plan import RunPlan

STEPS = 200_000
"""The paper: 100 to 300 thousand."""

LEARNING_RATES = {"fields": (5e-4, 5e-5), "camera_opt": (0.1, 0.001), "camera_focal": (0.1, 0.001)}
"""Section 5.3; cameras in pixels per step."""

TIMED_RAYS = 32
"""Rays of the step that is timed before training on a CPU."""


@dataclass
class VanillaNerfModelConfig(RayModelConfig):
    """Options of the paper's own model."""

    _target: type = field(default_factory=lambda: VanillaNerfModel)
    num_coarse_samples: int = 64
    """Samples per ray of the coarse network, one in each of equal strata."""
    num_importance_samples: int = 128
    """Further samples per ray of the fine network, drawn from the coarse one's weights."""
    sampling: Literal["linear", "disparity"] = "linear"
    """Strata of equal size in distance, or in 1 / distance for scenes with a far background."""
    density_noise: float = 1.0
    """Standard deviation of the noise on density before its activation, in training (section A of
    the supplement: 1 for photos; 0 for synthetic scenes)."""
    width: int = 256
    """Channels of the network's layers."""
    num_layers: int = 8
    """Layers of the network's trunk; the position is joined again after the fifth, or the last
    but one of a shorter trunk."""
    position_frequencies: int = 10
    """Number of frequencies of the position's encoding."""
    direction_frequencies: int = 4
    """Number of frequencies of the direction's encoding."""
    eval_num_rays_per_chunk: int = 1024
    """Rays that are rendered at once in evaluation; fewer need less memory."""

    def resolve(self, device_type: str, steps: int | None) -> RunPlan:
        """The paper's plan, for every device."""
        self.check()
        steps = steps or STEPS
        near = self.near_plane or "near the first points"
        sentence = (
            f"nerf-vanilla on {device_type}: {steps} steps, rays from {near} to "
            f"{self.far_plane} scene units (cameras lie in a box from -1 to 1)."
        )
        return RunPlan(steps, LEARNING_RATES, sentence)


class VanillaNerfModel(RayModel):
    """Coarse and fine network with hierarchical sampling, in scene units between two planes.

    What lies beyond the far plane of an unbounded scene is painted near it. Outputs: those of
    `RayModel`, from the fine network, and in training `rgb_coarse`.
    """

    config: VanillaNerfModelConfig

    def populate_modules(self) -> None:
        """Make the two networks."""
        super().populate_modules()
        self.coarse, self.fine = (
            RadianceMlp(
                self.config.width,
                self.config.num_layers,
                min(5, self.config.num_layers - 1),
                self.config.position_frequencies,
                self.config.direction_frequencies,
            )
            for _ in range(2)
        )

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Both networks, and cameras."""
        groups = {"fields": [*self.coarse.parameters(), *self.fine.parameters()]}
        self.camera_optimizer.get_param_groups(groups)
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Those of every model; on a CPU this is the place to say how long training will take."""
        trainer, pipeline = (
            training_callback_attributes.trainer,
            training_callback_attributes.pipeline,
        )
        if self.device.type == "cpu" and trainer is not None and pipeline is not None:
            rays = pipeline.datamanager.get_train_rays_per_batch()
            seconds = self.seconds_per_ray() * rays
            steps = trainer.config.max_num_iterations
            CONSOLE.print(
                f"nerf-vanilla takes about {seconds:.2g} s per step of {rays} rays on this CPU "
                f"(timed), so {steps} steps take about {_duration(seconds * steps)}. "
                "The method nerf is made for a CPU."
            )
        return super().get_training_callbacks(training_callback_attributes)

    def seconds_per_ray(self) -> float:
        """Wall time of training on one ray, by a step on a few; parameters stay as they are."""
        direction = torch.tensor([0.0, 0.0, 1.0], device=self.device).expand(TIMED_RAYS, 3)
        rays = RayBundle(
            origins=torch.zeros_like(direction),
            directions=direction,
            pixel_area=torch.zeros_like(direction[:, :1]),
        )
        seconds = []
        for _ in range(2):  # The first also pays for memory and thread start.
            start = time.perf_counter()
            outputs = self.get_outputs(rays)
            parameters = [*self.coarse.parameters(), *self.fine.parameters()]
            total = outputs["rgb"].sum() + outputs["rgb_coarse"].sum()
            torch.autograd.grad(total, parameters, allow_unused=True)
            seconds.append(time.perf_counter() - start)
        return min(seconds) / TIMED_RAYS

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:  # type: ignore[override]
        """Render rays of shape [R]; see the class for the outputs."""
        config, ray_bundle = self.config, self.corrected(ray_bundle)
        near = torch.full_like(ray_bundle.origins[:, :1], self.near_plane)
        far = torch.full_like(near, config.far_plane)
        near, far = self.planes(ray_bundle) or (near, far)
        background = self.background(ray_bundle.origins)
        distances = stratified_distances(
            near,
            far,
            config.num_coarse_samples,
            is_stratified=self.training,
            is_disparity=config.sampling == "disparity",
        )
        rgb_coarse, weights, _ = self._render(self.coarse, ray_bundle, distances, far, background)
        distances = joined_samples(
            distances,
            far,
            weights.detach(),
            config.num_importance_samples,
            is_stratified=self.training,
        )
        rgb, weights, remaining = self._render(self.fine, ray_bundle, distances, far, background)
        outputs = {
            "rgb": rgb,
            "depth": median_distance(weights, distances, _lengths(distances, far))[:, None],
            "accumulation": 1 - remaining[:, None],
            "background": background,
        }
        return outputs | ({"rgb_coarse": rgb_coarse} if self.training else {})

    def _render(
        self,
        network: RadianceMlp,
        rays: RayBundle,
        distances: Float[Tensor, "ray n"],
        far: Float[Tensor, "ray 1"],
        background: Float[Tensor, "ray 3"],
    ) -> tuple[Float[Tensor, " ray 3"], Float[Tensor, " ray n"], Float[Tensor, " ray"]]:
        """Colour over the background, weights and remaining transmittance: equation 3."""
        points = rays.origins[:, None] + distances[..., None] * rays.directions[:, None]
        raw, colors = network(points, rays.directions[:, None].expand_as(points))
        if self.training and self.config.density_noise > 0:
            raw = raw + self.config.density_noise * torch.randn_like(raw)
        weights, remaining = weights_from_density(raw.relu(), _lengths(distances, far))
        return composite(weights, colors, remaining, background), weights, remaining

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:
        """Equation 6: squared error of both networks' colours, here its mean."""
        target = composited(batch["image"].to(self.device), outputs["background"])
        weights = self.ray_weights(batch)
        losses = {"rgb_loss": squared_error(outputs["rgb"], target, weights)}
        if "rgb_coarse" in outputs:
            losses["rgb_loss_coarse"] = squared_error(outputs["rgb_coarse"], target, weights)
        if self.training:
            self.camera_optimizer.get_loss_dict(losses)
        return losses


def _lengths(
    distances: Float[Tensor, "ray n"], far: Float[Tensor, "ray 1"]
) -> Float[Tensor, "ray n"]:
    """From each distance to the next, the last to where the ray ends."""
    return torch.cat([distances, far], dim=-1).diff(dim=-1)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
