"""All pixels of the training photos with their rays, to be drawn at random."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from fm3d_plugins.backgrounds.photo_pixels import IS_SHOWN, PhotoPixels
from fm3d_plugins.camera_photos import fisheye_disc
from fm3d_plugins.geometry.cameras import equal_cameras
from fm3d_plugins.nerfstudio_cameras import calibrations, image_sizes
from fm3d_plugins.parsed_scenes import FISHEYE_RADIUS
from fm3d_plugins.photo_datamanager import all_masked
from fm3d_plugins.progress import track

DISCS = {CameraType.FISHEYE.value, CameraType.FISHEYE624.value}
"""Lenses whose photos may be a disc in a black rectangle."""

MOST_FOR_MEAN = 1_000_000
"""Pixels that are looked at for the mean colour."""

PLACE = "place"
"""Key of rays' metadata: [R, 2], across and down the photo of each, from 0 to 1."""

BACKGROUND_SHARE = 1 / 3
"""Pixels that show the background, for each that does not, of those that are drawn from."""

PIXELS_AT_ONCE = 1 << 22
"""Bounds the memory while they are told apart."""

RAYS_AT_ONCE = 1 << 18
"""Bounds the memory while rays of a large photo are made."""


@dataclass(frozen=True)
class _Lens:
    """What the rays of a photo's pixels depend on, besides its pose: one row per camera."""

    rows: Tensor
    """First photo of every distinct lens."""
    lens_of_photo: Tensor


