"""Random pixels of all training photos, with their rays."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
import tyro
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import (
    VanillaDataManager,
    VanillaDataManagerConfig,
)
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.pixel_samplers import PixelSamplerConfig
from nerfstudio.data.utils.dataloaders import (
    FixedIndicesEvalDataloader,
    RandIndicesEvalDataloader,
)
from nerfstudio.data.utils.nerfstudio_collate import nerfstudio_collate

from fm3d_plugins.backgrounds.finding import BACKGROUND, find_background
from fm3d_plugins.backgrounds.photo_pixels import PhotoPixels
from fm3d_plugins.backgrounds.regions import may_be_things, without
from fm3d_plugins.camera_photos import CameraPhotos
from fm3d_plugins.dense_points import dense_points, evenly_chosen, masked_out, posed_photos
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.nerf.pixels import PixelTable
from fm3d_plugins.nerfstudio_cameras import image_sizes, intrinsics_matrices, world_from_cameras
from fm3d_plugins.photo_datamanager import PhotoDatasets, PhotoOptions
from fm3d_plugins.progress import signs_of_life
from fm3d_plugins.scene_points import POINTS

DENSE_POINTS = "dense_points"
"""Key of the training dataset's metadata: [N, 3] of surfaces that its photos agree on, world
frame."""

MEAN_COLOR = "mean_color"
"""Key of the training dataset's metadata: [3], of its photos' pixels, in [0, 1]."""

ENOUGH_POINTS = 30_000
"""From how many of the dataparser's points on the photos are not compared for more."""

CPU_RAYS, CUDA_RAYS = 1024, 4096
"""Rays per step."""


@dataclass
class NerfDataManagerConfig(PhotoOptions, VanillaDataManagerConfig):
    """Options of the photos and of the rays drawn from them."""

    _target: type = field(default_factory=lambda: NerfDataManager)
    train_num_rays_per_batch: int | None = None  # type: ignore[assignment]
    """Rays per training step, drawn from all photos at once. None: 1024 on a CPU, where more steps
    get farther than larger ones, 4096 on CUDA."""
    eval_num_rays_per_batch: int = 1024
    """Rays of held-out photos per evaluation of the loss."""
    pixel_seed: int = 42
    """Which random pixels are drawn. The same seed draws the same pixels at the same step."""
    dense_points: bool = True
    """Where the dataparser brings fewer than 30 000 points, find more by comparing neighbouring
    photos (seconds on a CPU): training rays end at them."""
    find_background: bool = True
    """Look for a plain backdrop, or a picture that stands still, behind the things: nothing is
    drawn before it, and it lies behind them in renders."""

    # nerfstudio's, without effect here: all pixels of all photos are drawn from, on the device.
    train_num_images_to_sample_from: tyro.conf.Suppress[int] = -1
    train_num_times_to_repeat_images: tyro.conf.Suppress[int] = -1
    patch_size: tyro.conf.Suppress[int] = 1
    collate_fn: tyro.conf.Suppress[Callable[[Any], Any]] = cast(
        Any, staticmethod(nerfstudio_collate)
    )
    pixel_sampler: tyro.conf.Suppress[PixelSamplerConfig] = field(
        default_factory=PixelSamplerConfig
    )


