"""Options of the gaussians, and what a device makes of those that are left open."""

from dataclasses import dataclass, field, replace
from typing import Literal

from fm3d_plugins.backends.metrics import LpipsNetwork
from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizerConfig
from fm3d_plugins.depth_supervision.supervision import DepthSupervisionConfig
from fm3d_plugins.effort import Effort
from fm3d_plugins.exposure import ExposureMode
from fm3d_plugins.gaussian_splatting.behind import BackgroundColor
from fm3d_plugins.gaussian_splatting.recipe import Recipe, expected_time, recipe_for
from fm3d_plugins.running.plan import RunPlan, fill_in, with_options
from fm3d_plugins.training import BareModelConfig

ABSOLUTE_OVER_PLAIN_GRADIENT = 4.0
"""Of the thresholds for densification; gsplat advises 0.0008 in place of 0.0002."""


@dataclass
class GaussianSplattingOptions(BareModelConfig):
    """Options of 3D Gaussian Splatting. Those that default to None follow the device's recipe."""

    sh_degree: int = 3
    """Highest degree of the spherical harmonics that describe view-dependent colour (0 to 3)."""
    ssim_lambda: float = 0.2
    """Weight of 1 - SSIM in the loss; the rest is L1."""
    background_color: BackgroundColor = "auto"
    """Behind everything, in training. random teaches the gaussians to be opaque; auto: the plain
    backdrop along the borders of all photos, or the picture that stands still in them as behind a
    turntable, where there is one, before which nothing is drawn; else random, and in renders the
    photos' mean colours in each direction."""
    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    """antialiased keeps thin gaussians from growing at lower resolutions; most other viewers of
    exported files expect classic."""
    density_control: Literal["default", "mcmc", "off"] | None = None
    """default: clone and split by image gradients (Kerbl et al. 2023); mcmc: relocate and add by
    opacity up to max_gaussians (Kheradmand et al. 2024); off: their number never changes. None:
    mcmc on a CPU, where it gets farther in a short run, default on CUDA."""
    backend: Literal["auto", "gsplat", "numba", "torch"] = "auto"
    """Rasteriser. auto: gsplat on CUDA, numba on a CPU."""
    camera_optimizer: CameraOptimizerConfig = field(default_factory=CameraOptimizerConfig)
    """Whether and how the training cameras are optimised with the gaussians."""
    exposure: ExposureMode = "none"
    """Corrections per training photo and colour, against cameras that set their own exposure and
    white balance: a gain, or a gain and an offset (affine). Evaluation and renders use none, which
    is the photos' mean; scores tell cc_psnr besides, with the colours fitted to each photo's."""
    exposure_penalty: float = 0.1
    """Weight of the mean square of these corrections in the loss."""
    largest_step: float = 0.5
    """Pixels of the photos, at the median depth of the points to start from, by which a step of
    training may move a gaussian, whatever the learning rate; 0: any number. Random points may
    always move."""
    depth: DepthSupervisionConfig = field(default_factory=DepthSupervisionConfig)
    """Whether and how depth maps guide the gaussians."""
    lpips_networks: tuple[LpipsNetwork, ...] = ("alex",)
    """Backbones of the LPIPS metric; `lpips` in the results is alex, `lpips_vgg` is vgg."""
    densify_grad_thresh: float | None = None
    """Image gradient (per half image width) above which a gaussian is cloned or split. Only with
    density control default. None: the device's recipe."""
    absgrad: bool = False
    """Clone and split by the pixels' absolute gradients, which do not cancel (Ye et al. 2024), with
    four times the recipe's densify_grad_thresh. Only with density control default."""
    densify_size_thresh: float = 0.01
    """Scene units: gaussians up to this size are cloned, larger ones split. Only with default."""
    cull_alpha_thresh: float | None = None
    """Opacity below which a gaussian is removed. Only with default. None: the device's recipe."""
    cull_scale_thresh: float = 0.5
    """Scene units: larger gaussians are removed once opacities have been reset. Only with
    default."""
    mcmc_noise: float | None = None
    """Size of mcmc's position noise, over the learning rate of the means. None: the recipe."""
    mcmc_growth: float | None = None
    """Share of gaussians added at each change of density by mcmc. None: the device's recipe."""
    max_gaussians: int | None = None
    """No more than this many. None: the device's recipe for `--quality` (60 000 on a CPU,
    up to 120 000 where photos are few)."""
    warmup_length: int | None = None
    """Steps before the first change of density. None: the recipe for the length of the run."""
    refine_every: int | None = None
    """Steps between changes of density. None: the recipe for the length of the run."""
    stop_split_at: int | None = None
    """Step after which the density stays as it is. None: the recipe for the run's length."""
    reset_alpha_every: int | None = None
    """Changes of density between resets of all opacities; 0: never. Only with default. None: the
    device's recipe."""
    sh_degree_interval: int | None = None
    """Steps after which one more degree of spherical harmonics is used. None: the recipe."""
    num_downscales: int | None = None
    """Training starts at 1/2^n of the resolution. None: the device's recipe."""
    resolution_schedule: int | None = None
    """Steps after which the training resolution doubles. None: the recipe for the run's length."""

    def recipe(
        self, device_type: str, steps: int | None = None, effort: Effort | None = None
    ) -> Recipe:
        """The device's recipe with every option that is set here in its place.

        Raises:
            ValueError: absgrad is asked for where nothing is cloned and split by gradients.
        """
        recipe = recipe_for(device_type, steps, effort)
        if self.absgrad:
            threshold = ABSOLUTE_OVER_PLAIN_GRADIENT * recipe.densify_grad_thresh
            recipe = replace(recipe, densify_grad_thresh=threshold)
        recipe = with_options(recipe, self)
        if self.absgrad and recipe.density_control != "default":
            raise ValueError(
                f"absgrad was asked for with density control {recipe.density_control}, which looks "
                "at no gradients. Expected density control default. Add "
                "--pipeline.model.density-control default, or leave absgrad out."
            )
        return recipe

    def resolve(self, device_type: str, steps: int | None, effort: Effort | None = None) -> RunPlan:
        """Fill in what is None, so that config.yml tells what was done."""
        recipe = self.recipe(device_type, steps, effort)
        fill_in(self, recipe)
        self.depth.resolve(recipe.steps)
        sentence = (
            f"3dgs on {device_type}: {recipe.steps} steps{expected_time(recipe, device_type)}, at "
            f"most {recipe.max_gaussians} gaussians "
            f"({recipe.density_control} density control), resolution from "
            f"1/{2**recipe.num_downscales} to full within "
            f"{recipe.num_downscales * recipe.resolution_schedule} steps."
        )
        chosen = {"max_image_size": recipe.image_size, "num_random_points": recipe.num_points}
        return RunPlan(recipe.steps, recipe.learning_rates, sentence, chosen)