class PixelTable:
    """Colours and rays of all pixels that are not masked.

    Directions are kept per lens in the camera's own axes, with its distortion undone by
    nerfstudio's cameras (so that training and rendering use the same rays), and are turned by the
    photo's pose when they are drawn. Photos may differ in size and lens.
    """

    def __init__(self, dataset: InputDataset, device: torch.device | str, label: str) -> None:
        """Args:
            dataset: Photos, cameras and masks.
            device: Where everything is kept.
            label: Names the photos in the progress bar.

        Raises:
            ValueError: Every pixel is masked.
        """
        cameras = dataset.cameras
        photos = list(track(_read(dataset), f"Reading {label} photos", total=len(dataset)))
        self.channels = [photo.shape[-1] for photo, _ in photos]
        channels = max(self.channels)
        colors = torch.cat([_with_channels(photo, channels) for photo, _ in photos])
        self.colors: UInt8[Tensor, "pixel channel"] = colors.to(device)
        kept = torch.cat([keep for _, keep in photos])
        if not kept.any():
            raise ValueError(all_masked(len(photos), label))
        self._kept = None if kept.all() else kept.nonzero().squeeze(-1).to(device)
        self.num_pixels = int(kept.sum())
        sizes = torch.tensor([len(keep) for _, keep in photos])
        self._ends = sizes.cumsum(0).to(device)
        self._starts = self._ends - sizes.to(device)
        lens = _distinct_lenses(cameras)
        rays, ray_starts = _rays_of_lenses(cameras, lens.rows)
        self._rays: Float[Tensor, "pixel 5"] = rays.to(device)
        self._ray_starts = ray_starts[lens.lens_of_photo].to(device)
        self._sizes: Int[Tensor, "photo 2"] = image_sizes(cameras).long().to(device)
        world_from_camera = cameras.camera_to_worlds.to(device)
        self._rotations: Float[Tensor, "photo 3 3"] = world_from_camera[:, :3, :3].contiguous()
        self._centers: Float[Tensor, "photo 3"] = world_from_camera[:, :3, 3].contiguous()

    @property
    def has_opacity(self) -> bool:
        """Whether some photos are transparent."""
        return self.colors.shape[1] > 3  # noqa: PLR2004

    def photos(self) -> tuple[list[UInt8[Tensor, "_ _ channel"]], list[Bool[Tensor, "_ _ 1"]]]:
        """All photos, and where they count, on the CPU."""
        counts = torch.full((len(self.colors),), self._kept is None)
        if self._kept is not None:
            counts[self._kept.cpu()] = True
        sizes = [(height, width) for width, height in self._sizes.tolist()]
        parts = [height * width for height, width in sizes]
        images = zip(self.colors.cpu().split(parts), sizes, strict=True)
        masks = zip(counts.split(parts), sizes, strict=True)
        return (
            [image.reshape(*size, -1) for image, size in images],
            [mask.reshape(*size, 1) for mask, size in masks],
        )

    def thin(self, background: PhotoPixels) -> None:
        """Leave out most pixels that show the background, so that most rays meet things.

        Those that stay are a third of the others, and all where there are fewer.
        """
        pixel = self._kept
        if pixel is None:
            pixel = torch.arange(self.num_pixels, device=self.colors.device)
        is_background = torch.cat(
            [self._shown(background, part) == IS_SHOWN for part in pixel.split(PIXELS_AT_ONCE)]
        )
        count = int(is_background.sum())
        share = BACKGROUND_SHARE * (len(pixel) - count) / max(1, count)
        generator = torch.Generator(pixel.device).manual_seed(0)
        chance = torch.rand(len(pixel), generator=generator, device=pixel.device)
        kept = pixel[~is_background | (chance < share)]
        if len(kept):
            self._kept, self.num_pixels = kept, len(kept)

    def mean_color(self, background: PhotoPixels | None = None) -> Float[Tensor, "3"]:
        """Of a million pixels that are not masked, evenly taken, by their opacity; in [0, 1].

        Args:
            background: Pixels that show it do not count.
        """
        step = max(1, self.num_pixels // MOST_FOR_MEAN)
        pixel = torch.arange(0, self.num_pixels, step, device=self.colors.device)
        if self._kept is not None:
            pixel = self._kept[pixel]
        colors = self.colors[pixel].float() / 255
        weight = colors[:, 3:] if self.has_opacity else torch.ones_like(colors[:, :1])
        if background is not None:
            weight = weight * (self._shown(background, pixel) < IS_SHOWN)[:, None]
        return (colors[:, :3] * weight).sum(0) / weight.sum().clamp_min(1.0)

    def draw(
        self, count: int, generator: torch.Generator
    ) -> tuple[RayBundle, dict[str, Float[Tensor, "ray channel"] | Int[Tensor, "ray 3"]]]:
        """Pixels drawn evenly from all that are not masked, with replacement.

        Returns:
            Rays in the world with `camera_indices` (row of the photo) and `PLACE`, and nerfstudio's
            batch: `image` [R, 3 or 4] in [0, 1] and `indices` [R, 3], photo, row and column.
        """
        device = self.colors.device
        pixel = torch.randint(self.num_pixels, (count,), generator=generator, device=device)
        if self._kept is not None:
            pixel = self._kept[pixel]
        photo, row, column = self._indices(pixel)
        offset = pixel - self._starts[photo]
        ray = self._rays[self._ray_starts[photo] + offset]
        directions = torch.bmm(self._rotations[photo], ray[:, :3, None]).squeeze(-1)
        bundle = RayBundle(
            origins=self._centers[photo],
            directions=directions,
            pixel_area=ray[:, 3:4],
            camera_indices=photo[:, None],
            metadata={"directions_norm": ray[:, 4:5], PLACE: self._place(photo, row, column)},
        )
        indices = torch.stack([photo, row, column], dim=-1)
        return bundle, {"image": self.colors[pixel].float() / 255, "indices": indices}

    def _shown(self, background: PhotoPixels, pixel: Int[Tensor, " ray"]) -> UInt8[Tensor, " ray"]:
        photo, row, column = self._indices(pixel)
        return background.shown(photo, self._place(photo, row, column))

    def _indices(
        self, pixel: Int[Tensor, " ray"]
    ) -> tuple[Int[Tensor, " ray"], Int[Tensor, " ray"], Int[Tensor, " ray"]]:
        """Photo, row and column."""
        photo = torch.searchsorted(self._ends, pixel, right=True)
        offset, width = pixel - self._starts[photo], self._sizes[photo, 0]
        row = offset // width
        return photo, row, offset - row * width

    def _place(
        self, photo: Int[Tensor, " ray"], row: Int[Tensor, " ray"], column: Int[Tensor, " ray"]
    ) -> Float[Tensor, "ray 2"]:
        return (torch.stack([column, row], -1) + 0.5) / self._sizes[photo]


def _read(
    dataset: InputDataset,
) -> Iterable[tuple[UInt8[Tensor, " pixel channel"], Bool[Tensor, " pixel"]]]:
    def pixels(index: int) -> tuple[Tensor, Tensor]:
        data = dataset.get_data(index, "uint8")
        image = data["image"].to(torch.uint8)
        keep = torch.ones(image.shape[:2], dtype=torch.bool)
        if "mask" in data:
            keep = data["mask"].squeeze(-1).bool()
        radius = (dataset.cameras.metadata or {}).get(FISHEYE_RADIUS)
        kind = dataset.cameras.camera_type[index].item()
        if radius is not None and kind in DISCS:
            keep = keep & fisheye_disc(*image.shape[:2], radius=float(radius))
        return image.flatten(0, 1), keep.flatten()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(pixels, range(len(dataset)))


def _with_channels(
    image: UInt8[Tensor, "pixel channel"], channels: int
) -> UInt8[Tensor, "pixel all"]:
    """Photos without transparency among some with it are opaque."""
    if image.shape[-1] == channels:
        return image
    return torch.cat([image, image.new_full((len(image), 1), 255)], dim=-1)


def _distinct_lenses(cameras: Cameras) -> _Lens:
    lens_of_photo = equal_cameras(calibrations(cameras), cameras.camera_type)
    count = int(lens_of_photo.max()) + 1
    rows = torch.stack([(lens_of_photo == lens).nonzero()[0, 0] for lens in range(count)])
    return _Lens(rows=rows, lens_of_photo=lens_of_photo)


def _rays_of_lenses(
    cameras: Cameras, rows: Int[Tensor, " lens"]
) -> tuple[Float[Tensor, " pixel 5"], Int[Tensor, " lens"]]:
    """Unit direction (OpenGL camera axes), pixel area and length of the direction at depth 1 of
    every pixel of every lens, and the row at which each lens begins."""
    tables = []
    for row in rows.tolist():
        camera = cameras[row : row + 1].to("cpu")
        camera.camera_to_worlds = torch.eye(4)[None, :3]
        coordinates = camera.get_image_coords().reshape(-1, 2)
        for part in coordinates.split(RAYS_AT_ONCE):
            index = torch.zeros(len(part), 1, dtype=torch.long)
            bundle = camera.generate_rays(camera_indices=index, coords=part)
            norm = bundle.metadata["directions_norm"]
            tables.append(torch.cat([bundle.directions, bundle.pixel_area, norm], dim=-1))
    sizes = (cameras.width * cameras.height).flatten().cpu()[rows.cpu()].long()
    return torch.cat(tables), sizes.cumsum(0) - sizes
