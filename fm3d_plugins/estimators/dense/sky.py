"""Which pixels of a photo show the sky: no network, so a guess that errs on the side of keeping."""

import numpy as np
from jaxtyping import Bool, UInt8

SMOOTH = 6.0
"""Largest standard deviation of grey values in a 5 x 5 window of sky, of 255."""

BRIGHT, BRIGHT_BLUE = 110, 70
"""Least mean value of a sky pixel's channels, of 255, without and with colour: night is kept."""

GREY_SPREAD = 28
"""Largest difference of channels of an overcast sky, of 255."""

LEAST_TOP_SHARE = 0.15
"""Of the photo's upper border that a patch of sky must touch; less may be a lamp or a wall."""

LEAST_AREA = 0.02
"""Of the photo that a patch of sky covers."""

MOST_AREA = 0.9
"""Of the photo: what covers more is the photo's subject, a wall or nothing at all, and is kept."""


def sky_mask(image: UInt8[np.ndarray, "height width 3"]) -> Bool[np.ndarray, "height width"]:
    """True on smooth, bright, blue or colourless patches that hang from the upper border.

    A white wall that fills the upper border looks the same to this function: `Vggt.drop_sky` can
    be switched off.
    """
    from scipy import ndimage

    channels = image.astype(np.float32)
    grey = channels.mean(-1)
    mean = ndimage.uniform_filter(grey, 5)
    variance = ndimage.uniform_filter(grey**2, 5) - mean**2
    red, blue = channels[..., 0], channels[..., 2]
    is_blue = (blue >= channels.max(-1) - 4) & (blue > red + 8)
    is_colourless = channels.max(-1) - channels.min(-1) <= GREY_SPREAD
    is_bright = (is_colourless & (grey >= BRIGHT)) | (is_blue & (grey >= BRIGHT_BLUE))
    candidates = (variance <= SMOOTH**2) & is_bright
    labels = np.zeros(grey.shape, np.int32)
    ndimage.label(candidates, output=labels)
    areas = np.bincount(labels.ravel())
    touching = np.bincount(labels[0], minlength=len(areas))
    is_sky = (areas >= LEAST_AREA * grey.size) & (touching >= LEAST_TOP_SHARE * grey.shape[1])
    is_sky[0] = False
    if areas[is_sky].sum() > MOST_AREA * grey.size:
        return np.zeros(grey.shape, bool)
    # Clouds are holes in it, and the window of the variance ends short of the outline.
    filled = ndimage.binary_fill_holes(is_sky[labels])
    return ndimage.binary_dilation(filled, iterations=2) & (filled | is_bright)
