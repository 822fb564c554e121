"""A rough scene that puts cameras about right before the scene proper begins.

A scene with as much detail as its photos explains wrong cameras by wrong shapes long before they
have moved by several pixels, and then holds them there. Few gaussians and small photos cannot, and
a step with them takes a hundredth of a second. The rough scene is thrown away; what it found of the
cameras is where their optimisation begins, and the scene proper starts afresh.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizer
from fm3d_plugins.camera_optimization.row_adam import RowAdam
from fm3d_plugins.camera_photos import CameraPhotos
from fm3d_plugins.dense_points import posed_photos
from fm3d_plugins.geometry.neighbours import mean_neighbour_distance
from fm3d_plugins.geometry.poses import invert, pose_from_rotation_translation
from fm3d_plugins.kernels.adam import KernelAdam
from fm3d_plugins.kernels.image_loss import l1_ssim_loss
from fm3d_plugins.kernels.rasterizer import rasterize
from fm3d_plugins.kernels.rasterizer.spherical_harmonics import C0
from fm3d_plugins.nerfstudio_cameras import image_sizes, intrinsics_matrices, world_from_cameras
from fm3d_plugins.random_points import random_points_in_view

SIDE = 120
"""Long side of the small photos, pixels."""

SHORTEST_SIDE = 11
"""Pixels, which SSIM needs."""

GAUSSIANS = 5000

VISITS, FEWEST_STEPS = 24, 800
"""Steps per photo, and in all."""

STILL = 0.6
"""Pixels of the small photos by which corrections must go on average to be believed. It moved
cameras that were exact by 0.1 to 0.2 of them (fox, rooms, banana), by 0.4 with nine photos
(sceaux)."""

REGULARIZATION = 0.01
"""Weight of mean opacity and of mean scale in the loss, as in MCMC (Kheradmand et al. 2024)."""

START_OPACITY = 0.1

LEARNING_RATES = {
    "means": (5e-3, 5e-5),
    "scales": (0.02, 0.005),
    "quats": (5e-3, 1e-3),
    "colors": (0.01, 0.0025),
    "opacities": (0.05, 0.02),
}
"""First and last, scene units of a scene scaled to a box from -1 to 1."""

CAMERA_RATES, FOCAL_RATES = (1.0, 0.1), (0.03, 0.003)
"""First and last step lengths, pixels of the small photos. With five times those of focal lengths
fox came out alike, but the focal length of banana, 2 % off, went to 7.6 %; so it stays at 1.8 %."""

CAMERA_DELAY, FOCAL_DELAY, RAMP = 0.1, 0.15, 0.02
"""Shares of the steps during which poses, and focal lengths, stay, and then speed up."""

CAMERA_ADAM = {"betas": (0.3, 0.9), "eps": 3e-3}
FOCAL_ADAM = {"betas": (0.8, 0.99), "eps": 5e-4}
"""As of `3dgs`; `eps` in loss per pixel of the small photos."""


def num_steps(num_photos: int, steps_of_run: int) -> int:
    """Steps of a rough scene: enough visits of each photo, and never more than the run's."""
    return min(max(FEWEST_STEPS, VISITS * num_photos), steps_of_run)


@dataclass(frozen=True)
class SmallPhotos:
    """What the rough scene is compared with, on the CPU."""

    images: Sequence[Float[Tensor, "_ _ 3"]]
    masks: Sequence[Float[Tensor, "_ _ 1"] | None]
    intrinsics: Float[Tensor, "view 3 3"]
    world_from_camera: Float[Tensor, "view 4 4"]
    shrinking: float
    """Pixels of the photos that are trained on, to one of these."""


def small_photos(pinholes: CameraPhotos) -> SmallPhotos:
    """Photos scaled by area to at most `SIDE` pixels, read one after the other."""
    cameras = pinholes.cameras
    shrinking = max(1.0, float(image_sizes(cameras).max()) / SIDE)
    images, masks = [], []
    intrinsics = intrinsics_matrices(cameras).float().cpu().clone()
    for row in range(len(pinholes)):
        photo = posed_photos([pinholes.get_data(row, "uint8")], cameras[row : row + 1])
        image, mask = photo.images[0], photo.masks[0]
        images.append(_shrunk(image, shrinking))
        masks.append(None if mask is None else _shrunk(mask.float(), shrinking))
        intrinsics[row, 0] *= images[row].shape[1] / image.shape[1]
        intrinsics[row, 1] *= images[row].shape[0] / image.shape[0]
    poses = world_from_cameras(cameras).float().cpu()
    return SmallPhotos(images, masks, intrinsics, poses, shrinking)


def _shrunk(image: Float[Tensor, "_ _ channel"], shrinking: float) -> Float[Tensor, "_ _ channel"]:
    size = [max(SHORTEST_SIDE, round(length / shrinking)) for length in image.shape[:2]]
    planes = image.permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(planes, size, mode="area")[0].permute(1, 2, 0)