class NerfDataManager(PhotoDatasets, VanillaDataManager[InputDataset]):
    """nerfstudio's ray datamanager with checked input and all pixels in one tensor.

    Pixels follow from `pixel_seed`, the step and the process, so a resumed run draws what an
    unbroken one would have drawn. Calls with the same step (as ns-export makes) draw others.
    """

    config: NerfDataManagerConfig

    takes_rendered_views: ClassVar[bool] = True
    sees_pinholes: ClassVar[bool] = False
    settles_when_resumed: ClassVar[bool] = True

    def __init__(self, config: NerfDataManagerConfig, **kwargs) -> None:
        super().__init__(config, **kwargs)
        self._last_draw = (-1, 0)

    def setup_train(self) -> None:
        """Read the training photos, unless this only serves to look at a trained scene."""
        # ns-export asks the sampler for its number of rays, and sets it.
        count = self.config.train_num_rays_per_batch
        if count is None:
            count = CPU_RAYS if self.is_on_cpu else CUDA_RAYS
        self.train_pixel_sampler = self._get_pixel_sampler(self.train_dataset, count)
        if self.test_mode == "val":
            self._say_if_some_are_cut_out(self.train_pixels.channels)
            self._find_background()
            self._add_dense_points()

    def _find_background(self) -> None:
        """Tell the model, by the dataset's metadata, what lies behind everything in the photos, and
        the colour of what is before it."""
        pixels, metadata = self.train_pixels, self.train_dataset.metadata
        found = None
        if self.config.find_background and not pixels.has_opacity:
            poses = world_from_cameras(self.train_dataset.cameras).cpu()
            against = "--pipeline.datamanager.find-background False"
            found = find_background(*pixels.photos(), poses, against)
        shown = None
        if found is not None:
            metadata[BACKGROUND], shown = found, PhotoPixels(found).to(self.device)
        metadata[MEAN_COLOR] = pixels.mean_color(shown).cpu()
        if shown is not None:
            pixels.thin(shown)

    def take_settled(self, pinholes: CameraPhotos) -> None:
        """Find surfaces again, now that photos may agree on others."""
        self._add_dense_points(pinholes)

    def _add_dense_points(self, pinholes: CameraPhotos | None = None) -> None:
        """Tell the model, by the dataset's metadata, of surfaces that photos agree on."""
        metadata = self.train_dataset.metadata
        known = metadata.get(POINTS, torch.zeros(0, 3))
        count = ENOUGH_POINTS - len(known)
        if not self.config.dense_points or count <= 0:
            return
        try:
            pinholes = pinholes or self.train_pinholes()
        except ValueError:
            return  # Some of these lenses have no pinhole.
        rows = evenly_chosen(len(pinholes))
        entries = [masked_out(pinholes.get_data(row, "uint8")) for row in rows]
        background = metadata.get(BACKGROUND)
        if background is not None:
            regions = [
                pinholes.region_seen(row, shown) for row, shown in enumerate(background.is_shown)
            ]
            entries = [
                without(entry, regions[row]) for entry, row in zip(entries, rows, strict=True)
            ]
        photos = posed_photos(entries, pinholes.cameras[torch.tensor(rows)])
        generator = torch.Generator().manual_seed(self.config.pixel_seed)
        with signs_of_life(lambda t: f"Photos are compared for points: {t:.0f} s."):
            points, _ = dense_points(photos, known.cpu(), count, generator, only_confirmed=True)
        if background is not None:
            cameras = pinholes.cameras
            posed = intrinsics_matrices(cameras).cpu(), world_from_cameras(cameras).cpu()
            points = points[may_be_things(points, regions, *posed, image_sizes(cameras).cpu())]
        metadata[DENSE_POINTS] = points

    def setup_eval(self) -> None:
        """Make the loaders of whole held-out photos."""
        self.eval_pixel_sampler = self._get_pixel_sampler(
            self.eval_dataset, self.config.eval_num_rays_per_batch
        )
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(
            input_dataset=self.eval_dataset, device=self.device
        )
        self.eval_dataloader = RandIndicesEvalDataloader(
            input_dataset=self.eval_dataset, device=self.device
        )

    @cached_property
    def train_pixels(self) -> PixelTable:
        """Every pixel of the training photos, read on first use."""
        with one_line_errors():
            return PixelTable(self.train_dataset, self.device, "training")

    @cached_property
    def eval_pixels(self) -> PixelTable:
        """Every pixel of the held-out photos, read on first use."""
        with one_line_errors():
            return PixelTable(self.eval_dataset, self.device, "held-out")

    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """Rays and colours of random training pixels; see `PixelTable.draw`."""
        self.train_count += 1
        last_step, repeats = self._last_draw
        self._last_draw = (step, repeats + 1 if step == last_step else 0)
        seed = (self.config.pixel_seed, self.local_rank, *self._last_draw)
        return self.train_pixels.draw(self.get_train_rays_per_batch(), self._generator(*seed))

    def next_eval(self, step: int) -> tuple[RayBundle, dict]:
        """Rays and colours of random held-out pixels; `camera_indices` count held-out photos."""
        self.eval_count += 1
        generator = self._generator(self.config.pixel_seed + 1, self.local_rank, step, 0)
        return self.eval_pixels.draw(self.get_eval_rays_per_batch(), generator)

    def _generator(self, *seed: int) -> torch.Generator:
        # The hash of integers does not depend on the process, unlike that of strings.
        return torch.Generator(self.device).manual_seed(hash(seed) % (1 << 63))
