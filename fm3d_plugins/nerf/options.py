"""Options of the fast radiance field, and what a device makes of those that are left open."""

from dataclasses import dataclass, field
from typing import Literal

from fm3d_plugins.depth_supervision.supervision import DepthSupervisionConfig
from fm3d_plugins.effort import Effort
from fm3d_plugins.exposure import ExposureMode
from fm3d_plugins.nerf.ray_model import RayModelConfig
from fm3d_plugins.nerf.recipe import Recipe, expected_time, recipe_for
from fm3d_plugins.running.plan import RunPlan, fill_in, with_options


@dataclass
class NerfOptions(RayModelConfig):
    """Options of the fast radiance field. Those that default to None follow the device's recipe."""

    near_plane: float | None = None
    """Distance from the camera at which rays begin, scene units. None: half the distance of the
    nearest thing that the dataparser's points show, and 0.05 where it brings no points."""
    far_plane: float = 1000.0
    """Distance from the camera at which rays end, scene units; all of space is contracted."""
    background_color: Literal["random", "black", "white"] = "random"
    """Behind everything, in training, but the background that photos are found to have
    (--pipeline.datamanager.find-background). Random teaches the scene to be opaque; it is black in
    evaluation."""
    num_samples: int | None = None
    """Intervals per ray in training, short where something is. On a CPU multiples of 16 are much
    faster. None: the device's recipe."""
    num_eval_samples: int | None = None
    """Intervals per ray in evaluation, where more of them cost less. None: the device's recipe."""
    num_levels: int | None = None
    """Levels of the hash grid, each twice as fine as the one before, from 16 points along an axis
    of contracted space. On a CPU multiples of 4 are much faster. None: the device's recipe."""
    log2_table_size: int | None = None
    """At most 2 to this power entries on each level of the hash grid. None: the recipe."""
    coarse_to_fine: int = 0
    """Steps over which the finer half of the hash grid's levels begins to learn, one level after
    the other, so that shapes come before detail. 0: all at once."""
    loss: Literal["squared", "charbonnier"] = "squared"
    """Error of the colours: squared, as PSNR counts it, or by size, which forgives what moved."""
    distortion_weight: float = 0.002
    """Weight of the distortion loss (mip-NeRF 360, equation 15), which gathers each ray's weight
    in one place. 0: off."""
    distortion_warmup: int | None = None
    """Steps over which that weight rises from 0, so that shapes can form first. None: a tenth of
    the run."""
    calm_distance: float = 1.0
    """Scene units: gradients of what is nearer to the camera fade with the square of the distance
    (Philip and Deschaintre 2023), against fog in front of single cameras. 0: off."""
    exposure: ExposureMode | bool = "affine"
    """Corrections per training photo and colour, against cameras that set their own exposure and
    white balance: a gain, or a gain and an offset (affine). Evaluation and renders use none, which
    is the photos' mean; scores tell cc_psnr besides, with the colours fitted to each photo's.
    True and False, as in older runs, are affine and none."""
    exposure_penalty: float = 0.1
    """Weight of the mean square of these corrections in the loss."""
    depth: DepthSupervisionConfig = field(default_factory=DepthSupervisionConfig)
    """Whether and how depth maps guide the field."""
    point_weight: float = 0.01
    """Weight of the loss by which rays end at points: those that the dataparser brings (`sfm` and
    other estimators, a COLMAP model, `ply_file_path`), and where the photos agree on more
    (`--pipeline.datamanager.dense-points`). 0: off."""
    point_steps: int | None = None
    """Steps over which that weight falls to 0 and stays there: points give a shape early, photos
    tell it better in the end. 0: it stays as it is. None: half of the run."""
    point_rays: int = 128
    """Rays per step that are drawn for it, beside those of the photos' pixels."""
    free_space_weight: float | None = None
    """Weight of the share of light that training rays lose before the nearest of these points
    around their pixels: there few photos put skies and other plain surfaces. Needs a point-weight.
    0: off. None: 0.02 where there are at most 30 photos, else 0."""
    seed: int = 42
    """Of the places along rays that are looked at, per step."""
    backend: Literal["auto", "torch", "numba"] = "auto"
    """Field and quadrature. auto: fused Numba kernels on a CPU, torch elsewhere (with
    tiny-cuda-nn's hash grid where that is installed)."""

    def recipe(
        self, device_type: str, steps: int | None = None, effort: Effort | None = None
    ) -> Recipe:
        """The device's recipe with every option that is set here in its place."""
        return with_options(recipe_for(device_type, steps, effort), self)

    def resolve(self, device_type: str, steps: int | None, effort: Effort | None = None) -> RunPlan:
        """Fill in what is None, so that config.yml tells what was done."""
        self.check()
        if self.point_weight == 0 and self.free_space_weight is None:
            self.free_space_weight = 0.0
        self._check_points()
        if self.coarse_to_fine < 0:
            raise ValueError(
                f"The hash grid's finer levels were to begin over {self.coarse_to_fine} steps. "
                "Expected at least 0. Change --pipeline.model.coarse-to-fine."
            )
        recipe = self.recipe(device_type, steps, effort)
        fill_in(self, recipe)
        self.depth.resolve(recipe.steps)
        sentence = (
            f"nerf on {device_type}: {recipe.steps} steps{expected_time(recipe, device_type)}, "
            f"{recipe.num_samples} samples per ray, "
            f"hash grid of {recipe.num_levels} levels with up to 2^{recipe.log2_table_size} "
            "entries."
        )
        chosen = {"max_image_size": recipe.image_size}
        return RunPlan(recipe.steps, recipe.learning_rates, sentence, chosen)

    def _check_points(self) -> None:
        if self.point_weight < 0 or self.point_rays < 1 or (self.point_steps or 0) < 0:
            raise ValueError(
                f"The loss of points has weight {self.point_weight}, {self.point_rays} rays and "
                f"{self.point_steps} steps. Expected a weight of at least 0, at least 1 ray and at "
                "least 0 steps. Change --pipeline.model.point-weight, "
                "--pipeline.model.point-rays or --pipeline.model.point-steps."
            )
        free = self.free_space_weight
        if free is not None and (free < 0 or (free > 0 and self.point_weight == 0)):
            raise ValueError(
                f"The loss of free space has weight {free}, that of points {self.point_weight}. "
                "Expected at least 0, and 0 where points are not looked at. Change "
                "--pipeline.model.free-space-weight or --pipeline.model.point-weight."
            )
