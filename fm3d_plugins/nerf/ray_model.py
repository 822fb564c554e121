"""What the methods `nerf` and `nerf-vanilla` have in common as nerfstudio models."""

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.models.base_model import Model
from torch import Tensor

from fm3d_plugins.backends.metrics import (
    Lpips,
    LpipsNetwork,
    corrected_metrics,
    image_metrics,
    psnr,
)
from fm3d_plugins.camera_optimization.camera_optimizer import (
    TRACKS,
    CameraOptimizer,
    CameraOptimizerConfig,
)
from fm3d_plugins.camera_photos import CAMERA_CONFIDENCE, GIVEN_CAMERAS
from fm3d_plugins.geometry.pointmaps import z_depth
from fm3d_plugins.nerf.pixels import PLACE
from fm3d_plugins.nerfstudio_cameras import intrinsics_matrices, world_from_cameras
from fm3d_plugins.photo_datamanager import VIEW_WEIGHTS
from fm3d_plugins.training import BareModelConfig

POSE_PIXELS = 4096
"""Pixels of a photo by which the pose of a held-out camera is found."""

SHORTEST_NEAR = 0.05
"""Scene units, in which the cameras span about two."""

PULL = 2.5e-5
"""Loss per pixel of a camera's correction. Fox's photos shifted by a pixel cost 0.061 in the loss
of `3dgs`, and as a squared error 0.0019: its pull would hold cameras where they were given."""

NEAR_SHARE = 0.5
"""Of the distance of the nearest points, where rays begin."""

BACKGROUNDS = {"random": 0.0, "black": 0.0, "white": 1.0}
"""Brightness behind everything in evaluation."""


@dataclass
class RayModelConfig(BareModelConfig):
    """Options of every model that renders rays."""

    _target: type = field(default_factory=lambda: RayModel)
    near_plane: float | None = 0.05
    """Distance from the camera at which rays begin, scene units. None: half the distance of the
    nearest thing that the dataparser's points show, and 0.05 where it brings no points."""
    far_plane: float = 6.0
    """Distance from the camera at which rays end, scene units."""
    background_color: Literal["random", "black", "white"] = "random"
    """Behind everything, in training. Random teaches the scene to be opaque; it is black in
    evaluation."""
    lpips_networks: tuple[LpipsNetwork, ...] = ("alex",)
    """Backbones of the LPIPS metric; `lpips` in the results is alex, `lpips_vgg` is vgg."""
    eval_num_rays_per_chunk: int = 1 << 15
    """Rays that are rendered at once in evaluation; fewer need less memory."""
    camera_optimizer: CameraOptimizerConfig = field(
        default_factory=lambda: CameraOptimizerConfig(pull=PULL)
    )
    """Whether and how the training cameras are optimised with the scene."""

    def check(self) -> None:
        """Refuse planes between which there is nothing.

        Raises:
            ValueError: Not 0 < near_plane < far_plane.
        """
        if not 0 < (self.near_plane or SHORTEST_NEAR) < self.far_plane or self.near_plane == 0:
            raise ValueError(
                f"The near plane is {self.near_plane} and the far plane {self.far_plane}. Expected "
                "0 < near < far. Change --pipeline.model.near-plane or --pipeline.model.far-plane."
            )


