"""Images cut into square patches, each a token."""

from jaxtyping import Float
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """One linear map of every patch, written as a convolution whose stride is its size."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image token channel"]:
        """Tokens row by row, in the weights' type; sides are multiples of the patch size."""
        return self.proj(images.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


def patch_grid(
    images: Float[Tensor, "*batch channel height width"], patch_size: int
) -> tuple[int, int]:
    """Patches in a column and in a row of images.

    Raises:
        ValueError: Patches do not fill the images.
    """
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size or not height or not width:
        raise ValueError(
            f"The images have {height} x {width} pixels; both sides must be multiples of "
            f"{patch_size}. Scale or crop them."
        )
    return height // patch_size, width // patch_size


def patchify(
    images: Float[Tensor, "*batch channel height width"], patch_size: int
) -> Float[Tensor, "*batch token value"]:
    """Patches row by row, each as (row, column, channel), channels fastest.

    Raises:
        ValueError: A side is no multiple of the patch size.
    """
    rows, columns = patch_grid(images, patch_size)
    cut = images.unflatten(-1, (columns, patch_size)).unflatten(-3, (rows, patch_size))
    return cut.movedim(-5, -1).transpose(-4, -3).flatten(-5, -4).flatten(-3)


def unpatchify(
    patches: Float[Tensor, "*batch token value"], patch_size: int, rows: int
) -> Float[Tensor, "*batch channel height width"]:
    """Images of which `patchify` makes these patches.

    Args:
        rows: Of patches, in an image.
    """
    cut = patches.unflatten(-1, (patch_size, patch_size, -1)).unflatten(-4, (rows, -1))
    return cut.movedim(-1, -5).transpose(-3, -2).flatten(-2).flatten(-3, -2)
