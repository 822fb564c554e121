"""The background behind everything that photos show, looked for in the order of what tells most."""

from collections.abc import Sequence

from jaxtyping import Float, Shaped
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.backgrounds.plain import PlainBackground, plain_background
from fm3d_plugins.backgrounds.still import StillBackground, still_background

BACKGROUND = "background"
"""Key of the training dataset's metadata: the `PlainBackground` or `StillBackground` of its photos;
absent where there is none."""


def find_background(
    images: Sequence[Shaped[Tensor, "_ _ 3"]],
    masks: Sequence[Tensor | None],
    world_from_camera: Float[Tensor, "view 4 4"],
    against: str,
) -> PlainBackground | StillBackground | None:
    """A plain backdrop, else a picture that stands still, else None; says what is found.

    Args:
        images: Colours in [0, 1], or bytes.
        masks: [H, W, 1] each, above one half where a photo counts; None: everywhere.
        world_from_camera: OpenCV cameras.
        against: The option that turns this off.
    """
    found = plain_background(images, masks) or still_background(images, masks, world_from_camera)
    if found is None:
        return None
    what = "A plain backdrop is"
    if isinstance(found, StillBackground):
        what = "A picture that stands still while the cameras turn, as behind a turntable, is"
    CONSOLE.print(
        f"{what} taken for the background: nothing is drawn before it. Masks tell more exactly "
        f"what is not the thing; against it: {against}."
    )
    return found
