"""Image metrics: PSNR, SSIM, and LPIPS built on first use, left out when its weights are absent."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.checkpoints.locating import is_offline
from fm3d_plugins.errors import require
from fm3d_plugins.kernels.image_loss import ssim

LpipsNetwork = Literal["alex", "vgg"]

_BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
"""torchvision's files of the two backbones; the `lpips` package brings only its linear layers."""


def psnr(
    rendered: Float[Tensor, "height width 3"],
    target: Float[Tensor, "height width 3"],
    counts: Bool[Tensor, "height width 1"] | None = None,
) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in decibels of images in [0, 1]; infinite for equal images.

    Args:
        counts: Pixels that are compared; None: all.
    """
    errors = (rendered - target).square()
    if counts is not None:
        errors = errors[counts[..., 0].to(errors.device)]
    return -10 * errors.mean().log10()


class Lpips:
    """Learned perceptual distance (Zhang et al. 2018), not part of any module tree or checkpoint.

    Its backbone is fetched by torchvision on first use. Without it and without the network,
    `distance` says so once and returns None from then on.
    """

    def __init__(self, network: LpipsNetwork) -> None:
        self.network: LpipsNetwork = network
        self._model: torch.nn.Module | None = None
        self._is_absent = False

    @property
    def file(self) -> Path:
        """Where torchvision keeps the backbone; it may not be there yet."""
        return Path(torch.hub.get_dir()) / "checkpoints" / _BACKBONES[self.network]

    def distance(
        self,
        rendered: Float[Tensor, "height width 3"],
        target: Float[Tensor, "height width 3"],
    ) -> float | None:
        """Distance of two images in [0, 1]; 0 is equal. None when the weights are absent."""
        model = self.model()
        if model is None:
            return None
        pair = [image.permute(2, 0, 1)[None].float() for image in (rendered, target)]
        model.to(rendered.device)
        with torch.no_grad():
            return float(model(*pair, normalize=True))

    def model(self) -> torch.nn.Module | None:
        """The frozen network of the `lpips` package, built on first use; None without weights."""
        if self._model is None and not self._is_absent:
            self._build()
        return self._model

    def _build(self) -> None:
        lpips = require("lpips", purpose="The LPIPS metric", install="lpips")
        file = self.file
        try:
            if is_offline() and not file.exists():
                raise FileNotFoundError("offline mode is set")
            with warnings.catch_warnings():
                # lpips asks torchvision for its weights by an argument that has a new name.
                warnings.filterwarnings("ignore", module="torchvision")
                model = lpips.LPIPS(net=self.network, verbose=False)
            self._model = model.eval().requires_grad_(False)
        except (OSError, RuntimeError) as error:  # URLError is an OSError.
            self._is_absent = True
            CONSOLE.print(
                f"LPIPS ({self.network}) is left out: its backbone is not at {file} and cannot be "
                f"fetched ({error}). Get https://download.pytorch.org/models/{file.name} "
                "and put it there."
            )


@contextmanager
def without_fetching(model: Any) -> Iterator[None]:
    """Within, a model's `lpips_metrics` whose backbone is not on this computer are left out."""
    every = getattr(model, "lpips_metrics", None)
    if not every:
        yield
        return
    model.lpips_metrics = [metric for metric in every if metric.file.exists()]
    try:
        yield
    finally:
        model.lpips_metrics = every


@torch.no_grad()
def image_metrics(
    rendered: Float[Tensor, "height width 3"],
    target: Float[Tensor, "height width 3"],
    lpips: Sequence[Lpips],
    sample_covariance: bool = False,
    counts: Bool[Tensor, "height width 1"] | None = None,
) -> dict[str, float]:
    """`psnr` (dB), `ssim`, and LPIPS where its weights are there: `lpips` (alex), `lpips_vgg`.

    Args:
        sample_covariance: Of SSIM, as there.
        counts: Pixels that are compared; None: all. The others are black in both. SSIM is averaged
            over the windows around pixels that count, LPIPS is that of the whole picture.
    """
    rendered, target, counts = counted(rendered, target, counts)
    similarity = ssim(rendered, target, sample_covariance, counts)
    metrics = {"psnr": float(psnr(rendered, target, counts)), "ssim": float(similarity)}
    for metric in lpips:
        distance = metric.distance(rendered, target)
        if distance is not None:
            metrics["lpips" if metric.network == "alex" else f"lpips_{metric.network}"] = distance
    return metrics


@torch.no_grad()
def corrected_metrics(
    rendered: Float[Tensor, "height width 3"],
    target: Float[Tensor, "height width 3"],
    counts: Bool[Tensor, "height width 1"] | None = None,
) -> dict[str, float]:
    """`cc_psnr` (dB) and `cc_ssim`: after the render's exposure and tint are made the photo's.

    They tell how good a scene is where photos differ in exposure, which no render can know; the
    others tell what is seen.

    Args:
        counts: As of `image_metrics`.
    """
    corrected = color_corrected(rendered, target, counts)
    corrected, target, counts = counted(corrected, target, counts)
    return {
        "cc_psnr": float(psnr(corrected, target, counts)),
        "cc_ssim": float(ssim(corrected, target, counts=counts)),
    }


def counted(
    rendered: Float[Tensor, "height width 3"],
    target: Float[Tensor, "height width 3"],
    counts: Tensor | None,
) -> tuple[
    Float[Tensor, "height width 3"],
    Float[Tensor, "height width 3"],
    Bool[Tensor, "height width 1"] | None,
]:
    """A render and a photo, black where no pixel counts, and the mask of those that do.

    Args:
        counts: Mask as nerfstudio's batches hold it, on any device; None: all.
    """
    if counts is None:
        return rendered, target, None
    counts = counts.to(rendered.device).bool()
    return rendered * counts, target * counts, counts


def color_corrected(
    rendered: Float[Tensor, "height width 3"],
    target: Float[Tensor, "height width 3"],
    counts: Bool[Tensor, "height width 1"] | None = None,
) -> Float[Tensor, "height width 3"]:
    """A render whose colours went through the affine map that brings them nearest to a photo's.

    Least squares of 3 x 4 numbers over the pixels that count; the result is clipped to [0, 1].
    """
    colors = rendered.reshape(-1, 3).double()
    weights = torch.ones_like(colors[:, :1])
    if counts is not None:
        weights = counts.reshape(-1, 1).to(weights)
    columns = torch.cat([colors, torch.ones_like(colors[:, :1])], dim=-1)
    products = columns.T @ (weights * columns)
    # A picture of one colour determines no map; a trace of the identity does.
    products.diagonal().add_(1e-6 * weights.sum().clamp_min(1.0))
    identity = torch.eye(4, 3, dtype=colors.dtype, device=colors.device)
    difference = target.reshape(-1, 3).double() - colors
    affine = identity + torch.linalg.solve(products, columns.T @ (weights * difference))
    return (columns @ affine).clamp(0, 1).to(rendered).reshape(rendered.shape)
