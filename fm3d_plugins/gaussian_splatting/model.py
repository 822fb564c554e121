"""The gaussians as a nerfstudio model."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.models.splatfacto import SH2RGB, SplatfactoModel
from torch import Tensor
from torch.nn import Parameter, ParameterDict

from fm3d_plugins.backends.metrics import Lpips, corrected_metrics, image_metrics, psnr
from fm3d_plugins.camera_optimization.camera_optimizer import TRACKS, CameraOptimizer
from fm3d_plugins.camera_optimization.saved_state import require_one_row_each
from fm3d_plugins.camera_photos import CAMERA_CONFIDENCE, GIVEN_CAMERAS, RENDERED_VIEWS
from fm3d_plugins.depth_supervision.supervision import DepthSupervision
from fm3d_plugins.exposure import PARAMETERS, exposure_of
from fm3d_plugins.gaussian_splatting.behind import SAVED, Behind
from fm3d_plugins.gaussian_splatting.datamanager import PIXEL_WIDTH, SETTLED_POINTS
from fm3d_plugins.gaussian_splatting.density_control import density_control_of
from fm3d_plugins.gaussian_splatting.options import GaussianSplattingOptions
from fm3d_plugins.gaussian_splatting.seeding import evenly_drawn, gaussians_at
from fm3d_plugins.gaussian_splatting.unlearnt import Unlearnt
from fm3d_plugins.kernels.image_loss import l1_ssim_loss
from fm3d_plugins.kernels.rasterizer import RasterizedView, rasterize
from fm3d_plugins.kernels.rasterizer.surface_depth import surface_depth
from fm3d_plugins.nerfstudio_cameras import pinhole
from fm3d_plugins.photo_datamanager import VIEW_WEIGHTS
from fm3d_plugins.scene_points import byte_colors

GAUSSIANS = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
"""Names of the parameters, one row per gaussian. ns-export and old checkpoints rely on them."""

MCMC_REGULARIZATION = 0.01
"""Weight of mean opacity and of mean scale in the loss; Kheradmand et al. 2024, section 3.4."""


@dataclass
class GaussianSplattingModelConfig(GaussianSplattingOptions):
    """Options of 3D Gaussian Splatting. Those that default to None follow the device's recipe."""

    _target: type = field(default_factory=lambda: GaussianSplattingModel)


