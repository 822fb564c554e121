"""Whether photos show a thing before one plain colour, and which."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fm3d_plugins.dense_points import in_floats

BORDER = 0.03
"""Width of the frame that is looked at, as a share of a photo's side."""

ALIKE = 0.04
"""By how much a colour of the frame may differ from the middle one, in each of its channels."""

LEAST_SHARE, LEAST_SHARE_OF_ONE = 0.9, 0.5
"""Share of the frames' pixels that are alike: of all photos, and of each."""


def plain_background(
    images: Sequence[Shaped[Tensor, "_ _ 3"]], masks: Sequence[Tensor | None]
) -> Float[Tensor, "3"] | None:
    """The colour of nearly all pixels along the borders of photos, or None.

    Args:
        images: Colours in [0, 1], or bytes.
        masks: [H, W, 1] each, above one half where a photo counts; None: everywhere.
    """
    frames = [_frame(image, mask) for image, mask in zip(images, masks, strict=True)]
    colors = torch.cat(frames)
    if not len(colors):
        return None
    middle = colors.median(0).values
    shares = [((f - middle).abs() <= ALIKE).all(-1).float() for f in frames if len(f)]
    is_plain = torch.cat(shares).mean() >= LEAST_SHARE
    return middle if is_plain and all(s.mean() >= LEAST_SHARE_OF_ONE for s in shares) else None


def _frame(image: Shaped[Tensor, "_ _ 3"], mask: Tensor | None) -> Float[Tensor, "pixel 3"]:
    """Colours along the border of a photo, as far as they count."""
    height, width = image.shape[:2]
    rows, columns = (max(1, round(BORDER * side)) for side in (height, width))
    is_frame = torch.ones(height, width, dtype=torch.bool)
    is_frame[rows : height - rows, columns : width - columns] = False
    if mask is not None:
        is_frame &= mask.reshape(height, width) > 0.5  # noqa: PLR2004
    return in_floats(image[is_frame])
