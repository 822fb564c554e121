"""Photos and cameras of a scene at a network's size."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.data.scenes import CapturedScene
from fm3d_plugins.photos.canvas import Canvas, Placement, paste


@dataclass(frozen=True)
class Views:
    """Some photos of a scene, all of one size, and their cameras."""

    images: Float[Tensor, "view 3 height width"]
    """RGB in [0, 1]."""
    world_from_camera: Float[Tensor, "view 4 4"]
    """OpenCV axes, in the scene's own frame and unit."""
    intrinsics: Float[Tensor, "view 3 3"]
    """In pixels of `images`."""

    def to(self, device: torch.device) -> "Views":
        """The same on a device."""
        tensors = (self.images, self.world_from_camera, self.intrinsics)
        return Views(*(tensor.to(device) for tensor in tensors))


@dataclass(frozen=True)
class ViewSize:
    """Size of the photos that a network takes, as LVSM's and RayZer's programs make them."""

    height: int = 256
    """Rows, to which a photo is scaled; a multiple of `patch`."""
    patch: int = 8
    """Columns become the nearest multiple of it, so pixels are not quite square."""
    is_square: bool = True
    """Whether the longer sides are cut to a square."""

    def __post_init__(self) -> None:
        if self.patch < 1 or self.height < self.patch or self.height % self.patch:
            raise ValueError(
                f"The height is {self.height} pixels; expected a multiple of {self.patch}, the "
                "side of the network's patches. Change either."
            )

    def canvas(self, width: int, height: int) -> Canvas:
        """Where a photo of this size lies.

        Raises:
            ValueError: It is so narrow that no patch is left.
        """
        # The order of operations and Python's round, halves to even, are part of the result.
        scaled = round(int(self.height / height * width) / self.patch) * self.patch
        if scaled == 0:
            raise ValueError(
                f"A photo has {width} x {height} pixels, too narrow for patches of {self.patch} "
                f"pixels at a height of {self.height}. Crop it."
            )
        side = min(self.height, scaled)
        columns, rows = (side, side) if self.is_square else (scaled, self.height)
        left, top = (scaled - columns) // 2, (self.height - rows) // 2
        box = (0.0, 0.0, float(width), float(height))
        placement = Placement(box, scaled, self.height, -left, -top)
        return Canvas(columns, rows, placement, resampling="lanczos")


def load_views(scene: CapturedScene, numbers: Sequence[int], size: ViewSize) -> Views:
    """Read some frames of a scene.

    Raises:
        ValueError: There are no such frames, a photo cannot be decoded, or they differ in size.
        OSError: A photo cannot be read.
    """
    outside = [number for number in numbers if not 0 <= number < len(scene)]
    if outside or not numbers:
        raise ValueError(
            f"Frames {outside or 'none'} were asked of the scene {scene.name}, which has "
            f"{len(scene)} frames ({scene.source}). Expected numbers from 0 to {len(scene) - 1}. "
            "Use an index that was made for this data set."
        )
    images, intrinsics = [], []
    for number in numbers:
        photo = scene.open(number)
        canvas = size.canvas(*photo.size)
        pixels = torch.from_numpy(paste(photo, canvas).copy()).permute(2, 0, 1)
        images.append(pixels.float() / 255)
        pixel_map = canvas.placement.map_from_photo
        intrinsics.append(pixel_map.intrinsics_on_map(scene.intrinsics[number]))
    shapes = {tuple(image.shape[1:]) for image in images}
    if len(shapes) > 1:
        raise ValueError(
            f"Photos of the scene {scene.name} ({scene.source}) become {sorted(shapes)} pixels "
            "(rows, columns); expected one size for all. Crop them alike, or use square views."
        )
    return Views(
        images=torch.stack(images),
        world_from_camera=scene.world_from_camera[list(numbers)].float(),
        intrinsics=torch.stack(intrinsics).float(),
    )
