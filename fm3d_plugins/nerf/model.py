"""The fast radiance field as a nerfstudio model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from fm3d_plugins.backgrounds.finding import BACKGROUND
from fm3d_plugins.backgrounds.kept import KEPT, KeptBackground
from fm3d_plugins.backgrounds.photo_pixels import IS_SHOWN, MAY_BE, PhotoPixels
from fm3d_plugins.camera_optimization.camera_optimizer import TRACKS
from fm3d_plugins.camera_optimization.settling import moved_cameras
from fm3d_plugins.camera_photos import RENDERED_VIEWS
from fm3d_plugins.depth_supervision.free_space import FreeSpace, free_space_loss
from fm3d_plugins.depth_supervision.point_rays import (
    PointRays,
    ShownPoints,
    intervals_to,
    point_loss,
    shown_points,
)
from fm3d_plugins.depth_supervision.supervision import DepthSupervision, axis_cosines
from fm3d_plugins.exposure import exposure_of
from fm3d_plugins.geometry.volume_rendering import expected_distance, median_distance
from fm3d_plugins.kernels.hash_grid import HashGridLayout
from fm3d_plugins.kernels.radiance_field import render_rays
from fm3d_plugins.kernels.radiance_field.definitions import Intervals
from fm3d_plugins.nerf.datamanager import DENSE_POINTS, MEAN_COLOR
from fm3d_plugins.nerf.importance_grid import ImportanceGrid
from fm3d_plugins.nerf.losses import (
    charbonnier_error,
    emptiness,
    scene_distortion,
    squared_error,
)
from fm3d_plugins.nerf.network import RadianceField, levels_at
from fm3d_plugins.nerf.options import NerfOptions
from fm3d_plugins.nerf.pixels import PLACE
from fm3d_plugins.nerf.ray_model import RayModel, composited
from fm3d_plugins.scene_points import POINTS

REFRESH_EVERY = 16
"""Steps between refreshes of the memory of where space is empty."""

EMPTINESS = 0.3
"""Weight of the loss by which rays that show the photos' background meet nothing."""


@dataclass
class NerfModelConfig(NerfOptions):
    """Options of the fast radiance field. Those that default to None follow the device's recipe."""

    _target: type = field(default_factory=lambda: NerfModel)