class RoughScene:
    """Few gaussians of one colour each, and the cameras that see them."""

    def __init__(
        self, photos: SmallPhotos, cameras: CameraOptimizer, generator: torch.Generator
    ) -> None:
        """Random gaussians in view, drawn from `generator` alone. All is on the CPU."""
        self.photos, self.cameras, self.generator = photos, cameras, generator
        points, colors = random_points_in_view(
            photos.world_from_camera,
            photos.intrinsics,
            list(photos.images),
            GAUSSIANS,
            generator,
        )
        upright = torch.tensor([1.0, 0, 0, 0]).repeat(len(points), 1)
        start = {
            "means": points,
            "scales": mean_neighbour_distance(points).log()[:, None].repeat(1, 3),
            "quats": upright,
            "colors": (colors - 0.5) / C0,
            "opacities": torch.full((len(points),), START_OPACITY).logit(),
        }
        self.gaussians = {name: Parameter(each) for name, each in start.items()}

    def loss(self, view: int) -> Float[Tensor, ""]:
        """Of one photo, as of `3dgs`, with what holds the camera; differentiable in it."""
        photos, cameras, gaussians = self.photos, self.cameras, self.gaussians
        row = torch.tensor([view])
        target, mask = photos.images[view], photos.masks[view]
        factors = torch.ones_like(photos.intrinsics[view])
        factors[[0, 1], [0, 1]] = cameras.focal_factors()[view]
        scales, opacities = gaussians["scales"].exp(), gaussians["opacities"].sigmoid()
        rendered = rasterize(
            gaussians["means"],
            gaussians["quats"],
            scales,
            opacities,
            gaussians["colors"][:, None],
            invert(corrected(photos.world_from_camera[row], cameras(row))[0]),
            photos.intrinsics[view] * factors,
            width=target.shape[1],
            height=target.shape[0],
            sh_degree=0,
            background=torch.rand(3, generator=self.generator),
        ).rgb.clamp(0, 1)
        if mask is not None:
            rendered, target = rendered * mask, target * mask
        pull = cameras.penalty(torch.zeros_like(cameras.confidence).index_fill(0, row, 1.0))
        size = REGULARIZATION * (opacities.mean() + scales.mean())
        return l1_ssim_loss(rendered, target) + size + pull / photos.shrinking


def corrected(
    world_from_camera: Float[Tensor, "view 4 4"], corrections: Float[Tensor, "view 3 4"]
) -> Float[Tensor, "view 4 4"]:
    """Poses with the corrections of `CameraOptimizer`."""
    rotations = corrections[..., :3] @ world_from_camera[..., :3, :3]
    centres = world_from_camera[..., :3, 3] + corrections[..., 3]
    return pose_from_rotation_translation(rotations, centres)


def settle_cameras(
    cameras: CameraOptimizer, photos: SmallPhotos, steps: int, generator: torch.Generator
) -> float:
    """Correct cameras with a rough scene, in place, unless they are as good as it can tell.

    Args:
        cameras: That are optimised, as yet without corrections; on the CPU.
        photos: Of the same cameras.
        steps: Of one photo each.
        generator: Draws points, photos and backgrounds.

    Returns:
        Mean length of the corrections, pixels of the photos that are trained on; 0 where cameras
        were left as they were.
    """
    scene = RoughScene(photos, cameras, generator)
    optimizers = _Optimizers(scene, steps)
    order: list[int] = []
    for step in range(steps):
        order = order or torch.randperm(len(photos.images), generator=generator).tolist()
        loss = scene.loss(order.pop())
        loss.backward()
        optimizers.step(step)
        cameras.hold_gauge()
    moved = float(cameras.pose_adjustment.detach().norm(dim=-1).mean())
    if moved >= STILL * photos.shrinking:
        return moved
    with torch.no_grad():
        for parameter in cameras.parameters():
            parameter.zero_()
    return 0.0


class _Optimizers:
    """Of gaussians, poses and focal lengths, with their schedules."""

    def __init__(self, scene: RoughScene, steps: int) -> None:
        self.steps, self.scene = steps, scene
        groups = [
            {"params": [scene.gaussians[name]], "lr": first}
            for name, (first, _) in LEARNING_RATES.items()
        ]
        self.gaussians = KernelAdam(groups, lr=1e-3, eps=1e-15)
        # A pixel of the small photos is several of those in whose units cameras move.
        size = scene.photos.shrinking
        cameras = scene.cameras
        self.cameras = [
            (_row_adam(cameras.pose_adjustment, size, CAMERA_ADAM), CAMERA_RATES, CAMERA_DELAY)
        ]
        if cameras.config.focal_length:
            adam = _row_adam(cameras.focal_adjustment, size, FOCAL_ADAM)
            self.cameras.append((adam, FOCAL_RATES, FOCAL_DELAY))

    def step(self, step: int) -> None:
        """Move everything that has a gradient, by the lengths of this step."""
        share = step / self.steps
        for group, (first, last) in zip(
            self.gaussians.param_groups, LEARNING_RATES.values(), strict=True
        ):
            group["lr"] = first * (last / first) ** share
        self.gaussians.step()
        self.gaussians.zero_grad()
        for optimizer, (first, last), delay in self.cameras:
            gone = max(0.0, share - delay) / (1 - delay)
            rise = min(1.0, max(0.0, share - delay) / RAMP)
            length = rise * first * (last / first) ** gone
            optimizer.param_groups[0]["lr"] = self.scene.photos.shrinking * length
            optimizer.step()
            optimizer.zero_grad()


def _row_adam(parameter: Tensor, size: float, options: dict) -> RowAdam:
    return RowAdam([parameter], lr=0.0, betas=options["betas"], eps=options["eps"] / size)
