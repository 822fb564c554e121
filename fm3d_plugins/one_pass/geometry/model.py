"""Geometry found in one forward pass, as a nerfstudio model: points shown as gaussians."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModel
from torch import Tensor
from torch.nn import Parameter

from fm3d_plugins.backends.metrics import Lpips, LpipsNetwork, counted, image_metrics, psnr
from fm3d_plugins.camera_optimization.camera_optimizer import (
    CameraOptimizer,
    CameraOptimizerConfig,
)
from fm3d_plugins.camera_optimization.saved_state import require_one_row_each
from fm3d_plugins.kernels.image_loss import l1_ssim_loss
from fm3d_plugins.kernels.rasterizer import rasterize
from fm3d_plugins.nerfstudio_cameras import pinhole
from fm3d_plugins.one_pass.geometry.point_splats import PointSplats
from fm3d_plugins.training import BareModelConfig
from fm3d_plugins.viewer import CloudPoints

OPACITY = 0.9
"""Of every gaussian: what is seen first counts, and its neighbours soften the edge."""

COVERED = 0.5
"""Accumulation from which a pixel of a render counts as covered."""

SPLATS = ("means", "colors", "confidence", "scales")
"""What the model holds, each as the buffer `splat_<name>`."""


@dataclass
class GeometryModelConfig(BareModelConfig):
    """How points are shown; which ones there are is said by the options of the estimator."""

    _target: type = field(default_factory=lambda: GeometryModel)
    background_color: Literal["black", "white"] = "black"
    """Behind the points, and where there are none."""
    backend: Literal["auto", "gsplat", "numba", "torch"] = "auto"
    """Rasteriser. auto: gsplat on CUDA, numba on a CPU."""
    lpips_networks: tuple[LpipsNetwork, ...] = ("alex",)
    """Backbones of the LPIPS metric; `lpips` in the results is alex, `lpips_vgg` is vgg."""

    sh_degree: tyro.conf.Suppress[int] = 0


class GeometryModel(SplatfactoModel):
    """Points that the training photos show as gaussians, which nothing optimises.

    They are buffers, `splat_means` and so on: a checkpoint holds them and no network. The pipeline
    hands them over (`hold`). A subclass of nerfstudio's SplatfactoModel because
    ns-export and the viewer ask for one.

    Outputs for a camera: `rgb` [H, W, 3] in [0, 1] over the background, `depth` [H, W, 1] z-depth
    in scene units (the largest depth of the view where nothing is seen), `accumulation` [H, W, 1],
    `confidence` [H, W, 1] (0 where nothing is seen), `background` [H, W, 3].
    """

    config: GeometryModelConfig  # type: ignore[assignment]
    splat_means: Float[Tensor, "splat 3"]
    splat_colors: UInt8[Tensor, "splat 3"]
    splat_confidence: Float[Tensor, " splat"]
    splat_scales: Float[Tensor, " splat"]

    def populate_modules(self) -> None:
        """Begin without points (called by nerfstudio's constructor)."""
        empty = torch.empty(0)
        self.hold(PointSplats(empty.reshape(0, 3), empty.reshape(0, 3).byte(), empty.half(), empty))
        # Cameras stay as they are given; test-pose protocols ask for this.
        self.camera_optimizer: CameraOptimizer = CameraOptimizerConfig(mode="off").setup(
            num_cameras=self.num_train_data, device=self.kwargs.get("device", "cpu")
        )
        self.lpips_metrics = [Lpips(network) for network in self.config.lpips_networks]
        self.step = 0
        self.crop_box: OrientedBox | None = None
        self.shown_confidence = 0.0

    def hold(self, splats: PointSplats) -> None:
        """Take these gaussians in place of those that were there."""
        for name in SPLATS:
            self.register_buffer(f"splat_{name}", getattr(splats, name).to(self._device()))

    def _device(self) -> Any:
        return getattr(self, "device_indicator_param", torch.empty(0)).device

    @property
    def gauss_params(self) -> dict[str, Tensor]:
        """The gaussians by nerfstudio's names and in its units, for ns-export."""
        count = len(self.splat_means)
        opacity = self.splat_scales.new_full((count, 1), OPACITY)
        return {
            "means": self.splat_means,
            "scales": self.splat_scales.log()[:, None].repeat(1, 3),
            "quats": _identity_rotations(self.splat_means),
            "features_dc": RGB2SH(self.splat_colors.float() / 255),
            "features_rest": self.splat_means.new_zeros(count, 0, 3),
            "opacities": opacity.logit(),
        }

    @property
    def shs_0(self) -> Float[Tensor, "splat 3"]:
        """Nerfstudio's own takes colours of degree 0 for logits."""
        return self.features_dc

    @property
    def colors(self) -> Float[Tensor, "splat 3"]:
        """In [0, 1]."""
        return self.splat_colors.float() / 255

    def cloud(self) -> CloudPoints:
        """All points, for the viewer."""
        size = 2 * float(self.splat_scales.median()) if len(self.splat_scales) else 0.0
        return CloudPoints(self.splat_means, self.splat_colors, self.splat_confidence, size)

    def show_from(self, confidence: float) -> None:
        """Render only points of at least this confidence from now on; evaluation uses all."""
        self.shown_confidence = confidence

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return {}

    def get_training_callbacks(self, training_callback_attributes) -> list:
        return []

    def load_state_dict(self, dict: dict[str, Any], **kwargs) -> Any:  # noqa: A002
        """Load any number of gaussians.

        Raises:
            ValueError: The checkpoint has not the same number of each of their parts.
        """
        own = {name: getattr(self, f"splat_{name}") for name in SPLATS}
        require_one_row_each(own, dict, "splat_")
        for name in SPLATS:
            buffer, key = getattr(self, f"splat_{name}"), f"splat_{name}"
            setattr(self, key, buffer.new_zeros(dict[key].shape))
        return super(SplatfactoModel, self).load_state_dict(dict, **kwargs)

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor]:  # type: ignore[override]
        """Render one camera; see the class for the outputs."""
        rows = self._shown_rows()
        colors = self.splat_colors[rows].float() / 255
        background = self._get_background_color()
        rgb, accumulation, depth = self._render(camera, rows, colors, background)
        with torch.no_grad():
            confidence = self.splat_confidence[rows].float()[:, None].expand(-1, 3)
            confidence_seen, _, _ = self._render(
                camera, rows, confidence, torch.zeros_like(background)
            )
        return {
            "rgb": rgb.clamp(0.0, 1.0),
            "depth": torch.where(accumulation > 0, depth, depth.detach().max()),
            "accumulation": accumulation,
            "confidence": confidence_seen[..., :1],
            "background": background.expand_as(rgb),
        }

    def _shown_rows(self) -> Tensor:
        """Rows of gaussians within the viewer's confidence and crop box."""
        is_shown = self.splat_confidence >= self.shown_confidence
        if self.crop_box is not None:
            is_shown = is_shown & self.crop_box.within(self.splat_means).reshape(-1)
        return is_shown.nonzero().squeeze(-1)

    def _render(
        self,
        camera: Cameras,
        rows: Tensor,
        colors: Float[Tensor, "shown 3"],
        background: Float[Tensor, "3"],
    ) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w 1"], Float[Tensor, "h w 1"]]:
        """Colour, accumulation and depth of some gaussians."""
        width, height = int(camera.width.item()), int(camera.height.item())
        if not len(rows):
            nothing = background.new_zeros(height, width, 1)
            return background.expand(height, width, 3), nothing, nothing
        seen = pinhole(camera)
        means, scales = self.splat_means[rows], self.splat_scales[rows]
        view = rasterize(
            means,
            _identity_rotations(means),
            scales[:, None].repeat(1, 3),
            torch.full_like(scales, OPACITY),
            RGB2SH(colors)[:, None],
            seen.camera_from_world,
            seen.intrinsics,
            width=width,
            height=height,
            sh_degree=0,
            background=background,
            backend=self.config.backend,
        )
        return view.rgb, view.alpha, view.depth

    def _downscale_if_required(self, image: Tensor) -> Tensor:
        return image

    def get_metrics_dict(self, outputs, batch) -> dict[str, Tensor]:
        """PSNR of this view, in decibels, and the number of points."""
        count = torch.tensor(float(len(self.splat_means)))
        ratio = psnr(outputs["rgb"], self._target(outputs, batch), batch.get("mask"))
        return {"psnr": ratio, "points": count}

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:
        """How far a render is from its photo; for test poses, as no parameter depends on it."""
        target = self._target(outputs, batch)
        rendered, target, _ = counted(outputs["rgb"], target, batch.get("mask"))
        return {"main_loss": l1_ssim_loss(rendered, target, 0.2)}

    def render_loss(self, camera: Cameras, batch: dict[str, Any]) -> Float[Tensor, ""]:
        """Difference between a photo and its render; differentiable in the camera's pose."""
        return self.get_loss_dict(self.get_outputs(camera), batch)["main_loss"]

    def _target(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> Float[Tensor, "h w 3"]:
        return self.composite_with_background(
            self.get_gt_img(batch["image"]), outputs["background"]
        )

    @torch.no_grad()
    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR (dB), SSIM and LPIPS over all pixels that no mask leaves out, holes included; photo
        beside render.

        `coverage` is the share of pixels that are covered, `psnr_covered` the PSNR over these
        alone (nan without any): it flatters, and tells colours and holes apart.
        """
        target, rendered = self._target(outputs, batch), outputs["rgb"]
        metrics = image_metrics(rendered, target, self.lpips_metrics, counts=batch.get("mask"))
        covered, counts = outputs["accumulation"] >= COVERED, torch.ones_like(rendered[..., :1]) > 0
        if "mask" in batch:
            counts = batch["mask"].to(rendered.device).bool()
        metrics["psnr_covered"] = float(psnr(rendered, target, covered & counts))
        metrics["coverage"] = float(covered[counts].float().mean())
        return metrics, {"img": torch.cat([target, rendered], dim=1)}


def _identity_rotations(means: Float[Tensor, "splat 3"]) -> Float[Tensor, "splat 4"]:
    return means.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(means), 1)