class GaussianSplattingModel(SplatfactoModel):
    """3D Gaussian Splatting on any device.

    A subclass of nerfstudio's SplatfactoModel because ns-export and the viewer ask for one; the
    rasteriser, the loss, the density control and the metrics are this package's.

    Outputs for a camera: `rgb` [H, W, 3] in [0, 1], `depth` [H, W, 1] z-depth in scene units (the
    largest depth of the view where nothing is seen), `accumulation` [H, W, 1], `background`; in
    training also all `scales` [N, 3] and `opacities` [N, 1], for the loss.
    """

    optional_state = (PARAMETERS, PIXEL_WIDTH, *SAVED, *(f"behind.{name}" for name in SAVED))

    config: GaussianSplattingModelConfig  # type: ignore[assignment]
    view_weights: Float[Tensor, " view"] | None
    pixel_width: Float[Tensor, ""]

    def populate_modules(self) -> None:
        """Make one gaussian per seed point (called by nerfstudio's constructor)."""
        self.recipe = self.config.recipe(str(self.kwargs.get("device", "cpu")).split(":")[0])
        if self.seed_points is None:
            raise ValueError(
                "3dgs got no points to start from. Expected seed points from the datamanager. "
                "Use the datamanager of the method 3dgs, which makes random points when it must."
            )
        self.gauss_params = self._start(*self.seed_points)
        # In checkpoints, as a resumed run knows no points to start from; 0 for any.
        width = self.kwargs["metadata"].get(PIXEL_WIDTH)
        self.register_buffer(PIXEL_WIDTH, torch.tensor(width or 0.0))
        self.density_control = density_control_of(
            self.recipe, self.config.densify_size_thresh, self.config.cull_scale_thresh
        )
        self.camera_optimizer: CameraOptimizer = self.config.camera_optimizer.setup(
            num_cameras=self.num_train_data,
            device=self.kwargs.get("device", "cpu"),
            cameras=self.kwargs["metadata"].get(GIVEN_CAMERAS),
            confidence=self.kwargs["metadata"].get(CAMERA_CONFIDENCE),
            tracks=self.kwargs["metadata"].get(TRACKS),
        )
        rendered = self.kwargs["metadata"].get(RENDERED_VIEWS)
        self.exposure = exposure_of(self.config.exposure, self.num_train_data, rendered)
        self.depth_supervision: DepthSupervision = self.config.depth.setup(
            num_photos=self.num_train_data, device=self.kwargs.get("device", "cpu")
        )
        weights = self.kwargs["metadata"].get(VIEW_WEIGHTS)
        self.register_buffer("view_weights", weights, persistent=False)
        self.lpips_metrics = [Lpips(network) for network in self.config.lpips_networks]
        self.step = 0
        self.crop_box: OrientedBox | None = None
        self.behind = Behind(self.config.background_color, self.kwargs["metadata"])
        self._last_view: RasterizedView | None = None
        self._last_camera: Cameras | None = None

    def set_background(self, background_color: Float[Tensor, "3"]) -> None:
        """Called by the viewer, for the colour around its crop box."""
        self.behind.color = background_color.to(self.behind.color)

    def _start(self, points: Tensor, colors: Tensor) -> ParameterDict:
        """Gaussians at some points, of which no more are taken than there may be."""
        rows = evenly_drawn(len(points), self.recipe.max_gaussians)
        colors = byte_colors(colors, len(points))
        return gaussians_at(points[rows], colors[rows], self.config.sh_degree)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = self.get_gaussian_param_groups()
        if self.exposure is not None:
            groups["exposure"] = [self.exposure.corrections]
        self.camera_optimizer.get_param_groups(groups)
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        metadata = self.kwargs["metadata"]
        self.depth_supervision.begin_training(metadata, self.device)
        if SETTLED_POINTS in metadata:
            fresh = self._start(*metadata.pop(SETTLED_POINTS))
            for name, values in self.gauss_params.items():  # Those that the optimizers hold.
                values.data = fresh[name].data.to(values)
            self.pixel_width.fill_(metadata[PIXEL_WIDTH] or 0.0)
        self._largest_move = self.config.largest_step * float(self.pixel_width)
        trainer: Any = training_callback_attributes.trainer
        unlearnt = Unlearnt(
            training_callback_attributes.pipeline,
            trainer._start_step,
            trainer.config.max_num_iterations,
        )
        return [
            TrainingCallback(
                [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION],
                self.step_cb,
                args=[training_callback_attributes.optimizers],
            ),
            TrainingCallback(
                [TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self._control_density
            ),
            TrainingCallback(
                [TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.camera_optimizer.hold_gauge
            ),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], unlearnt.after_step),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], unlearnt.after_training),
        ]

    def step_cb(self, optimizers: Optimizers, step: int) -> None:
        """Called before every step: points that lie on surfaces need not go far."""
        super().step_cb(optimizers, step)
        if self._largest_move > 0:
            group = self.optimizers["means"].param_groups[0]
            group["lr"] = min(group["lr"], self._largest_move)

    def _control_density(self, step: int) -> None:
        view = self._last_view
        if view is None:
            return
        self.density_control.after_step(
            self.gauss_params,
            {name: self.optimizers[name] for name in GAUSSIANS},
            step,
            view.means2d.grad if view.absolute_gradient is None else view.absolute_gradient,
            view.radii,
            (view.rgb.shape[1], view.rgb.shape[0]),
        )
        self._last_view = None

    def load_state_dict(self, dict: dict[str, Any], **kwargs) -> Any:  # noqa: A002
        """Load gaussians of any number, into the parameters that the optimizers hold.

        Raises:
            ValueError: The checkpoint has not the same number of each parameter.
        """
        own = {name: values.data for name, values in self.gauss_params.items()}
        require_one_row_each(own, dict, "gauss_params.")
        for name, values in self.gauss_params.items():
            values.data = values.new_zeros(dict[f"gauss_params.{name}"].shape)
        state = self.behind.take_from(dict, "behind.")
        return super(SplatfactoModel, self).load_state_dict(state, **kwargs)

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor]:  # type: ignore[override]
        """Render one camera; see the class for the outputs."""
        gaussians = self._active_gaussians()
        background = self.behind.one_color()
        if gaussians is None:
            return _empty_view(int(camera.width.item()), int(camera.height.item()), background)
        seen = pinhole(
            camera,
            camera_to_world=self.camera_optimizer.apply_to_camera(camera),
            focal_factor=self.camera_optimizer.focal_factor(camera),
            downscale=self._get_downscale_factor(),
        )
        degree = self._active_sh_degree()
        scales, opacities = gaussians["scales"].exp(), gaussians["opacities"].sigmoid()
        view = rasterize(
            gaussians["means"],
            gaussians["quats"],
            scales,
            opacities.squeeze(-1),
            gaussians["features_dc"][:, None],
            seen.camera_from_world,
            seen.intrinsics,
            width=seen.width,
            height=seen.height,
            sh_degree=degree,
            background=background,
            # None while unused, so that its optimizer does not count those steps.
            sh_rest=gaussians["features_rest"] if degree > 0 else None,
            antialiased=self.config.rasterize_mode == "antialiased",
            absolute_gradient=self.training and self.config.absgrad,
            backend=self.config.backend,
        )
        rgb = self._as_photographed(view, background, camera)
        is_cropped = self.crop_box is not None and not self.training
        behind = None if is_cropped else self.behind.in_view(seen, camera, background)
        if behind is not None:
            # In the place of the colour that the rasteriser put there.
            rgb = rgb + (1 - view.alpha) * (behind - background)
            background = behind
        if self.training and view.means2d.requires_grad:
            view.means2d.retain_grad()
            self._last_view, self._last_camera = view, camera
        depth = torch.where(view.alpha > 0, view.depth, view.depth.detach().max())
        outputs = {
            "rgb": rgb.clamp(0.0, 1.0),
            "depth": depth,
            "accumulation": view.alpha,
            "background": background if self.training else background.expand_as(rgb),
        }
        return outputs | ({"scales": scales, "opacities": opacities} if self.training else {})

    def _as_photographed(
        self, view: RasterizedView, background: Float[Tensor, "3"], camera: Cameras
    ) -> Float[Tensor, "height width 3"]:
        """Colours of a training view with its photo's exposure; others as they are."""
        photo = (camera.metadata or {}).get("cam_idx")
        if self.exposure is None or not self.training or photo is None:
            return view.rgb
        behind = (1 - view.alpha) * background
        row = torch.tensor([[photo]], device=view.rgb.device)
        return self.exposure(view.rgb - behind, view.alpha, row) + behind

    def surface_depth(
        self, camera: Cameras, outputs: dict[str, Tensor]
    ) -> Float[Tensor, "height width"]:
        """z of the surface that a pinhole's pixels show, scene units; 0 where there is none.

        Not the `depth` of the outputs, which lies behind it: what is seen through it counts there.
        """
        seen = pinhole(camera.to("cpu"))
        return surface_depth(
            self.means,
            self.quats,
            self.scales.exp(),
            self.opacities.sigmoid().squeeze(-1),
            seen.camera_from_world,
            seen.intrinsics,
            width=seen.width,
            height=seen.height,
            antialiased=self.config.rasterize_mode == "antialiased",
        )

    @property
    def shs_0(self) -> Float[Tensor, "gaussian 3"]:
        """Nerfstudio's own takes colours of degree 0 for logits."""
        return self.features_dc

    @property
    def colors(self) -> Float[Tensor, "gaussian 3"]:
        """Without what depends on the direction, in [0, 1]; nerfstudio's own as above."""
        return SH2RGB(self.features_dc).clamp(0.0, 1.0)

    def _active_gaussians(self) -> dict[str, Tensor] | None:
        """All gaussians, or those in the viewer's crop box; None when that is empty."""
        if self.crop_box is None or self.training:
            return dict(self.gauss_params.items())
        inside = self.crop_box.within(self.means).squeeze()
        if not bool(inside.any()):
            return None
        return {name: values[inside] for name, values in self.gauss_params.items()}

    def _active_sh_degree(self) -> int:
        if not self.training:
            return self.config.sh_degree  # Coefficients not yet trained are zero.
        return min(self.step // self.recipe.sh_degree_interval, self.config.sh_degree)

    def _get_downscale_factor(self) -> int:
        if not self.training:
            return 1
        doublings = self.step // self.recipe.resolution_schedule
        return 2 ** max(self.recipe.num_downscales - doublings, 0)

    def _downscale_if_required(self, image: Tensor) -> Tensor:
        factor = self._get_downscale_factor()
        if factor == 1:
            return image
        planes = image.float().permute(2, 0, 1)
        return torch.nn.functional.avg_pool2d(planes, factor).permute(1, 2, 0)

    def get_metrics_dict(self, outputs, batch) -> dict[str, Tensor]:
        """PSNR of this view, in decibels, and the number of gaussians."""
        target = self.composite_with_background(
            self.get_gt_img(batch["image"]), outputs["background"]
        )
        mask = self._mask(batch)
        counts = None if mask is None else mask > 0.5  # noqa: PLR2004
        metrics = {
            "psnr": psnr(outputs["rgb"].detach(), target, counts),
            "gaussian_count": torch.tensor(float(self.num_points)),
        }
        self.camera_optimizer.get_metrics_dict(metrics)
        return metrics

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:
        """Equation 7 of Kerbl et al. 2023; masked pixels are black in both images."""
        target = self.composite_with_background(
            self.get_gt_img(batch["image"]), outputs["background"]
        )
        rendered, mask, outlines = outputs["rgb"], self._mask(batch), None
        if self.training:
            outlines = self.behind.weight(int(batch["image_idx"]), rendered)
        for weight in (mask, outlines):
            if weight is not None:
                target, rendered = target * weight, rendered * weight
        loss = {"main_loss": l1_ssim_loss(rendered, target, self.config.ssim_lambda)}
        if self.training and self.view_weights is not None:
            loss["main_loss"] = loss["main_loss"] * self.view_weights[batch["image_idx"]]
        if self.recipe.density_control == "mcmc" and self.training:
            loss["opacity_reg"] = MCMC_REGULARIZATION * outputs["opacities"].mean()
            loss["scale_reg"] = MCMC_REGULARIZATION * outputs["scales"].mean()
        if self.training:
            emptiness = self.behind.emptiness(int(batch["image_idx"]), outputs["accumulation"])
            loss |= {} if emptiness is None else {"emptiness": emptiness}
        if self.training and self.depth_supervision.is_on:
            assert self._last_camera is not None
            loss["depth_loss"] = self.depth_supervision.photo_loss(
                outputs["depth"],
                outputs["accumulation"],
                self._last_camera,
                batch["image_idx"],
                self.step,
                downscale=self._get_downscale_factor(),
                mask=mask,
            )
        if self.training and self.exposure is not None:
            penalty = self.exposure.penalty(batch["image_idx"])
            loss["exposure_penalty"] = self.config.exposure_penalty * penalty
        if self.training:
            self.camera_optimizer.get_loss_dict(loss)
        return loss

    def _mask(self, batch: dict[str, Any]) -> Float[Tensor, "height width 1"] | None:
        """How much of each pixel counts, at the size that is trained on; none without a mask."""
        if "mask" not in batch:
            return None
        return self._downscale_if_required(batch["mask"]).to(self.device).float()

    def render_loss(self, camera: Cameras, batch: dict[str, Any]) -> Float[Tensor, ""]:
        """Difference between a photo and its render; differentiable in the camera's pose."""
        return self.get_loss_dict(self.get_outputs(camera), batch)["main_loss"]

    @torch.no_grad()
    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR (dB), SSIM and LPIPS where its weights are there; photo and render side by side.

        `cc_psnr` and `cc_ssim` are those of colours fitted to the photo's; see `corrected_metrics`.
        Masked pixels do not count.
        """
        target = self.composite_with_background(
            self.get_gt_img(batch["image"]), outputs["background"]
        )
        rendered = outputs["rgb"]
        images = {"img": torch.cat([target, rendered], dim=1)}
        counts = batch.get("mask")
        metrics = image_metrics(rendered, target, self.lpips_metrics, counts=counts)
        return metrics | corrected_metrics(rendered, target, counts), images


def _empty_view(width: int, height: int, background: Float[Tensor, "3"]) -> dict[str, Tensor]:
    rgb = background.expand(height, width, 3)
    nothing = background.new_zeros(height, width, 1)
    # Far away, so that the viewer composes nothing behind it.
    return {"rgb": rgb, "depth": nothing + 1e3, "accumulation": nothing, "background": rgb}
