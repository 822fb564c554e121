"""Sizes that networks of whole patches work at, and pictures brought to other sizes."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from fm3d_plugins.geometry.cameras import resize_intrinsics


def size_within(height: int, width: int, longest: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns, in whole patches, of a picture that is at most that long."""
    scale = min(1.0, longest / max(height, width)) / patch_size
    return max(1, round(scale * height)) * patch_size, max(1, round(scale * width)) * patch_size


def resized_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], before: tuple[int, int], after: tuple[int, int]
) -> Float[Tensor, "*batch 3 3"]:
    """Of a picture of another size (rows and columns)."""
    scale = intrinsics.new_tensor([after[1] / before[1], after[0] / before[0]])
    return resize_intrinsics(intrinsics, scale)


def resized_images(
    images: Float[Tensor, "image 3 rows columns"], height: int, width: int
) -> Float[Tensor, "image 3 height width"]:
    """Antialiased; the same where the size is."""
    if images.shape[-2:] == (height, width):
        return images
    return interpolate(images, (height, width), mode="bilinear", antialias=True).clamp(0, 1)
