"""SSIM and the L1 + SSIM loss in plain torch: the definition."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.kernels.shapes import check_shapes

WINDOW_SIZE = 11
WINDOW_SIGMA = 1.5
# (0.01 range)^2 and (0.03 range)^2 of Wang et al. 2004, section III.B, for colours in [0, 1]
STABILITY_MEAN = 0.01**2
STABILITY_VARIANCE = 0.03**2


def gaussian_window(dtype: torch.dtype) -> Float[Tensor, " window"]:
    """The one-dimensional window, with sum 1; its outer product is the window of SSIM."""
    offsets = torch.arange(WINDOW_SIZE, dtype=torch.float64) - WINDOW_SIZE // 2
    weights = torch.exp(-(offsets**2) / (2.0 * WINDOW_SIGMA**2))
    return (weights / weights.sum()).to(dtype)


def _blur(image: Float[Tensor, "channel height width"]) -> Float[Tensor, "channel y x"]:
    """Windowed means where the window fits into the image."""
    channels = len(image)
    window = gaussian_window(image.dtype).to(image.device).repeat(channels, 1, 1, 1)
    # Depthwise and one image at a time: torch's fastest way on a CPU.
    rows = torch.nn.functional.conv2d(image[None], window.transpose(2, 3), groups=channels)
    return torch.nn.functional.conv2d(rows, window, groups=channels)[0]


def ssim(
    rendered: Float[Tensor, "height width 3"],
    target: Float[Tensor, "height width 3"],
    sample_covariance: bool = False,
    counts: Bool[Tensor, "height width 1"] | None = None,
) -> Float[Tensor, ""]:
    """Mean structural similarity of two images in [0, 1] (Wang et al. 2004), differentiable.

    Gaussian window of 11 pixels with sigma 1.5, only where it fits into the image, averaged over
    pixels and channels.

    Args:
        sample_covariance: Variances times N / (N - 1) for the N pixels of a window, as
            scikit-image takes them unless told otherwise; on photos, less by about 0.0005.
        counts: Pixels whose windows are averaged over (nan where there are none); None: all.

    Raises:
        ValueError: The images are smaller than the window or differ in size.
    """
    check_images(rendered, target)
    x, y = rendered.permute(2, 0, 1), target.permute(2, 0, 1)
    mean_x, mean_y, square_x, square_y, product = map(_blur, (x, y, x * x, y * y, x * y))
    means = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    luminance = (2.0 * means + STABILITY_MEAN) / (squares + STABILITY_MEAN)
    factor = WINDOW_SIZE**2 / (WINDOW_SIZE**2 - 1) if sample_covariance else 1.0
    structure = (2.0 * factor * (product - means) + STABILITY_VARIANCE) / (
        factor * (square_x + square_y - squares) + STABILITY_VARIANCE
    )
    similarity = luminance * structure
    if counts is None:
        return similarity.mean()
    reach = WINDOW_SIZE // 2
    return similarity[:, counts[reach:-reach, reach:-reach, 0]].mean()


def l1_ssim_torch(
    rendered: Float[Tensor, "height width 3"],
    target: Float[Tensor, "height width 3"],
    ssim_weight: float,
) -> Float[Tensor, ""]:
    """`l1_ssim_loss` on any device, in any float dtype."""
    l1 = (rendered - target).abs().mean()
    return (1.0 - ssim_weight) * l1 + ssim_weight * (1.0 - ssim(rendered, target))


def check_images(
    rendered: Float[Tensor, "height_a width_a 3"], target: Float[Tensor, "height_b width_b 3"]
) -> None:
    """Refuse images that cannot be compared."""
    images = {"the rendered image": (rendered, "y x 3"), "the target": (target, "v u 3")}
    check_shapes("The comparison of images", images, one_type=False)
    if rendered.shape != target.shape:
        raise ValueError(
            f"The rendered image is {tuple(rendered.shape)} and the target {tuple(target.shape)}. "
            "Expected equal sizes. Resize the target to the camera's size."
        )
    if min(rendered.shape[:2]) < WINDOW_SIZE:
        raise ValueError(
            f"The images are {tuple(rendered.shape[:2])} pixels. SSIM's window needs at least "
            f"{WINDOW_SIZE} x {WINDOW_SIZE}. Use larger images or ssim_weight 0."
        )
