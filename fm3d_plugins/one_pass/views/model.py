"""Networks that say views, as nerfstudio models."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from torch import Tensor, nn
from torch.nn import Parameter

from fm3d_plugins.backends.metrics import Lpips, LpipsNetwork, counted, image_metrics, psnr
from fm3d_plugins.camera_optimization.camera_optimizer import (
    CameraOptimizer,
    CameraOptimizerConfig,
)
from fm3d_plugins.checkpoints import CheckpointFile, locate, require_obtainable
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.nn.planning import DTYPES, Precision, choose_precision, duration
from fm3d_plugins.nn.view_planning import Pass, plan_views
from fm3d_plugins.progress import say
from fm3d_plugins.running.plan import RunPlan
from fm3d_plugins.training import BareModelConfig
from fm3d_plugins.viewer import SlowRenders

NO_DEPTH = 1000.0
"""Stands where nerfstudio asks a depth for; these networks know none. So far away that the viewer
draws cameras and contexts before the picture."""


@dataclass
class ViewModelConfig(BareModelConfig):
    """The network, and how large its pictures are."""

    _target: type = field(default_factory=lambda: ViewModel)
    weights: str = ""
    """Published weights by name (`fm3d weights list`), a file or folder; official or small."""
    commercial_only: bool = False
    """Refuse weights whose licence forbids commercial use, or is not known."""
    precision: Precision = "auto"
    """Of the network's matrices. auto: bfloat16 where the device multiplies it fast."""
    compile: bool = False
    """Compile what makes views (torch.compile), unless it is fine-tuned: the first view of each
    size takes up to minutes more, later ones less. Where a compiler is missing, torch warns."""
    image_size: int = 256
    """Long side, pixels, of what the network sees and says; most published weights know 256."""
    lpips_networks: tuple[LpipsNetwork, ...] = ("alex",)
    """Backbones of the LPIPS metric; `lpips` in the results is alex, `lpips_vgg` is vgg."""
    samples_per_step: tyro.conf.Suppress[int] = 1
    num_steps: tyro.conf.Suppress[int] = 0
    """Of fine-tuning, as --max-num-iterations says."""

    def check_weights(self) -> None:
        """Refuse weights that cannot be had.

        Raises:
            ValueError: They are refused, or of an unknown name.
            FileNotFoundError: They are absent, and the network is switched off.
        """
        if self.weights:  # Else the dataparser's are taken.
            require_obtainable(self.weights, commercial_only=self.commercial_only)

    def resolve(self, device_type: str, max_num_iterations: int | None) -> RunPlan:
        """What the run does, once its device and number of steps are known."""
        self.num_steps = max_num_iterations or 0
        if self.precision == "auto":
            # Weights that change need more digits than products of them.
            chosen = choose_precision("auto", torch.device(device_type))
            self.precision = "float32" if self.num_steps else chosen  # type: ignore[assignment]
        sentence = (
            f"The network is fine-tuned on {device_type}: {self.num_steps} steps."
            if self.num_steps
            else f"The network is used as it is, on {device_type}; no step is trained."
        )
        return RunPlan(self.num_steps, {}, sentence)


