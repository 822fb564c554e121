"""Full photos for 3DGS, checked before anything long begins."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.backgrounds.finding import BACKGROUND, find_background
from fm3d_plugins.backgrounds.overlooked import overlooked_points
from fm3d_plugins.backgrounds.plain import PlainBackground
from fm3d_plugins.backgrounds.regions import may_be_things, without
from fm3d_plugins.backgrounds.surroundings import surroundings
from fm3d_plugins.camera_photos import CameraPhotos
from fm3d_plugins.dense_points import (
    dense_points,
    evenly_chosen,
    in_floats,
    masked_out,
    posed_photos,
    shown,
)
from fm3d_plugins.gaussian_splatting.behind import SURROUNDINGS
from fm3d_plugins.gaussian_splatting.recipe import NUM_POINTS
from fm3d_plugins.gaussian_splatting.seeding import pixel_width
from fm3d_plugins.nerfstudio_cameras import image_sizes, intrinsics_matrices, world_from_cameras
from fm3d_plugins.photo_datamanager import RGBA, PhotoDatasets, PhotoOptions
from fm3d_plugins.progress import signs_of_life
from fm3d_plugins.random_points import random_points_in_view
from fm3d_plugins.scene_points import COLORS, POINTS

PIXEL_WIDTH = "pixel_width"
"""Key of the training dataset's metadata: scene units, as `pixel_width` says it; absent where
points to start from are random, and None where no photo shows one."""

SETTLED_POINTS = "settled_points"
"""Key of the training dataset's metadata: points to start from once cameras were put about right
before training, [N, 3] in the world frame, and their colours, [N, 3] in bytes; absent where cameras
or points stay as they were."""


@dataclass
class GaussianSplattingDataManagerConfig(PhotoOptions, FullImageDatamanagerConfig):
    """Options of the photos and the points to start from."""

    _target: type = field(default_factory=lambda: GaussianSplattingDataManager)
    random_points: bool = False
    """Start from random points even where the dataparser brings points."""
    num_random_points: int | None = None
    """How many, where random points are used; and up to how many a scene's points are filled up.
    None: 30 000, or on a CPU half as many as there may be gaussians, where that is more."""
    dense_points: bool = True
    """Fill up the dataparser's points by comparing neighbouring photos: seconds on a CPU. False:
    start from those of the dataparser, or random ones."""
    find_background: bool = True
    """Look for a plain backdrop, or a picture that stands still, behind the things. Nothing is
    looked for where --pipeline.model.background-color is another than auto."""


class GaussianSplattingDataManager(PhotoDatasets, FullImageDatamanager[InputDataset]):
    """nerfstudio's full-image datamanager with checked input and points to start from."""

    config: GaussianSplattingDataManagerConfig

    takes_rendered_views: ClassVar[bool] = True

    def __init__(self, config: GaussianSplattingDataManagerConfig, **kwargs) -> None:
        super().__init__(config, **kwargs)
        metadata = self.train_dataparser_outputs.metadata
        self._given_points = metadata.get(POINTS, torch.zeros(0, 3))
        self._num_points = config.num_random_points or NUM_POINTS
        count = len(self._given_points)
        if self.test_mode == "val":
            self._find_background()
        # Outside training a checkpoint replaces the points.
        self._compares = (
            config.dense_points and not config.random_points and self.test_mode == "val"
        )
        cameras = self.train_dataset.cameras
        if self._compares and count < self._num_points:
            count = self._add_dense_points(metadata, self._num_points - count)
        if config.random_points or count < 2:
            self._add_random_points(metadata)
        elif self.test_mode == "val":
            self.train_dataset.metadata[PIXEL_WIDTH] = _pixel_width(metadata[POINTS], cameras)

    def take_settled(self, pinholes: CameraPhotos) -> None:
        """Start from what photos agree on now, in place of points made for other cameras."""
        if not self._compares:
            return
        none = self._given_points[:0]  # They are of other cameras.
        points, colors = self._compared(pinholes.cameras, self._num_points, none)
        if len(points) < 2:
            return
        metadata = self.train_dataset.metadata
        metadata[SETTLED_POINTS] = points, colors
        metadata[PIXEL_WIDTH] = _pixel_width(points, pinholes.cameras)
        CONSOLE.print(f"Now starting from {len(points)} points, found with the moved cameras.")

    def skip_photos(self, count: int) -> None:
        """Pass over the first `count` photos of the training sequence, which a resumed run saw."""
        for _ in range(count):
            self.train_unseen_cameras.pop(0)
            if not self.train_unseen_cameras:
                self.train_unseen_cameras = self.sample_train_cameras()

    def _find_background(self) -> None:
        """Tell the model, by the dataset's metadata, what lies behind everything in the photos."""
        images = [entry["image"] for entry in self.cached_train]
        if any(image.shape[-1] == RGBA for image in images):
            return  # Nothing is behind it.
        masks = [shown(entry, None) for entry in self.cached_train]
        metadata, cameras = self.train_dataset.metadata, self.train_dataset.cameras
        posed = _posed(cameras)
        against = "--pipeline.model.background-color random"
        found = None
        if self.config.find_background:
            found = find_background(images, masks, posed[1], against)
        if found is None:
            metadata[SURROUNDINGS] = surroundings(images, masks, *posed)
        else:
            metadata[BACKGROUND] = found

    def _add_dense_points(self, metadata: dict, count: int) -> int:
        """At most so many points of the surfaces that photos show, beside those that are there.

        Returns:
            How many there are then.
        """
        known = self._given_points
        points, rgb = self._compared(self.train_dataset.cameras, count, known)
        colors = metadata.get(COLORS, torch.zeros(0, 3, dtype=torch.uint8))
        if len(points):
            metadata[POINTS] = torch.cat([known, points])
            metadata[COLORS] = torch.cat([colors, rgb])
            CONSOLE.print(
                f"Starting from {len(known)} points of the scene and {len(points)} that its photos "
                "agree on or see nothing past."
            )
        return len(known) + len(points)

    def _compared(
        self, cameras: Cameras, count: int, beside: Float[Tensor, "known 3"]
    ) -> tuple[Float[Tensor, "point 3"], UInt8[Tensor, "point 3"]]:
        """At most so many points of the surfaces that photos show, and colours in bytes.

        Before a plain backdrop there are some more, of thin things.

        Args:
            cameras: Of all training photos, pinholes.
            beside: Points that are there as well.
        """
        rows = evenly_chosen(len(self.cached_train))
        entries = [masked_out(self.cached_train[row]) for row in rows]
        background = self.train_dataset.metadata.get(BACKGROUND)
        if background is not None:
            entries = [without(entries[i], background.is_shown[row]) for i, row in enumerate(rows)]
        photos = posed_photos(entries, cameras[torch.tensor(rows)])
        generator = torch.Generator().manual_seed(self.config.train_cameras_sampling_seed)
        with signs_of_life(lambda t: f"Photos are compared for points to start from: {t:.0f} s."):
            points, rgb = dense_points(photos, self._given_points, count, generator)
        if background is not None:
            sizes = image_sizes(cameras).cpu()
            kept = may_be_things(points, background.is_shown, *_posed(cameras), sizes)
            points, rgb = points[kept], rgb[kept]
        if isinstance(background, PlainBackground):
            # Before a picture that stands still they bring nothing.
            regions = [background.is_shown[row] for row in rows]
            there = torch.cat([beside, points])
            thin, thin_rgb = overlooked_points(photos, regions, there, generator)
            points, rgb = torch.cat([points, thin]), torch.cat([rgb, thin_rgb])
        return points, (rgb * 255).round().to(torch.uint8)

    def _add_random_points(self, metadata: dict) -> None:
        count = self._num_points
        is_training = self.test_mode == "val"
        # Outside training a checkpoint replaces the points: any photo-free ones will do.
        colors = [entry["image"] for entry in self.cached_train] if is_training else None
        cameras = self.train_dataset.cameras
        images = [
            colors[i][..., :3].cpu() if colors else torch.full((int(h), int(w), 3), 127)
            for i, (h, w) in enumerate(zip(cameras.height, cameras.width, strict=True))
        ]
        points, rgb = random_points_in_view(
            world_from_cameras(cameras).cpu(),
            cameras.get_intrinsics_matrices().cpu(),
            [in_floats(image) for image in images],
            count,
            torch.Generator().manual_seed(self.config.train_cameras_sampling_seed),
        )
        metadata[POINTS], metadata[COLORS] = points, (rgb * 255).to(torch.uint8)
        if is_training:
            CONSOLE.print(f"Starting from {count} random points.")


def _posed(cameras: Cameras) -> tuple[Float[Tensor, "view 3 3"], Float[Tensor, "view 4 4"]]:
    """Intrinsics (pixels) and world_from_camera (OpenCV) of pinholes, on the CPU."""
    return intrinsics_matrices(cameras).cpu(), world_from_cameras(cameras).cpu()


def _pixel_width(points: Float[Tensor, "point 3"], cameras: Cameras) -> float | None:
    intrinsics, world_from_camera = _posed(cameras)
    return pixel_width(points.cpu(), world_from_camera, intrinsics, image_sizes(cameras).cpu())