class NerfModel(RayModel):
    """Hash grid and two small networks in contracted space, sampled where a grid remembers matter.

    Outputs: those of `RayModel`; in training also `weights` [R, n] and `intervals`, and where the
    photos have a background `is_background` [R, 1].
    """

    optional_state = tuple(f"behind.{name}" for name in KEPT)

    config: NerfModelConfig

    def populate_modules(self) -> None:
        """Make the field and what goes with it."""
        super().populate_modules()
        device_type = str(self.kwargs.get("device", "cpu")).split(":")[0]
        recipe = self.config.recipe(device_type)
        self.num_samples = recipe.num_samples
        self.num_eval_samples = recipe.num_eval_samples
        layout = HashGridLayout(
            num_levels=recipe.num_levels, log2_table_size=recipe.log2_table_size
        )
        self.field = RadianceField(layout)
        metadata = self.kwargs.get("metadata") or {}
        if MEAN_COLOR in metadata:
            self.field.begin_with(metadata[MEAN_COLOR])
        found = metadata.get(BACKGROUND)
        self.behind = KeptBackground(found)
        self.behind_photos = None if found is None else PhotoPixels(found)
        self.importance = ImportanceGrid()
        rendered = metadata.get(RENDERED_VIEWS)
        self.exposure = exposure_of(self.config.exposure, self.num_train_data, rendered)
        self.distortion_warmup = recipe.distortion_warmup
        self.depth_supervision: DepthSupervision = self.config.depth.setup(
            num_photos=self.num_train_data, device=self.kwargs.get("device", "cpu")
        )
        self.free_space_weight = recipe.free_space_weight
        self.point_steps = recipe.point_steps
        self.point_rays: PointRays | None = None
        self.free_space: FreeSpace | None = None
        self.step = 0

    def load_state_dict(self, state_dict: Mapping[str, Any], *args, **kwargs) -> Any:
        """Load what was trained, and the background of a checkpoint that has one."""
        state = self.behind.take_from(dict(state_dict), "behind.")
        return super().load_state_dict(state, *args, **kwargs)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Hash table, networks, exposure and cameras."""
        groups = {"table": [self.field.table], "networks": self.field.networks()}
        if self.exposure is not None:
            groups["exposure"] = [self.exposure.corrections]
        self.camera_optimizer.get_param_groups(groups)
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Know the step beforehand, refresh the memory afterwards."""
        metadata = self.kwargs.get("metadata") or {}
        self.depth_supervision.begin_training(metadata, self.device)
        self._take_points(metadata)
        if self.config.coarse_to_fine:
            self.field.table.register_post_accumulate_grad_hook(self._hold_finer_levels)
        before = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION
        after = TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        return [
            *super().get_training_callbacks(training_callback_attributes),
            TrainingCallback([before], self.update_to_step),
            TrainingCallback([after], self._refresh, update_every_num_iters=REFRESH_EVERY),
        ]

    def _take_points(self, metadata: dict[str, Any]) -> None:
        """Let rays end at points that photos show: the dataparser's, and those of the photos."""
        cameras = self.given_cameras
        if self.config.point_weight == 0 or cameras is None:
            return
        shown = []
        if metadata.get(POINTS) is not None:
            shown.append(shown_points(metadata[POINTS], cameras, metadata.get(TRACKS)))
        if metadata.get(DENSE_POINTS) is not None:
            shown.append(self._shown_to_moved(metadata[DENSE_POINTS], cameras))
        if shown and sum(len(each.photo) for each in shown):
            joined = ShownPoints(*(torch.cat(parts) for parts in zip(*shown, strict=True)))
            self.point_rays = PointRays(joined, cameras, self.device)
            if self.free_space_weight > 0:
                self.free_space = FreeSpace(joined, cameras, self.device)
            CONSOLE.print(
                f"{len(self.point_rays)} rays to the scene's points guide the field "
                "(--pipeline.model.point-weight)."
            )

    def _shown_to_moved(self, points: Float[Tensor, "point 3"], given: Cameras) -> ShownPoints:
        """Points of cameras that may have moved before training, as rays of given ones see them."""
        if not self.camera_optimizer.is_on:
            return shown_points(points, given)
        points, photo = shown_points(points, moved_cameras(given, self.camera_optimizer))
        aims = self.camera_optimizer.uncorrected(points.to(self.device), photo.to(self.device))
        return ShownPoints(aims.cpu(), photo)

    def update_to_step(self, step: int) -> None:
        """Which step is next; random numbers and schedules follow it."""
        self.step = step

    def _hold_finer_levels(self, _: Parameter) -> None:
        num_levels = self.field.layout.num_levels
        self.field.hold_finer_levels(levels_at(self.step, num_levels, self.config.coarse_to_fine))

    def _refresh(self, step: int) -> None:
        generator = self._generator(1)
        self.importance.refresh(self.field.tensors(), self.field.layout, generator)

    def _generator(self, purpose: int) -> torch.Generator:
        seed = hash((self.config.seed, purpose, self.step)) % (1 << 63)
        return torch.Generator(self.device).manual_seed(seed)

    def _intervals(self, rays: RayBundle) -> Intervals:
        jitter = None
        if self.training:
            count = len(rays.origins)
            jitter = torch.rand(count, generator=self._generator(0), device=self.device)
        chosen = self.importance.intervals(
            rays.origins.detach(),
            rays.directions.detach(),
            self.num_samples if self.training else self.num_eval_samples,
            near=self.near_plane,
            far=self.config.far_plane,
            jitter=jitter,
        )
        crop = self.planes(rays)
        return chosen if crop is None else _cropped(chosen, *crop)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:  # type: ignore[override]
        """Render rays of shape [R]; see the class for the outputs."""
        ray_bundle = self.corrected(ray_bundle)
        intervals = self._intervals(ray_bundle)
        parameters, layout = self.field.tensors(), self.field.layout
        origins, directions = ray_bundle.origins, ray_bundle.directions
        rendered = render_rays(
            parameters,
            layout,
            origins,
            directions,
            intervals,
            calm_distance=self.config.calm_distance,
            backend=self.config.backend,
        )
        opacity = rendered.weights.sum(-1, keepdim=True).clamp(max=1.0)
        rgb = rendered.rgb
        outputs = {}
        if self.training:
            self.importance.remember(
                origins.detach(), directions.detach(), intervals, rendered.densities
            )
            if self.exposure is not None and ray_bundle.camera_indices is not None:
                rgb = self.exposure(rgb, opacity, ray_bundle.camera_indices.flatten())
            outputs = {"weights": rendered.weights, "intervals": intervals}
            if self.depth_supervision.is_on:
                outputs["cosines"] = self._cosines(ray_bundle)
        background, is_shown = self._behind(ray_bundle, self.background(rgb))
        if is_shown is not None:
            outputs["is_background"] = is_shown
        return outputs | {
            "rgb": (rgb + (1 - opacity) * background).clamp(0, 1),
            "depth": self._depth(rendered.weights.detach(), intervals),
            "accumulation": opacity,
            "background": background,
        }

    def _behind(
        self, rays: RayBundle, otherwise: Float[Tensor, "ray 3"]
    ) -> tuple[Float[Tensor, "ray 3"], Bool[Tensor, "ray 1"] | None]:
        """Colours behind rays; in training also which of them show the photos' background."""
        place = (rays.metadata or {}).get(PLACE)
        if place is None:
            return otherwise, None
        if not self.training:
            behind = self.behind.at(place)
            return (otherwise if behind is None else behind), None
        if self.behind_photos is None or rays.camera_indices is None:
            return otherwise, None
        photo = rays.camera_indices.flatten()
        shown = self.behind_photos.shown(photo, place)[:, None]
        behind = self.behind_photos.colors(photo, place)
        return torch.where(shown >= MAY_BE, behind, otherwise), shown == IS_SHOWN

    @torch.no_grad()
    def get_outputs_for_camera(
        self, camera: Cameras, obb_box: OrientedBox | None = None
    ) -> dict[str, Tensor]:
        """Render a whole view, over the photos' background where it is not cropped."""
        outputs = super().get_outputs_for_camera(camera, obb_box)
        behind = self.behind.at_size(*outputs["rgb"].shape[:2])
        if behind is None or obb_box is not None:
            return outputs
        # In the place of what the rays were laid over.
        left, behind = 1 - outputs["accumulation"], behind.to(outputs["rgb"])
        rgb = outputs["rgb"] + left * (behind - outputs["background"])
        return outputs | {"rgb": rgb.clamp(0, 1), "background": behind}

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:
        """Error of the colours, distortion of the rays, and what holds exposure and cameras."""
        target = composited(batch["image"].to(self.device), outputs["background"])
        error = squared_error if self.config.loss == "squared" else charbonnier_error
        losses = {"rgb_loss": error(outputs["rgb"], target, self.ray_weights(batch))}
        if not self.training:
            return losses
        if "is_background" in outputs:
            empty = emptiness(outputs["accumulation"], outputs["is_background"])
            losses["emptiness"] = EMPTINESS * empty
        weight = self._distortion_weight()
        if weight > 0:
            losses["distortion_loss"] = weight * scene_distortion(
                outputs["weights"], outputs["intervals"].middles, outputs["intervals"].lengths
            )
        if self.depth_supervision.is_on:
            losses["depth_loss"] = self.depth_supervision.ray_loss(
                expected_distance(outputs["weights"], outputs["intervals"].middles),
                outputs["accumulation"].squeeze(-1),
                outputs["cosines"],
                batch["indices"],
                self.step,
            )
        point_weight = self._point_weight()
        if self.point_rays is not None and point_weight > 0:
            losses["point_loss"] = point_weight * self._point_loss(self.point_rays)
        if self.free_space is not None:
            losses["free_space_loss"] = self.free_space_weight * free_space_loss(
                outputs["weights"],
                outputs["intervals"].middles,
                self.free_space.at(batch["indices"]),
            )
        if self.exposure is not None:
            losses["exposure_penalty"] = self.config.exposure_penalty * self.exposure.penalty()
        self.camera_optimizer.get_loss_dict(losses)
        return losses

    def _point_loss(self, point_rays: PointRays) -> Float[Tensor, ""]:
        rays, distance = point_rays.draw(self.config.point_rays, self._generator(2))
        rays = self.corrected(rays)
        # Where a ray ends says nothing about its camera.
        origins, directions = rays.origins.detach(), rays.directions.detach()
        intervals = intervals_to(distance, self.near_plane)
        rendered = render_rays(
            self.field.tensors(),
            self.field.layout,
            origins,
            directions,
            intervals,
            backend=self.config.backend,
        )
        self.importance.remember(origins, directions, intervals, rendered.densities)
        return point_loss(rendered.weights)

    def _cosines(self, rays: RayBundle) -> Float[Tensor, " ray"]:
        assert self.given_cameras is not None and rays.camera_indices is not None
        photo = rays.camera_indices.flatten()
        return axis_cosines(rays.directions, photo, self.given_cameras, self.camera_optimizer)

    def _depth(
        self, weights: Float[Tensor, "ray n"], intervals: Intervals
    ) -> Float[Tensor, "ray 1"]:
        """Half of the light is absorbed there; the far plane where it is not."""
        starts = intervals.middles - intervals.lengths / 2
        depth = median_distance(weights, starts, intervals.lengths)
        return depth.where(weights.sum(-1) >= 0.5, self.config.far_plane)[:, None]

    def _point_weight(self) -> float:
        left = 1 - self.step / self.point_steps if self.point_steps else 1
        return self.config.point_weight * max(0.0, left)

    def _distortion_weight(self) -> float:
        rise = min(1.0, self.step / max(1, self.distortion_warmup))
        return self.config.distortion_weight * rise


def _cropped(
    intervals: Intervals, near: Float[Tensor, "ray 1"], far: Float[Tensor, "ray 1"]
) -> Intervals:
    """Intervals shortened to what lies between two planes; those outside have no length."""
    start = (intervals.middles - intervals.lengths / 2).clamp(near, far)
    end = (intervals.middles + intervals.lengths / 2).clamp(near, far)
    return Intervals((start + end) / 2, end - start)