class ViewModel(Model):
    """Views of a scene as a network makes them from some of its photos.

    Nothing is kept of a scene but its photos, which the pipeline hands over; a checkpoint holds
    weights only where they were fine-tuned.

    Outputs for a camera: `rgb` [H, W, 3] in (0, 1); `accumulation` [H, W, 1], 1 everywhere;
    `depth` [H, W, 1], `NO_DEPTH` everywhere, as nerfstudio asks for one and the network knows none;
    `background` [H, W, 3], black; and what `render` adds.
    """

    config: ViewModelConfig

    @abstractmethod
    def load(self, file: CheckpointFile, precision: torch.dtype, device: torch.device) -> nn.Module:
        """The network with its weights, on a device, for inference."""

    @abstractmethod
    def render(self, camera: Cameras) -> dict[str, Float[Tensor, "h w channel"]]:
        """`rgb` of one camera on the model's device, and perhaps more."""

    def populate_modules(self) -> None:
        """Load the network (called by nerfstudio's constructor)."""
        config, device = self.config, torch.device(self.kwargs.get("device", "cpu"))
        with one_line_errors():
            file = locate(config.weights, commercial_only=config.commercial_only)
            precision = choose_precision(config.precision, device)
            network = self.load(file, DTYPES[precision], device)
        if config.compile and not config.num_steps:
            # What cannot be compiled is then run as it is.
            torch._dynamo.config.suppress_errors = True
            vars(network)["render"] = torch.compile(network.render)  # type: ignore[arg-type]
        if config.num_steps:
            self.trained = network.requires_grad_(True)
        self._network = (network,)  # Not a module's attribute: checkpoints are to be small.
        # Cameras stay as they are given; test-pose protocols ask for this.
        self.camera_optimizer: CameraOptimizer = CameraOptimizerConfig(mode="off").setup(
            num_cameras=self.num_train_data, device=device
        )
        self.lpips_metrics = [Lpips(name) for name in config.lpips_networks]
        self.slow_renders = SlowRenders()  # Found here by the viewer.
        self.view_seconds = 0.0
        self.step = 0

    def say_plan(self, work: str, once: Sequence[Pass], each: Sequence[Pass]) -> None:
        """What the network will cost, before its first pass; refuse what memory cannot hold."""
        config, device = self.config, self.device
        precision = choose_precision(config.precision, device)
        with one_line_errors():
            plan = plan_views(
                self.network, once, each, work=work, precision=precision, device=device
            )
        say(plan.sentence(work, precision, device))
        self.view_seconds = plan.view
        if config.num_steps:
            # Backwards costs twice as much as forwards.
            seconds = 3 * config.num_steps * config.samples_per_step * (plan.once + plan.view)
            say(f"{config.num_steps} steps of fine-tuning: about {duration(seconds)}.")

    @property
    def network(self) -> Any:
        """The network, wherever it is kept."""
        return self._network[0]

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """The network's weights, if they are to be fine-tuned."""
        return {"network": list(self.network.parameters())} if self.config.num_steps else {}

    def get_training_callbacks(self, training_callback_attributes) -> list:
        return []

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor]:  # type: ignore[override]
        """Render one camera; see the class for the outputs."""
        outputs = self.render(camera)
        ones = torch.ones_like(outputs["rgb"][..., :1])
        background = torch.zeros_like(outputs["rgb"])
        return outputs | {
            "accumulation": ones,
            "depth": NO_DEPTH * ones,
            "background": background,
        }

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box=None) -> dict[str, Tensor]:
        """Render one camera; there is nothing that a crop box could cut."""
        longest = min(
            self.config.image_size, max(int(camera.height.max()), int(camera.width.max()))
        )
        share = (longest / self.config.image_size) ** 2
        with self.slow_renders.during(share * self.view_seconds):
            return self.get_outputs(camera.to(self.device))

    def get_metrics_dict(self, outputs, batch) -> dict[str, Tensor]:
        """PSNR of this view, in decibels."""
        return {"psnr": psnr(outputs["rgb"], self.target(batch), batch.get("mask"))}

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:
        """Mean squared error of the colours; 0 where a mask leaves them out."""
        target = self.target(batch)
        rendered, target, _ = counted(outputs["rgb"], target, batch.get("mask"))
        return {"main_loss": (rendered - target).square().mean()}

    def render_loss(self, camera: Cameras, batch: dict[str, Any]) -> Float[Tensor, ""]:
        """Difference between a photo and its render; differentiable in the camera's pose."""
        return self.get_loss_dict(self.get_outputs(camera), batch)["main_loss"]

    def target(self, batch: dict[str, Any]) -> Float[Tensor, "h w 3"]:
        """The photo that a render is compared with."""
        return colors_of(batch["image"].to(self.device))

    @torch.no_grad()
    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR (dB), SSIM and LPIPS of what no mask leaves out; photo beside render."""
        target, rendered = self.target(batch), outputs["rgb"]
        metrics = image_metrics(rendered, target, self.lpips_metrics, counts=batch.get("mask"))
        return metrics, {"img": torch.cat([target, rendered], dim=1)}


def colors_of(image: Tensor) -> Float[Tensor, "h w 3"]:
    """A photo as floats in [0, 1], its transparent pixels black."""
    values = image.float() / 255 if image.dtype == torch.uint8 else image
    return values[..., :3] * values[..., 3:] if values.shape[-1] == 4 else values
