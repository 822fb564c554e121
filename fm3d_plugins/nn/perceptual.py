"""How far renders are from photos, as LVSM and RayZer are trained: pixels, and features of VGG19.

The distance of Chen and Koltun 2017 ("Photographic Image Synthesis with Cascaded Refinement
Networks", equation 2), with the average pools and the factors of LVSM's published training.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fm3d_plugins.nn.weights import load_strictly

PREFIX = "vgg."
"""Begins the names of weights."""

MEAN_RGB = (123.68, 116.779, 103.939)
"""Of the photos that the network was trained with, in [0, 255]."""

CHANNELS = {
    0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 16: 256,
    19: 512, 21: 512, 23: 512, 25: 512, 28: 512, 30: 512,
}  # fmt: skip
"""Of each convolution, by its place in torchvision's VGG19."""

POOLED = (5, 10, 19, 28)
"""Convolutions that see the mean of 2 x 2 pixels."""

TAPS = (2, 7, 12, 21, 30)
"""Convolutions after whose rectifier features are compared."""

FACTORS = (1.0, 1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
"""Of the difference of pixels, and of each tap."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""Renders and targets (RGB in [0, 1], channels before rows) to one number."""


class Vgg19(nn.Module):
    """The convolutions of VGG19 (Simonyan and Zisserman 2015) up to the last one compared."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *CHANNELS.values())
        self.features = nn.ModuleDict(
            {
                str(place): nn.Conv2d(before, after, 3, padding=1)
                for place, before, after in zip(CHANNELS, widths, widths[1:], strict=False)
            }
        )

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> Iterator[Tensor]:
        """Features at all taps, of images in [0, 255] less their mean."""
        features = images
        for place in CHANNELS:
            if place in POOLED:
                features = functional.avg_pool2d(features, 2)
            features = functional.relu(self.features[str(place)](features), inplace=True)
            if place in TAPS:
                yield features


class Vgg19Distance:
    """Mean absolute differences of pixels and of features, weighted.

    Differentiable with respect to renders. It is no module: its weights are frozen and belong
    into no checkpoint.

    Args:
        weights: By name (`vgg.features.0.weight` and so on), of the network that takes RGB in
            [0, 255] less `MEAN_RGB`; torchvision's own weights are others.

    Raises:
        ValueError: If names are missing or shapes are wrong; all are listed. What else there is,
            VGG19's last layers for example, is left out.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        with torch.device("meta"):
            self.network = Vgg19().eval().requires_grad_(False)
        names = {PREFIX + name for name in self.network.state_dict()}
        load_strictly(
            self.network,
            {name: weights[name] for name in weights if name in names},
            advice="Give the convolutions of VGG19 for images in [0, 255], from MatConvNet's "
            "imagenet-vgg-verydeep-19.mat.",
            published_name=lambda name: PREFIX + name,
        )

    def errors(
        self,
        renders: Float[Tensor, "*batch 3 height width"],
        targets: Float[Tensor, "*batch 3 height width"],
    ) -> Float[Tensor, "6"]:
        """Mean absolute differences of pixels in [0, 255], then of the features at each tap."""
        self.network.to(renders.device)
        mean = renders.new_tensor(MEAN_RGB)[:, None, None]
        ours, theirs = (
            255 * images.reshape(-1, *images.shape[-3:]) - mean for images in (renders, targets)
        )
        differences = [functional.l1_loss(ours, theirs)]
        with torch.no_grad():
            expected = list(self.network(theirs))
        pairs = zip(self.network(ours), expected, strict=True)
        differences += [functional.l1_loss(*pair) for pair in pairs]
        return torch.stack(differences)

    def __call__(
        self,
        renders: Float[Tensor, "*batch 3 height width"],
        targets: Float[Tensor, "*batch 3 height width"],
    ) -> Float[Tensor, ""]:
        """The distance of images in [0, 1]; at least 16 pixels high and wide."""
        errors = self.errors(renders, targets)
        return (errors * errors.new_tensor(FACTORS)).sum() / 255


class RenderingLoss(NamedTuple):
    """What training lowers, and its parts."""

    total: Float[Tensor, ""]
    squared_error: Float[Tensor, ""]
    """Mean over all pixels and colours of all images."""
    perceptual: Float[Tensor, ""] | None
    """Before its weight; none without a perceptual distance."""

    @property
    def psnr(self) -> Float[Tensor, ""]:
        """Of all images as if they were one, in decibels."""
        return -10 * self.squared_error.detach().log10()


def rendering_loss(
    renders: Float[Tensor, "*batch 3 height width"],
    targets: Float[Tensor, "*batch 3 height width"],
    distance: Distance | None = None,
    weight: float | int = 0.5,
) -> RenderingLoss:
    """Mean squared error plus the weighted perceptual distance, of images in [0, 1].

    Args:
        distance: None: the mean squared error alone.
        weight: Of the perceptual distance; LVSM's scenes 0.5, RayZer 0.2.
    """
    squared_error = functional.mse_loss(renders, targets)
    if distance is None:
        return RenderingLoss(squared_error, squared_error, None)
    perceptual = distance(renders, targets)
    return RenderingLoss(squared_error + weight * perceptual, squared_error, perceptual)
