"""Perceptual distances for training: VGG19 from a file of weights, or the package LPIPS."""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.backends.metrics import Lpips
from fm3d_plugins.checkpoints.loading import load
from fm3d_plugins.files import require_regular
from fm3d_plugins.nn.perceptual import CHANNELS, PREFIX, Distance, Vgg19Distance

PerceptualKind = Literal["vgg19", "lpips"]

_MATCONVNET = (
    "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4",
    "conv4_1", "conv4_2", "conv4_3", "conv4_4", "conv5_1", "conv5_2",
)  # fmt: skip
"""Its names of the convolutions of `CHANNELS`."""

_EXPECTED = (
    "Expected MatConvNet's imagenet-vgg-verydeep-19.mat, or its convolutions as safetensors "
    f"({PREFIX}features.0.weight and so on). Fetch it again, or give another file."
)


def perceptual_distance(kind: PerceptualKind, weights: Path | None = None) -> Distance | None:
    """The distance that LVSM and RayZer are trained with, or LPIPS in its place.

    Where there are no weights, one line says so and the result is None: the loss then is the mean
    squared error alone (`nn.perceptual.rendering_loss`).

    Args:
        kind: vgg19: the published one. lpips: the mean distance of Zhang et al. 2018 with VGG16,
            whose backbone torchvision fetches.
        weights: Of VGG19, as `read_vgg19` takes them.

    Raises:
        ValueError, OSError: The file of weights is there but of no use.
    """
    if kind == "lpips":
        return _lpips_distance()
    if weights is not None:
        return Vgg19Distance(read_vgg19(weights))
    CONSOLE.print(
        "The perceptual loss is left out, training lowers the mean squared error alone: no weights "
        f"of VGG19 were given. {_EXPECTED.partition(' Fetch')[0]}",
        markup=False,
        highlight=False,
    )
    return None


def _lpips_distance() -> Distance | None:
    model = Lpips("vgg").model()
    if model is None:
        return None

    def distance(renders: Tensor, targets: Tensor) -> Tensor:
        pair = (images.reshape(-1, *images.shape[-3:]) for images in (renders, targets))
        return model.to(renders.device)(*pair, normalize=True).mean()

    return distance


def read_vgg19(path: Path) -> Mapping[str, Tensor]:
    """The convolutions of VGG19 by name, from MatConvNet's file or a file of tensors.

    The content tells which one it is. Neither can hold code.

    Raises:
        ValueError: The file is damaged, or holds something else.
        OSError: It cannot be read.
    """
    with require_regular(path).open("rb") as stream:
        is_matlab = stream.read(6) == b"MATLAB"
    if not is_matlab:
        return load(path)
    try:
        # In a process of its own: scipy's reader crashes on files that are nested very deeply.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            arrays = pool.submit(matconvnet_arrays, path).result()
    except Exception as error:  # scipy's reader raises many types on damaged files.
        raise ValueError(
            f"{path} is a MATLAB file that cannot be read as a network "
            f"({type(error).__name__}: {error}). {_EXPECTED}"
        ) from error
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def matconvnet_arrays(path: Path) -> dict[str, np.ndarray]:
    """Kernels and biases by name, from a file whose layers are named like `conv1_1`.

    It stores kernels as (row, column, input, output).
    """
    from scipy.io import loadmat

    layers = loadmat(path, variable_names=["layers"], simplify_cells=True)["layers"]
    found = {layer["name"]: layer["weights"] for layer in layers if "weights" in layer}
    arrays = {}
    for place, name in zip(CHANNELS, _MATCONVNET, strict=True):
        kernel, bias = (np.asarray(array, dtype=np.float32) for array in found[name])
        kernel = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        arrays[f"{PREFIX}features.{place}.weight"] = kernel
        arrays[f"{PREFIX}features.{place}.bias"] = bias.reshape(-1)
    return arrays
