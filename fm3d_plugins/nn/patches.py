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


def patch_grid(images: Float[Tensor, "*batch 3 height width"], patch_size: int) -> tuple[int, int]:
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