class RayModel(Model):
    """Rays to colours, over a background, compared with the photos' pixels.

    Outputs for rays [R] or a camera [H, W]: `rgb` [., 3] in [0, 1], `depth` [., 1] distance along
    the ray in scene units at which half of its light is absorbed, `accumulation` [., 1] opacity,
    `background` [., 3]. The batch is that of `NerfDataManager`.
    """

    config: RayModelConfig
    view_weights: Float[Tensor, " view"] | None

    def populate_modules(self) -> None:
        """Called by nerfstudio's constructor."""
        self.config.check()
        self.lpips_metrics = [Lpips(network) for network in self.config.lpips_networks]
        metadata = self.kwargs.get("metadata") or {}
        self.given_cameras: Cameras | None = metadata.get(GIVEN_CAMERAS)
        self.register_buffer("view_weights", metadata.get(VIEW_WEIGHTS), persistent=False)
        self.near_plane = self.config.near_plane or self._near_of_points(metadata)
        self.camera_optimizer: CameraOptimizer = self.config.camera_optimizer.setup(
            num_cameras=self.num_train_data,
            device=self.kwargs.get("device", "cpu"),
            cameras=self.given_cameras,
            confidence=metadata.get(CAMERA_CONFIDENCE),
            tracks=metadata.get(TRACKS),
        )

    def _near_of_points(self, metadata: dict[str, Any]) -> float:
        points = metadata.get("points3D_xyz")
        if points is None or self.given_cameras is None:
            return SHORTEST_NEAR
        nearest = NEAR_SHARE * nearest_in_view(points.cpu(), self.given_cameras.to("cpu"))
        # The first samples must not fall behind what rays are cut off at.
        return min(max(nearest, SHORTEST_NEAR), self.config.far_plane / 2)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Hold the cameras' gauge after every step."""
        after = TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        return [TrainingCallback([after], self.camera_optimizer.hold_gauge)]

    @abstractmethod
    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:  # type: ignore[override]
        """Render rays of shape [R]; see the class for the outputs."""

    def corrected(self, rays: RayBundle) -> RayBundle:
        """Rays of training photos from the optimised cameras; others as they are.

        Gradients reach their origins across the rays alone; see `moved_across`.
        """
        if self.training and self.camera_optimizer.is_on and rays.camera_indices is not None:
            rays = dataclasses.replace(rays)
            self.camera_optimizer.apply_to_raybundle(rays)
        if not rays.origins.requires_grad:
            return rays
        return dataclasses.replace(rays, origins=moved_across(rays.origins, rays.directions))

    def planes(
        self, rays: RayBundle
    ) -> tuple[Float[Tensor, "ray 1"], Float[Tensor, "ray 1"]] | None:
        """Where each ray enters and leaves the viewer's crop box; none without one."""
        if rays.nears is None or rays.fars is None:
            return None
        near = rays.nears.clamp(self.near_plane, self.config.far_plane)
        return near, rays.fars.clamp(self.near_plane, self.config.far_plane)

    def ray_weights(self, batch: dict[str, Any]) -> Float[Tensor, "ray 1"] | float:
        """By how much the colours of training rays count; 1 for those of photos."""
        if not self.training or self.view_weights is None:
            return 1.0
        return self.view_weights[batch["indices"][:, :1]]

    def background(self, like: Float[Tensor, "ray 3"]) -> Float[Tensor, "ray 3"]:
        """What lies behind rays."""
        if self.training and self.config.background_color == "random":
            return torch.rand_like(like)
        return torch.full_like(like, BACKGROUNDS[self.config.background_color])

    def get_metrics_dict(self, outputs, batch) -> dict[str, Tensor]:
        """PSNR of these rays, in decibels, and how far the cameras have moved."""
        target = composited(batch["image"].to(self.device), outputs["background"])
        metrics = {"psnr": psnr(outputs["rgb"].detach()[None], target[None])}
        self.camera_optimizer.get_metrics_dict(metrics)
        return metrics

    def render_loss(self, camera: Cameras, batch: dict[str, Any]) -> Float[Tensor, ""]:
        """Squared error of some pixels of a photo that count, the same at every call.

        Differentiable in the camera's pose; used to place held-out cameras.
        """
        height, width = batch["image"].shape[:2]
        generator = torch.Generator().manual_seed(0)
        pixel = torch.randint(height * width, (POSE_PIXELS,), generator=generator)
        row, column = pixel // width, pixel % width
        rays = camera.generate_rays(
            camera_indices=torch.zeros(POSE_PIXELS, 1, dtype=torch.long, device=camera.device),
            coords=(torch.stack([row, column], dim=-1) + 0.5).to(camera.device),
        )
        place = torch.stack([(column + 0.5) / width, (row + 0.5) / height], dim=-1)
        rays.metadata[PLACE] = place.to(camera.device)
        outputs = self.get_outputs(rays)
        image = batch["image"][row, column].to(outputs["rgb"])
        target = composited(image, outputs["background"])
        errors = (outputs["rgb"] - target).square().mean(-1)
        if "mask" not in batch:
            return errors.mean()
        counts = batch["mask"][row, column, 0].to(errors)
        return (errors * counts).sum() / counts.sum().clamp_min(1)

    def surface_depth(
        self, camera: Cameras, outputs: dict[str, Tensor]
    ) -> Float[Tensor, "height width"]:
        """z of the surface that a pinhole's pixels show, scene units; 0 where there is none."""
        distance = outputs["depth"][..., 0]
        intrinsics = intrinsics_matrices(camera).reshape(3, 3).to(distance)
        # Rays that meet nothing end at the far plane.
        return torch.where(distance < self.config.far_plane / 2, z_depth(distance, intrinsics), 0.0)

    @torch.no_grad()
    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR (dB), SSIM and LPIPS where its weights are there; photo and render side by side.

        `cc_psnr` and `cc_ssim` are those of colours fitted to the photo's; see `corrected_metrics`.
        Masked pixels do not count.
        """
        rendered = outputs["rgb"]
        target = composited(batch["image"].to(rendered), outputs["background"])
        images = {"img": torch.cat([target, rendered], dim=1)}
        counts = batch.get("mask")
        metrics = image_metrics(rendered, target, self.lpips_metrics, counts=counts)
        return metrics | corrected_metrics(rendered, target, counts), images

    def get_rgba_image(
        self, outputs: dict[str, Tensor], output_name: str = "rgb"
    ) -> Float[Tensor, "*batch 4"]:
        """Colour without background, and opacity; ns-export and ns-render ask for it."""
        opacity = outputs["accumulation"]
        foreground = outputs[output_name] - (1 - opacity) * outputs["background"]
        color = (foreground / opacity.clamp_min(1e-6)).clamp(0, 1)
        return torch.cat([color, opacity], dim=-1)


def moved_across(
    origins: Float[Tensor, "ray 3"], directions: Float[Tensor, "ray 3"]
) -> Float[Tensor, "ray 3"]:
    """The same origins, which need a gradient, without its part along their rays.

    A ray that begins farther back sees the same. But its samples stand elsewhere, and what that
    changes has one sign for all cameras: lengthening focal lengths, with which cameras move back,
    went 0.8 % astray in 1000 steps from exact ones (fox), and now 0.02 %.

    Args:
        directions: Unit vectors.
    """
    along, same = directions.detach(), origins.view_as(origins)
    same.register_hook(lambda gradient: gradient - (gradient * along).sum(-1, keepdim=True) * along)
    return same


def nearest_in_view(points: Float[Tensor, "point 3"], cameras: Cameras) -> float:
    """Distance of the nearest points that lie in the cameras' images, scene units.

    The first percentile of all such distances, over all cameras, so that a stray point does not
    decide; 0 where no point is in view. Occlusion is not asked for: what hides a point is nearer.

    Args:
        points: World frame; at most about 20 000 of them are looked at.
    """
    points = points[:: max(1, len(points) // 20_000)]
    world_from_camera = world_from_cameras(cameras)
    rotation, centre = world_from_camera[:, :3, :3], world_from_camera[:, :3, 3]
    offsets = points - centre[:, None]
    x, y, z = (offsets @ rotation).unbind(-1)
    column = cameras.fx * x / z + cameras.cx
    row = cameras.fy * y / z + cameras.cy
    is_seen = (z > 0) & (column > 0) & (column < cameras.width)
    is_seen = is_seen & (row > 0) & (row < cameras.height)
    distances = offsets.norm(dim=-1)[is_seen].sort().values
    return float(distances[len(distances) // 100]) if len(distances) else 0.0


def composited(
    image: Float[Tensor, "*batch channel"], background: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """A photo's colours; those of transparent pixels over the background."""
    if image.shape[-1] == 3:
        return image
    alpha = image[..., 3:]
    return image[..., :3] * alpha + background * (1 - alpha)
