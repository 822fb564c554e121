"""Gaussians that nothing was learnt of, as masks leave out what shows them."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn.functional import interpolate

from fm3d_plugins.gaussian_splatting.density_control import keep_rows
from fm3d_plugins.kernels.rasterizer import rasterize
from fm3d_plugins.nerfstudio_cameras import pinhole
from fm3d_plugins.progress import say, track
from fm3d_plugins.surfaces.views import MOST_VIEWS, view_cameras

LEAST_SHARE = 0.05
"""Of what a gaussian adds to all pixels, what it adds to pixels that count."""

MOST_DURING_TRAINING = 40
"""Photos that are looked at; after training `MOST_VIEWS`."""

TIMES = 4
"""During training."""


class Unlearnt:
    """Takes gaussians out of a model that masks leave nothing of, some times while it is trained.

    They hang around the things that masks leave, as nothing speaks against them, and stand before
    them in other views. Without masks nothing is done.
    """

    def __init__(self, pipeline: Any, first: int, count: int) -> None:
        """Args:
        pipeline: Of a `GaussianSplattingModel`.
        first: Step with which training begins.
        count: Of steps.
        """
        self._pipeline = pipeline
        self._steps = {first + count * time // (TIMES + 1) for time in range(1, TIMES + 1)}
        photos = pipeline.datamanager.train_dataset
        self._is_masked = any(photos.mask(row) is not None for row in range(len(photos)))
        self._count = 0

    def after_step(self, step: int) -> None:
        if self._is_masked and step in self._steps:
            self._count += drop_unlearnt(self._pipeline, MOST_DURING_TRAINING)

    def after_training(self, step: int) -> None:
        if self._is_masked:
            self._count += drop_unlearnt(self._pipeline, MOST_VIEWS)
        if self._count:
            say(
                f"Splats that were left out, in training and at its end: {self._count:,}. They "
                "showed almost only in pixels that masks leave out, so that nothing was learnt of "
                "them."
            )


def drop_unlearnt(pipeline: Any, most: int) -> int:
    """Take gaussians out of a model that masks leave nothing of.

    Args:
        most: No more training photos than this many tell it, evenly chosen.

    Returns:
        How many they were.
    """
    model = pipeline.model
    cameras, masks = view_cameras(pipeline, most)
    views = ((cameras[row : row + 1], mask) for row, mask in enumerate(masks))
    params = model.gauss_params
    keep = is_learnt(
        dict(params.items()),
        track(views, "Looking for splats that masks hide", total=len(masks)),
        antialiased=model.config.rasterize_mode == "antialiased",
    )
    if bool(keep.all()) or not bool(keep.any()):
        return 0
    keep_rows(params, {name: model.optimizers[name] for name in params}, keep)
    return int((~keep).sum())


def is_learnt(
    gaussians: dict[str, Tensor],
    views: Iterable[tuple[Cameras, Bool[Tensor, "_ _ 1"] | None]],
    *,
    antialiased: bool = False,
) -> Bool[Tensor, " gaussian"]:
    """Which gaussians show in pixels that no mask leaves out, for more than a small part.

    By the weights with which they are blended into the training photos' pixels, summed over all of
    them: the derivatives of the sum of all colours.

    Args:
        gaussians: means, quats, scales and opacities, before activation.
        views: Pinholes of training photos, and their masks of any size.
    """
    means, scales = gaussians["means"].detach(), gaussians["scales"].detach().exp()
    opacities = gaussians["opacities"].detach().sigmoid().squeeze(-1)
    shares = means.new_zeros(len(means), 2)
    for camera, mask in views:
        seen, colors = pinhole(camera), torch.zeros_like(means)[:, None].requires_grad_()
        view = rasterize(
            means,
            gaussians["quats"].detach(),
            scales,
            opacities,
            colors,
            seen.camera_from_world,
            seen.intrinsics,
            width=seen.width,
            height=seen.height,
            sh_degree=0,
            background=means.new_zeros(3),
            antialiased=antialiased,
        )
        total = view.rgb[..., 1].sum() + (view.rgb[..., 0] * _sized(mask, view.rgb)).sum()
        shares += torch.autograd.grad(total, colors)[0][:, 0, :2]
    return shares[:, 0] >= LEAST_SHARE * shares[:, 1]


def _sized(
    mask: Bool[Tensor, "_ _ 1"] | None, like: Float[Tensor, "height width 3"]
) -> Float[Tensor, "height width"]:
    """How much of each pixel counts."""
    if mask is None:
        return torch.ones_like(like[..., 0])
    planes = mask.permute(2, 0, 1)[None].to(like)
    return interpolate(planes, size=like.shape[:2], mode="area")[0, 0]
